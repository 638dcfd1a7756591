"""The text normaliser: spoken form out of written text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.text import UNKNOWN, as_said, normalise, problems_of, scoring_form

WRITTEN = st.one_of(
    st.text(max_size=40),
    st.text(alphabet=list("0123456789 :.,-/'$£€%°()[]<>aApPmMthsndrxJk½²é’–&٣"), max_size=40),
)


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("The year 1982", "the year nineteen eighty two"),
        ("in 1905", "in nineteen oh five"),
        ("July 29, 1969", "july twenty ninth nineteen sixty nine"),
        ("Sept. 5", "september fifth"),
        ("2024-03-05", "march fifth twenty twenty four"),
        ("the 1980s", "the nineteen eighties"),
        ("15213", "one five two one three"),
        ("007", "zero zero seven"),
        ("room 101", "room one hundred and one"),
        ("1,234", "one thousand two hundred and thirty four"),
        ("3000", "three thousand"),
        ("3.14", "three point one four"),
        ("412-268-3000", "four one two two six eight three zero zero zero"),
        ("call (412) 555-1234", "call four one two five five five one two three four"),
        ("7:30", "seven thirty"),
        ("7:05 a.m.", "seven oh five a m"),
        ("12:00", "twelve o'clock"),
        ("at 7pm", "at seven p m"),
        ("$5", "five dollars"),
        ("$1.50", "one dollar and fifty cents"),
        ("£3.2 million", "three point two million pounds"),
        ("25%", "twenty five percent"),
        ("3rd", "third"),
        ("-5°C", "minus five degrees celsius"),
        ("3½ cups", "three one half cups"),
        ("10–15 people", "ten to fifteen people"),
        ("B52", "b fifty two"),
    ],
)
def test_numbers_are_said_as_speakers_say_them(written: str, spoken: str) -> None:
    assert normalise(written) == spoken


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("J-O-H-N", "j o h n"),
        ("two O five", "two oh five"),
        ("one nine o o four o", "one nine oh oh four oh"),
        ("n o five, nine o clock, nine o k, o two", "n o five nine o clock nine o k o two"),
        ("J.O.H.N.", "j o h n"),
        ("J O H N", "j o h n"),
        ("JOHN", "john"),
        ("an x-ray of a T-shirt", "an x ray of a t shirt"),
        ("Don’t stop, it's 5 o'clock!", "don't stop it's five o'clock"),
        ("the dogs' 'quoted' bones", "the dogs quoted bones"),
        ("Naïve Café in Łódź", "naive cafe in lodz"),
        ("ＦＵＬＬ width", "full width"),
        ("[laughs] hello <noise> (music)", "hello"),
        ("Mr. Smith & co.", "mister smith and co"),
        ("", ""),
    ],
)
def test_words_keep_letters_and_inner_apostrophes_only(written: str, spoken: str) -> None:
    assert normalise(written) == spoken


@settings(max_examples=500, deadline=None)
@given(WRITTEN)
def test_english_comes_out_as_letters_apostrophes_and_single_spaces(text: str) -> None:
    spoken = normalise(text)
    assert re.fullmatch(r"(?:[a-z]+(?:'[a-z]+)*(?: (?!$)|$))*", spoken)


@settings(max_examples=500, deadline=None)
@given(WRITTEN)
def test_spoken_form_stays_as_it_is(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_other_languages_keep_their_letters() -> None:
    assert normalise("Das kostet 25 Euro – schön!", "de") == "das kostet fünfundzwanzig euro schön"


@pytest.mark.parametrize(
    ("text", "language", "kind"),
    [
        ("  ", "en", "empty transcript"),
        ("привет", "en", "another script"),
        ("hello", "ru", "another script"),
        ("... !", "en", "no words"),
        ("a " * 600, "en", "too long"),
        ("kuus 6", "xx", "digits"),
    ],
)
def test_unusable_text_is_refused_with_its_kind(text: str, language: str, kind: str) -> None:
    assert (problems_of(text, language) or "").split(":")[0] == kind


@pytest.mark.parametrize(("text", "language"), [("Hello, 12 cafés!", "en-US"), ("привет", "ru"), ("it’s", "en")])
def test_usable_text_has_no_problem(text: str, language: str) -> None:
    assert problems_of(text, language) is None


def test_scoring_unifies_okay_and_leaves_oh_and_zero_apart() -> None:
    assert scoring_form("OK, ok.") == scoring_form("okay okay")
    assert scoring_form("oh") != scoring_form("0")


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Turn on 5 lights!", "turn on five lights"),  # a to z: as English
        ("Включи 5 ламп IKEA!", "включи 5 ламп ikea"),
        ("Fünfzehn Uhr", "fünfzehn uhr"),
        ("fu\u0308nfzehn", "fünfzehn"),
        ("रोशनी जलाओ", "रोशनी जलाओ"),
        ("明かりをつけて。", "明かりをつけて"),
        ("?!", ""),
    ],
)
def test_where_nobody_told_the_language_the_letters_do(written: str, spoken: str) -> None:
    assert normalise(written, UNKNOWN) == spoken
    assert normalise(spoken, UNKNOWN) == spoken


@settings(max_examples=500, deadline=None)
@given(WRITTEN)
def test_english_in_spoken_form_needs_no_language(text: str) -> None:
    spoken = normalise(text)
    assert scoring_form(spoken, UNKNOWN) == scoring_form(spoken, "en")


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=20), st.sampled_from(["en", "de", "ru", UNKNOWN]))
def test_letters_never_come_to_nothing(text: str, language: str) -> None:
    if any(char.isalpha() for char in text) and normalise(text, UNKNOWN):  # what stands in brackets is not said
        assert as_said(text, language)
