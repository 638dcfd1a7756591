"""A row's file lies in the folder of recordings and is there, or the row has its reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers_sources import touch

from pipeline.cohorts.sources.places import Places
from stages.errors import InputError


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    folder = touch(tmp_path / "audio", "a.wav", "ann/1.wav", "LOUD.WAV", "dir.wav/inner.txt").resolve()
    touch(tmp_path, "outside.wav", "audio-too/b.wav", "beyond/c.wav")
    (folder / "out.wav").symlink_to(tmp_path / "outside.wav")
    (folder / "out").symlink_to(tmp_path / "beyond")
    (folder / "in.wav").symlink_to(folder / "a.wav")
    (folder / "people").symlink_to(folder / "ann")
    (folder / "loop.wav").symlink_to(folder / "loop.wav")
    (folder / "dead.wav").symlink_to(folder / "nothing.wav")
    os.mkfifo(folder / "queue.wav")
    return folder


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("a.wav", "a.wav"),
        ("./a.wav", "a.wav"),
        ("ann/../a.wav", "a.wav"),
        ("ann//1.wav", "ann/1.wav"),
        ("../audio/a.wav", "a.wav"),
        ("{audio}/ann/1.wav", "ann/1.wav"),
        ("in.wav", "a.wav"),
        ("people/1.wav", "ann/1.wav"),
        ("people/../a.wav", "a.wav"),
        ("loud.wav", ""),
        ("LOUD.wav", "LOUD.WAV"),
        ("a.WAV", "a.wav"),
        ("ann\\1.wav", "ann/1.wav"),
    ],
)
def test_what_is_inside_is_found(audio: Path, given: str, found: str) -> None:
    places = Places(audio)
    for _ in range(2):  # the second time from what is remembered
        if found:
            assert places.find(given.format(audio=audio)) == f"{audio}/{found}"
        else:
            with pytest.raises(InputError, match="no such file"):
                places.find(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("../outside.wav", "leaves the folder"),
        ("../audio-too/b.wav", "leaves the folder"),
        ("ann/../../outside.wav", "leaves the folder"),
        ("..", "leaves the folder"),
        ("../gone.wav", "leaves the folder"),
        ("/etc/passwd", "leaves the folder"),
        ("/etc/passwd", "--audio (/etc"),
        ("//etc/passwd", "leaves the folder"),
        ("/", "leaves the folder"),
        ("/x.wav", "leaves the folder"),
        ("out.wav", "leaves the folder"),
        ("out/c.wav", "leaves the folder"),
        ("out/../outside.wav", "leaves the folder"),
        ("..\\outside.wav", "leaves the folder"),
        ("gone.wav", "no such file"),
        ("gone/1.wav", "no such file"),
        ("a.wav/1.wav", "no such file"),
        ("dead.wav", "no such file"),
        ("loop.wav", "no file"),
        ("ann", "no file"),
        ("dir.wav", "no file"),
        ("ann/", "no file"),
        (".", "no file"),
        ("queue.wav", "no file"),
        ("x" * 300, "File name too long"),
        ("x/" * 3000, "6000 characters"),
        ("a\0.wav", "no text"),
        ("a\udcff.wav", "no text"),
    ],
)
def test_what_is_not_has_its_reason(audio: Path, given: str, said: str) -> None:
    places = Places(audio, [audio.parent / "beyond", audio.parent])
    for _ in range(2):
        with pytest.raises(InputError) as caught:
            places.find(given)
        assert said in str(caught.value)


def test_paths_may_be_relative_to_the_folder_of_the_table(audio: Path) -> None:
    places = Places(audio, [audio.parent])
    assert places.find("audio/ann/1.wav") == f"{audio}/ann/1.wav"
    assert places.parent_name("audio/ann/1.wav") == "ann"
    assert places.in_subfolder("audio/ann/1.wav")
    assert not places.in_subfolder("audio/a.wav")
    with pytest.raises(InputError, match=r"no such file|leaves the folder"):
        places.find("beyond/c.wav")


def test_a_linked_folder_of_recordings_is_a_folder(audio: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(audio)
    assert Places(tmp_path / "link").find("a.wav") == f"{audio}/a.wav"


def test_a_user_is_called_as_the_path_says_not_as_a_link_ends(audio: Path) -> None:
    places = Places(audio)
    assert places.parent_name("people/1.wav") == "people"
    assert places.parent_name("a.wav") == "audio"
    assert places.parent_name("out/c.wav") == ""


def test_what_is_remembered_has_a_limit(audio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cohorts.sources.places.MAX_FOLDERS", 10)
    places = Places(audio)
    for number in range(100):
        with pytest.raises(InputError):
            places.find(f"{number}/x.wav")
    assert len(places._folders) <= 10
    assert places.find("ann/1.wav")
