"""Who says what in a cohort of synthetic speech, and what cannot be said."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pipeline.cohorts.demo import base_voices
from pipeline.cohorts.speak import MADE_BY, Said, llm_words, plan, read_said, said_words, speak
from pipeline.cohorts.store import CohortRecord, write_record
from pipeline.project import Project
from stages.consent import make_consent
from stages.errors import InputError

VOICES = dict(list(base_voices().items())[:3])


def texts_of(said: Said, each: int | None = None) -> list[list[str]]:
    return [[speech.sentence.text for speech in user.speeches] for user in plan(said, each, VOICES)]


def test_every_word_is_said_twice_at_least_and_about_as_often_as_any_other() -> None:
    said = Said(tuple(f"w{number}" for number in range(100)), words=True)
    counts = Counter(word for texts in texts_of(said) for text in texts for word in text.split())
    assert set(counts) == set(said.texts) and min(counts.values()) >= 2 and max(counts.values()) <= 3
    assert texts_of(said) == texts_of(said)  # the same words, the same cohort
    assert [len(texts) for texts in texts_of(said, each=5)] == [5, 5, 5]


def test_every_voice_says_every_sentence_in_an_order_of_its_own_or_some_by_turns() -> None:
    said = Said(tuple(f"say {number}" for number in range(8)), words=False)
    whole = texts_of(said)
    assert all(sorted(texts) == sorted(said.texts) for texts in whole) and whole[0] != whole[1]
    some = texts_of(said, each=3)
    assert [len(texts) for texts in some] == [3, 3, 3]
    assert {text for texts in some for text in texts} == set(said.texts)


def test_utterances_have_ids_of_their_own() -> None:
    users = plan(Said(("a", "b"), words=False), None, VOICES)
    ids = [speech.utterance for user in users for speech in user.speeches]
    assert len(set(ids)) == len(ids) == 6
    assert all(speech.told for user in users for speech in user.speeches)


def test_ids_sort_as_the_utterances_follow_each_other_beyond_a_thousand() -> None:
    """A shard takes its utterances in ascending order alone."""
    for said in (Said(("a", "b"), words=True), Said(tuple(f"say {number}" for number in range(1001)), words=False)):
        for user in plan(said, 1001, VOICES):
            ids = [speech.utterance for speech in user.speeches]
            assert len(ids) == 1001 and ids == sorted(ids)
    assert (
        plan(Said(("a", "b"), words=True), 4, VOICES)[0].speeches[0].utterance.endswith("-000")
    )  # as it has always been


def test_no_utterance_is_longer_than_the_features_stage_takes() -> None:
    phrase = " ".join(f"w{number}" for number in range(15))
    said = Said(tuple(f"{phrase} {number}" for number in range(30)), words=True)
    spoken = [text for texts in texts_of(said) for text in texts]
    assert max(len(text.split()) for text in spoken) <= 40
    counts = Counter(text for one in spoken for text in said.texts if f"{text} " in f"{one} ")
    assert set(counts) == set(said.texts) and min(counts.values()) >= 2


def test_what_nobody_says_in_one_breath_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sentences.txt"
    path.write_text(f"go\n{'go on ' * 21}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"line 2: .*42 words when spoken, at most 40"):
        read_said(path, words=False)
    with pytest.raises(InputError, match="42 words"):
        said_words(["go", "go on " * 21])


def test_a_file_is_read_in_spoken_form(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("# commands\nRubout\n\nDim the lights!\nrubout\nRoom 101\n", encoding="utf-8")
    assert read_said(path, words=True).texts == ("rubout", "dim the lights", "room one hundred and one")


def test_every_line_that_cannot_be_said_is_named(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("go\n?!\nпривет\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"line 2: '\?!' .*line 3: 'привет' \(another script") as caught:
        read_said(path, words=False)
    assert "one sentence a line" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"\xff\xfe"])
def test_a_file_without_words_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_said(path, words=True)
    with pytest.raises(InputError, match="not readable"):
        read_said(tmp_path / "none.txt", words=True)


def test_without_the_llm_its_words_are_not_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dvc repro models"):
        llm_words(Project(tmp_path), 10)


def test_a_dry_run_tells_and_makes_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    assert not speak(Project(tmp_path), "commands", said_words(["Rubout"]), voices=2, dry_run=True, tell=told.append)
    assert told == ["would speak commands: 1 word, 8 utterances of 2 synthetic voices, about 0 min"]
    assert not list(tmp_path.iterdir())


def test_what_is_somebodys_stays(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for made_by, why in (("edgealign cohort add", "somebody's recordings"), (MADE_BY, "other words")):
        project.cohort("home").mkdir(parents=True, exist_ok=True)
        write_record(project.cohort("home"), CohortRecord("home", "en", make_consent(True), made_by, "x"))
        with pytest.raises(InputError, match=why):
            speak(project, "home", said_words(["go"]), dry_run=True)
    record = project.cohort("home") / "cohort.yaml"
    record.write_text("<<<<<<< HEAD\n", encoding="utf-8")  # it may hold recordings all the same
    with pytest.raises(InputError, match="cannot be read"):
        speak(project, "home", said_words(["go"]), dry_run=True)
    record.unlink()
    with pytest.raises(InputError, match="is missing or"):
        speak(project, "home", said_words(["go"]), dry_run=True)
    told: list[str] = []
    speak(project, "home", said_words(["go"]), dry_run=True, replace=True, tell=told.append)
    assert told[0].startswith("would speak home")
    with pytest.raises(InputError, match="a-z"):
        speak(project, "Home!", said_words(["go"]), dry_run=True)
