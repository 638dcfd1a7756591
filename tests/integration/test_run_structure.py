"""What a stage's run holds, from the records that the stages of a small project leave in the spool."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.project import Project
from pipeline.runs.inputs import dvc_md5, inputs_of, paths_read
from pipeline.runs.recorded import recorded, settings_read
from pipeline.settings import load_settings
from pipeline.tracking.record import Record
from pipeline.tracking.spool import Spool
from stages.errors import InputError, ModelError
from tests.helpers_adapters import SPEAKERS, Away, build, context_of

ROOT = Path(__file__).resolve().parents[2]
USERS = ("ann", "bob", "cid")

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("structure") / "project"
    made = build(folder, {"house": SPEAKERS})
    shutil.copy(ROOT / "dvc.yaml", folder)
    return made


def records(project: Project) -> dict[str, Record]:
    spool = Spool(project.private / "spool")
    return {record.name: record for record in map(spool.read, spool.waiting())}


def test_a_person_finds_each_run_by_its_name(project: Project) -> None:
    found = records(project)
    assert set(found) == {
        *("second_labels@house", "personalize@house", "evaluate@house"),
        *(f"{stage}@house/{user}" for stage in ("personalize", "evaluate") for user in USERS),
    }
    for name, record in found.items():
        above = [ancestor.name for ancestor in record.ancestors]
        assert above == (["command", name.rpartition("/")[0]] if "/" in name else ["command"])


def test_tags_tell_who_where_and_of_what(project: Project) -> None:
    for name, record in records(project).items():
        tags = record.tags
        if name.startswith("second_labels"):  # everybody's words are transcribed: no device did anything
            assert (tags["cohort"], "device" in tags) == ("house", False)
            continue
        assert (tags["cohort"], tags["method"]) == ("house", "shira"), name
        assert (tags["device_kind"], bool(tags["device"])) == ("virtual", True), name
        assert {"git_commit", "data_md5", "stage", "host"} <= set(tags), name
        assert tags.get("user") == (name.rpartition("/")[2] if "/" in name else None)


def test_a_run_names_its_inputs_by_dvcs_md5(project: Project) -> None:
    found = records(project)["evaluate@house"]
    told = {item.name: item.digest for item in found.datasets}
    assert set(told) == {
        *("artifacts/adapters/base", "artifacts/adapters/house", "artifacts/features/house"),
        *("artifacts/second_labels/house.parquet", "models/llm"),
    }
    labels = project.second_labels("house").read_bytes()
    assert told["artifacts/second_labels/house.parquet"] == hashlib.md5(labels).hexdigest()
    assert {f"dvc_md5.{name}": digest for name, digest in told.items()}.items() <= found.tags.items()
    mine = records(project)["evaluate@house/ann"]
    judged = json.loads(project.evaluation("house").read_text())["users"]["ann"]["held_out_sha256"]
    assert [(item.name, item.digest) for item in mine.datasets] == [("house/ann", judged[:36])]


def test_a_run_tells_every_setting_that_its_stage_reads(project: Project) -> None:
    params = records(project)["personalize@house"].params
    section = yaml.safe_load((project.root / "params.yaml").read_text())["personalize"]
    assert {f"personalize.{name}": str(value) for name, value in section.items()}.items() <= params.items()
    assert params["alignment.embedding_weight"] == "0.1"
    assert {"encoder", "llm", "base", "ray.task_retries"} <= set(params)
    assert not [name for name in params if name.startswith(("evaluate", "tracking", "check"))]
    assert params.items() <= records(project)["personalize@house/ann"].params.items()


def test_what_dvc_lists_is_what_the_run_tells(project: Project) -> None:
    """For every stage of dvc.yaml: its params as parameters, its deps as datasets."""
    context = context_of(project, Away())
    settings = load_settings(project.root).model_copy(update={"base_cohorts": ["house"]})
    for stage, described in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        told = settings_read(context, stage)
        for name in described.get("params", []):
            if name not in ("base_cohorts", "personal_cohorts"):
                assert any(key == name or key.startswith(f"{name}.") for key in told), (stage, name)
        wanted = {dep.replace("${item.cohort}", "house") for dep in described.get("deps", [])}
        read = {path.relative_to(project.root).as_posix() for path in paths_read(project, settings, stage, "house")}
        covered = {dep for dep in wanted if any(path == dep or path.startswith(f"{dep}/") for path in read)}
        assert covered == wanted, stage
        assert all(any(path == dep or path.startswith(f"{dep}/") for dep in wanted) for path in read), stage


def test_a_stage_that_is_refused_leaves_a_failed_run_with_its_error(project: Project) -> None:
    from pipeline.runs import base_inputs, features

    context = context_of(project, Away())
    with pytest.raises(InputError, match="base_cohorts is empty"):
        base_inputs.run(context)
    with pytest.raises(ModelError, match="needed a prepared model"):
        features.run(context, "nobody")
    found = records(project)
    assert {found[name].status for name in ("base_inputs", "features@nobody")} == {"FAILED"}
    assert "InputError: params.yaml: base_cohorts is empty" in found["base_inputs"].tags["error"]
    assert [name for name, *_ in found["base_inputs"].metrics if name == "system/cpu_utilization_percentage"]
    spool = Spool(project.private / "spool")
    for folder in spool.waiting():
        if spool.read(folder).name in ("base_inputs", "features@nobody"):
            spool.remove(folder)


def test_inputs_that_cannot_be_read_do_not_stop_a_stage(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: Any) -> Any:
        raise PermissionError("not for you")

    monkeypatch.setattr("pipeline.runs.recorded.inputs_of", refuse)
    with recorded(context_of(project, Away()), "evaluate", "house") as run:
        run.metrics({"went_on": 1})
    assert "goes without its inputs: not for you" in caplog.text
    spool = Spool(project.private / "spool")
    spool.remove(spool.waiting()[-1])


def test_the_md5_is_what_dvc_itself_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder, a file, and a cohort inside data/, which DVC tracks as one."""

    def dvc(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    for name in ("data/cohorts/house/b.tar", "data/cohorts/house/a/x.yaml", "data/cohorts/other/c.tar", "models/llm/m"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    stages = {
        "features": {
            "cmd": "mkdir -p artifacts/features/house && echo 1 > artifacts/features/house/f",
            "deps": ["data/cohorts/house", "models/llm"],
            "outs": ["artifacts/features/house"],
        }
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (tmp_path / "params.yaml").write_text("cohorts: [house]\nbase_cohorts: []\npersonal_cohorts: []\n")
    dvc("init", "--no-scm", "--quiet")
    dvc("add", "--quiet", "data")
    dvc("repro", "--quiet")
    lock = yaml.safe_load((tmp_path / "dvc.lock").read_text())["stages"]["features"]
    theirs = {item["path"]: item["md5"] for item in [*lock["deps"], *lock["outs"]]}
    assert {name: dvc_md5(tmp_path / name) for name in theirs} == theirs
    # under DVC nothing is hashed again: what lies on the disk is not even looked at
    project, settings = Project(tmp_path), load_settings(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "features@house")
    (tmp_path / "data" / "cohorts" / "house" / "b.tar").write_text("changed behind DVC's back")
    told = {item.path: item.md5 for item in inputs_of(project, settings, "features", "house")}
    assert told["data/cohorts/house"] == theirs["data/cohorts/house"]
    told = {item.path: item.md5 for item in inputs_of(project, settings, "personalize", "house")}
    assert told["artifacts/features/house"] == theirs["artifacts/features/house"]
    monkeypatch.delenv("DVC_STAGE")
    told = {item.path: item.md5 for item in inputs_of(project, settings, "features", "house")}
    assert told["data/cohorts/house"] != theirs["data/cohorts/house"]
