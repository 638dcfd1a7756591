"""Letters and words in one reading: what the letters bear out stays, what they say otherwise is spelled and corrected."""

from __future__ import annotations

import pytest

from stages.alignment.spelling import (
    Lexicon,
    SpellingRules,
    letter_tokens,
    one_reading,
    spelled,
    spelled_text,
    words_of_table,
)

TABLE = (
    " ",
    " the",
    "the",
    " Lamp",
    " lamp",
    " on",
    " l4mp",
    " lamp",
    *"abcdefghilmnoprstuvwxyz",
    "ll",
    "rr",
    "lm",
    " ll",
)
TABLE += tuple(f" {letter}" for letter in "abcdefghilmnoprstuvwxyz")


class TableTokenizer:
    """A token for each string of TABLE."""

    def __len__(self) -> int:
        return len(TABLE)

    def decode(self, ids: list[int]) -> str:
        return "".join(TABLE[token] for token in ids)


def text(ids: list[int]) -> str:
    return TableTokenizer().decode(ids)


def test_the_letter_vocabulary_has_single_and_doubled_letters_alone() -> None:
    found = letter_tokens(TableTokenizer())
    assert {"a", " a", "ll", "rr"} <= set(found)
    assert not set(found) & {"lm", " ll", " the", "the", " "}
    assert all(TABLE[token] == string for string, token in found.items())


def test_a_word_is_spelled_with_its_leading_space_and_doubles_as_one() -> None:
    letters = letter_tokens(TableTokenizer())
    assert [TABLE[token] for token in spelled("llama", letters)] == [" l", "l", "a", "m", "a"]
    assert [TABLE[token] for token in spelled("mirror", letters)] == [" m", "i", "rr", "o", "r"]
    assert text(spelled_text("it's a mill", letters)) == " its a mill"
    with pytest.raises(KeyError):
        spelled("naïve", letters)


def test_words_of_the_table_are_lower_case_and_in_its_order() -> None:
    assert words_of_table(TableTokenizer()) == ["the", "lamp"]


LEXICON = Lexicon(["wooden", "ladder", "lively", "pebble", "bubble", "kitchen"], ["takumi"])


@pytest.mark.parametrize(
    ("words", "letters", "read"),
    [
        # the letters bear the words out, wherever they cut them
        (
            "open the television in the kitchen",
            "open th ttelevisen in te kit chen",
            "open the television in the kitchen",
        ),
        # words that are nowhere in the letters go, and what was spelled is corrected
        ("start on speaker", "wodens laddr lively peble", "wooden ladder lively pebble"),
        # a listed name, cut in a wrong place, is found behind the words that were read
        ("send a message to", "send a message to ta cumi", "send a message to takumi"),
        # a spelling that is near no word stays as it was heard
        ("play", "play zqxv", "play zqxv"),
        # nothing heard by the speller overrules nothing
        ("play the radio", "", "play the radio"),
        # and one stray letter is noise
        ("play the radio", "play x the radio", "play the radio"),
        # letters picked from here and there bear no word out
        ("cat", "chandelabrant", "chandelabrant"),
    ],
)
def test_one_reading(words: str, letters: str, read: str) -> None:
    assert one_reading(words, letters, LEXICON) == read


def test_of_two_words_as_near_the_more_common_is_taken_and_a_listed_one_before_both() -> None:
    rules = SpellingRules()
    assert Lexicon(["pebble", "bubble"]).corrected("pubble", rules) == "pebble"
    assert Lexicon(["bubble", "pebble"]).corrected("pubble", rules) == "bubble"
    assert Lexicon(["bubble"], ["pebbly"]).corrected("pubble", rules) == "pebbly"


def test_what_is_too_far_from_every_word_is_not_corrected() -> None:
    assert Lexicon(["kitchen"]).corrected("kitten", SpellingRules(near=0.2)) == "kitten"
    assert Lexicon(["kitchen"]).corrected("kichen", SpellingRules(near=0.2)) == "kitchen"
