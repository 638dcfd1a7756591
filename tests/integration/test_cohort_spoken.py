"""A cohort of synthetic speech by the command, with real eSpeak NG voices and DVC."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.cohorts.store import read_cohort
from stages.shards import iter_shard, list_shards
from tests.helpers_cohorts import make_project

pytestmark = pytest.mark.integration


def edgealign(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "cohort", "speak", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_words_are_spoken_listed_and_versioned_and_spoken_once(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=project.root, check=True)
    asked = ("commands", "--word", "rubout", "--word", "Dim the lights", "--voices", "2", "--each", "2")
    dry = edgealign(project.root, *asked, "--dry-run")
    assert dry.returncode == 0 and "would speak commands: 2 words, 4 utterances" in dry.stdout
    assert not project.cohort("commands").exists()

    done = edgealign(project.root, *asked)
    assert done.returncode == 0, done.stderr
    record = read_cohort(project.cohort("commands"))
    assert (record.utterances, len(record.users), record.made_by) == (4, 2, "edgealign cohort speak")
    assert record.consent["by"] == "synthetic voice"
    items = [item for shard in list_shards(project.cohort("commands")) for item in iter_shard(shard)]
    assert {word for item in items for word in (item.text or "").split()} == {"rubout", "dim", "the", "lights"}
    assert all(item.duration_s > 0.5 and not item.problem for item in items)
    params = yaml.safe_load((project.root / "params.yaml").read_text())
    for names in (params["cohorts"], params["base_cohorts"], params["pseudo_labels"]["untold_only"]):
        assert "commands" in names
    assert "commands" not in params["personal_cohorts"]
    assert (project.root / "data.dvc").is_file()

    (project.root / "data.dvc").unlink()  # as if the command had been stopped before DVC knew
    shards = {path.name: path.stat().st_mtime_ns for path in list_shards(project.cohort("commands"))}
    again = edgealign(project.root, *asked)
    assert again.returncode == 0 and "there already" in again.stdout
    assert (project.root / "data.dvc").is_file()
    assert {path.name: path.stat().st_mtime_ns for path in list_shards(project.cohort("commands"))} == shards

    other = edgealign(project.root, "commands", "--word", "erase")
    assert other.returncode == 1 and "--replace" in other.stderr
    assert read_cohort(project.cohort("commands")) == record
    both = edgealign(project.root, "commands", "--word", "erase", "--llm-words", "3")
    assert both.returncode == 2 and "give one of" in both.stderr

    (project.root / "params.yaml").write_text("{", encoding="utf-8")  # told before anything is spoken
    broken = edgealign(project.root, "names", "--word", "ann")
    assert broken.returncode == 1 and "params.yaml" in broken.stderr
    assert not project.cohort("names").exists()
