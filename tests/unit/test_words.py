"""``words``: what is listened for is kept, told and forgotten, by project and by device."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cohorts.erasure.private import _clean_words
from pipeline.project import Project
from pipeline.words import word_list, word_lists, words_for
from pipeline.words_cli import app
from stages.errors import InputError
from stages.word_list import WordList


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    (tmp_path / "params.yaml").write_text((Path(__file__).parents[2] / "params.yaml").read_text())
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def test_words_are_kept_in_spoken_form_by_user_and_privately(project: Project) -> None:
    assert word_list(project).add(["Tuuli", "Anna Maria", "tuuli"]) == (["tuuli", "anna maria"], [])
    assert word_list(project).add(["Tuuli", "O'Hara"]) == (["o'hara"], ["tuuli"])
    word_list(project, "far/ann").add(["bjorn"])
    assert words_for(project, None) == ["anna maria", "o'hara", "tuuli"]
    assert words_for(project, "far/ann") == ["anna maria", "bjorn", "o'hara", "tuuli"]
    assert [(one.owner, one.read()) for one in word_lists(project)][1] == ("far/ann", ["bjorn"])
    assert stat.S_IMODE(word_list(project, "far/ann").path.stat().st_mode) == 0o600


def test_one_word_that_cannot_be_said_adds_none(project: Project) -> None:
    for bad in ("北京", "  "):
        with pytest.raises(InputError, match="cannot be said"):
            word_list(project).add(["tuuli", bad])
    assert word_lists(project) == []


def test_one_word_that_is_not_there_removes_none(project: Project) -> None:
    words = word_list(project)
    words.add(["tuuli", "bjorn"])
    with pytest.raises(InputError, match="elif: not among the words of everyone, which are: bjorn, tuuli"):
        words.remove(["tuuli", "elif"])
    assert words.read() == ["bjorn", "tuuli"]
    words.remove(["Tuuli", "bjorn"])
    assert not words.path.exists()


@pytest.mark.parametrize("content", ['{"a": 1}', "[5]", "not json", ""])
def test_a_damaged_list_says_how_to_mend_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "words.json").write_text(content)
    with pytest.raises(InputError, match="Delete it, and add the words again"):
        WordList(tmp_path / "words.json", "ann").read()


def test_the_commands_tell_what_they_did(project: Project) -> None:
    run = CliRunner()
    assert "nothing yet" in run.invoke(app, ["list"]).output
    assert "listens for tuuli (everyone)" in run.invoke(app, ["add", "Tuuli"]).output
    assert "was there already: tuuli" in run.invoke(app, ["add", "tuuli"]).output
    assert "tuuli" in run.invoke(app, ["list"]).output
    assert "no longer: tuuli (everyone)" in run.invoke(app, ["remove", "tuuli"]).output
    assert isinstance(run.invoke(app, ["add", "x", "--user", "nobody"]).exception, InputError)


def test_a_person_who_is_forgotten_leaves_everyones_list_and_the_others_words_stay(tmp_path: Path) -> None:
    class Matcher:
        names = ("Fash",)

        def in_text(self, text: str) -> bool:
            return text == "fash-01"

    words = WordList(tmp_path / "everyone.json", "everyone")
    _clean_words(words.path, Matcher())  # type: ignore[arg-type]  # all that is asked of one
    words.path.write_text('["fash", "fash-01", "tuuli"]')
    _clean_words(words.path, Matcher())  # type: ignore[arg-type]  # as above
    assert words.read() == ["tuuli"]
    words.path.write_text('{"fash": 1}')
    _clean_words(words.path, Matcher())  # type: ignore[arg-type]  # as above
    assert not words.path.exists()
