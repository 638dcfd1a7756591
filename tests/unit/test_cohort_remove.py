"""A cohort leaves the project with everything that was made of it, and nothing of another one goes."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_cohorts import hashes, make_project, make_recordings

from pipeline.cohorts.add import Options, add_cohort
from pipeline.cohorts.remove import remove_cohort
from pipeline.cohorts.store import list_in_params, list_of_params
from pipeline.project import Project
from pipeline.settings import load_settings
from stages.errors import InputError


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Two cohorts with traces of every stage."""
    project = make_project(tmp_path / "project")
    for name, user in (("team", "ann"), ("other", "bob")):
        audio = make_recordings(tmp_path / name, [user], 2, first=ord(user[0]))
        add_cohort(project, name, audio, Options(workers=0), tell=lambda line: None)
        list_in_params(project, name, base=True, personal=True)
        made = (
            project.features(name) / "shard-00000.parquet",
            project.transcripts(name) / "shard-00000.parquet",
            project.labels(name),
            project.read_outs(name) / "shard-00000.parquet",
            project.second_labels(name),
            project.adapters(name) / user / "adapter.json",
            project.evaluation(name),
            project.metrics(name),
            project.private / "check" / f"{name}.html",
        )
        for path in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"made of {name}")
    return project


def traces(project: Project, name: str) -> dict[str, str]:
    return {path: digest for path, digest in hashes(project.root).items() if name in Path(path).as_posix()}


def test_everything_of_the_cohort_goes_and_nothing_else(project: Project) -> None:
    other = traces(project, "other")
    said: list[str] = []
    assert remove_cohort(project, "team", tell=said.append)
    assert set(traces(project, "team")) == {".edgealign/incoming/team.lock"}
    assert traces(project, "other") == other
    assert list_of_params(project, "team") == []
    assert load_settings(project.root).cohorts[-1] == "other"
    assert any("2 utterances of 1 user(s)" in line for line in said)


@pytest.mark.parametrize(("dry_run", "answer"), [(True, True), (False, False)])
def test_nothing_goes_in_a_dry_run_or_without_a_yes(project: Project, dry_run: bool, answer: bool) -> None:
    before = hashes(project.root)
    said: list[str] = []
    assert not remove_cohort(project, "team", dry_run=dry_run, confirm=lambda question: answer, tell=said.append)
    assert hashes(project.root) == before
    assert any("data/cohorts/team" in line for line in said)
    assert any("params.yaml" in line for line in said)


def test_a_cohort_that_is_not_there_is_told(project: Project) -> None:
    with pytest.raises(InputError, match="cohort list"):
        remove_cohort(project, "nobody", tell=lambda line: None)


def test_a_removed_cohort_can_come_in_again(project: Project, tmp_path: Path) -> None:
    before = hashes(project.cohort("team"))
    remove_cohort(project, "team", tell=lambda line: None)
    add_cohort(project, "team", tmp_path / "team", Options(workers=0), tell=lambda line: None)
    assert hashes(project.cohort("team")) == before
