"""The reading of a transcript that is kindest to the cascade."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.alignment.metrics import word_errors
from stages.text import fair_cascade, from_transcriber, scoring_form

WORDS = st.sampled_from("a b o k j n the john okay rubout rub out enter twenty one two oh zero nine hundred".split())
REFERENCES = st.lists(WORDS, max_size=7).map(" ".join)
HYPOTHESES = st.lists(
    st.one_of(WORDS, st.sampled_from(["JOHN", "J-O-H-N.", "2001", "1,209", "21st", "PI5", "7:30 a.m.", "$5", "?"])),
    max_size=6,
).map(" ".join)


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("one five two one three", "15213."),
        ("one five two one three", "1-5-2-1-3"),
        ("two five oh two", "2502"),
        ("two fifteen sixty two", "21562"),
        ("enter four twenty one", "Enter 421."),
        ("four thousand seven hundred twenty three", "4,723"),
        ("one hundred and one", "101"),
        ("one hundred one", "101"),
        ("july twenty nine nineteen sixty nine", "July 29, 1969."),
        ("july twenty ninth nineteen oh nine", "July 29 1909"),
        ("w r i g h t", "Wright."),
        ("w r i g h t", "W-R-I-G-H-T"),
        ("p u x p i five", "PUX PI5."),
        ("rubout m v o o forty six", "Rub out, MVOO46."),
        ("erase o k t two eight", "Erase okay T, 2-8."),
        ("seven thirty a m", "7:30 AM"),
        ("five dollars", "$5"),
        ("snow", "S-N-O-W"),
        ("okay", "OK!"),
    ],
)
def test_another_way_to_write_what_was_said_is_no_error(said: str, written: str) -> None:
    assert fair_cascade(said, written) == said


@pytest.mark.parametrize(
    ("said", "written", "errors"),
    [
        ("two fifteen sixty two", "to 1562", 1),
        ("p h i l l i p s", "PHILIPS", 1),
        ("one five two one three", "1523", 1),
        ("rubout m forty six", "Robot M46", 1),
        ("yes", "", 1),
        ("stop", "S T A R T", 1),
    ],
)
def test_a_mishearing_stays_an_error(said: str, written: str, errors: int) -> None:
    assert word_errors([said], [fair_cascade(said, written)]).errors >= errors


@settings(max_examples=400, deadline=None)
@given(REFERENCES, HYPOTHESES)
def test_never_worse_than_the_plain_reading(said: str, written: str) -> None:
    assert word_errors([said], [fair_cascade(said, written)]).errors <= word_errors([said], [written]).errors


@settings(max_examples=200, deadline=None)
@given(REFERENCES)
def test_a_perfect_transcript_has_no_error(said: str) -> None:
    assert fair_cascade(said, said) == scoring_form(said)


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Erase NTDIC 591.", "erase n t d i c five hundred and ninety one"),
        ("GABH2.", "g a b h two"),
        ("OK, I am at NASA.", "ok i am at nasa"),
        ("Stop.", "stop"),
    ],
)
def test_capitals_of_a_transcriber_are_letters(written: str, spoken: str) -> None:
    assert from_transcriber(written) == spoken


@pytest.mark.parametrize(
    ("said", "written", "language"),
    [
        ("fünfzehn uhr", "15 Uhr.", "de"),
        ("schön", "Schön!", "und"),
        ("включи пять ламп", "Включи 5 ламп.", "ru"),
        ("включи свет", "Включи свет.", "und"),
        ("включи свет", "Включи свет.", "en"),  # told wrongly
        ("five cafes", "5 cafés", "en-US"),
        ("five cafes", "5 cafés", "und"),  # the reference is English
    ],
)
def test_each_language_is_read_as_it_is_said(said: str, written: str, language: str) -> None:
    assert fair_cascade(said, written, language) == said


def test_a_transcript_in_another_script_than_was_said_stays_an_error() -> None:
    assert fair_cascade("turn on", "включи") == "включи"
    assert word_errors(["turn on"], [fair_cascade("turn on", "включи")]).errors == 2
