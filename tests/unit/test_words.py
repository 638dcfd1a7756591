"""``edgealign words``: what is listened for is kept, told and forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.project import Project
from pipeline.words import add_words, read_words, remove_words, words_file, words_for
from pipeline.words_cli import app
from stages.errors import InputError


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    (tmp_path / "params.yaml").write_text((Path(__file__).parents[2] / "params.yaml").read_text())
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def test_words_are_kept_in_spoken_form_by_user(project: Project) -> None:
    assert add_words(project, ["Tuuli", "Anna Maria", "tuuli"]) == (["tuuli", "anna maria"], [])
    assert add_words(project, ["Tuuli", "Zoë"]) == (
        ["zoë"] if "zoë" in words_for(project, None) else ["zoe"],
        ["tuuli"],
    )
    add_words(project, ["bjorn"], "far/ann")
    assert "bjorn" not in words_for(project, None)
    assert "bjorn" in words_for(project, "far/ann")
    assert "tuuli" in words_for(project, "far/ann")


def test_one_word_that_cannot_be_said_adds_none(project: Project) -> None:
    with pytest.raises(InputError, match="cannot be said"):
        add_words(project, ["tuuli", "北京"])
    with pytest.raises(InputError, match="cannot be said"):
        add_words(project, ["  "])
    assert read_words(project) == {}


def test_one_word_that_is_not_there_removes_none(project: Project) -> None:
    add_words(project, ["tuuli", "bjorn"])
    with pytest.raises(InputError, match="elif: not among the words of everyone, which are: bjorn, tuuli"):
        remove_words(project, ["tuuli", "elif"])
    assert words_for(project, None) == ["bjorn", "tuuli"]
    remove_words(project, ["Tuuli", "bjorn"])
    assert read_words(project) == {}


def test_a_damaged_list_says_how_to_mend_it(project: Project) -> None:
    words_file(project).parent.mkdir()
    words_file(project).write_text('{"everyone": 5}')
    with pytest.raises(InputError, match="Mend or delete it"):
        read_words(project)


def test_the_command_tells_what_it_did(project: Project) -> None:
    run = CliRunner()
    assert "nothing yet" in run.invoke(app, ["list"]).output
    assert "listens for tuuli (everyone)" in run.invoke(app, ["add", "Tuuli"]).output
    assert "was there already: tuuli" in run.invoke(app, ["add", "tuuli"]).output
    assert "tuuli" in run.invoke(app, ["list"]).output
    assert "no longer: tuuli" in run.invoke(app, ["remove", "tuuli"]).output
