"""Transcripts of a cohort: characters outside the language, and texts that are almost the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from rapidfuzz import fuzz

from stages.cohort_report_near import NEIGHBOURS, TEXT_SIMILARITY, WORD_SIMILARITY, Pairs, near_duplicates
from stages.cohort_report_texts import characters, outside_language, spoken_sizes


def places(pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


@pytest.mark.parametrize(
    ("text", "language", "outside"),
    [
        ("What's that? It's 5 % of $20, isn't it: “yes” – no!", "en", {}),
        ("café naïve Übung", "en", {}),  # accents are folded
        ("[noise] hello <unk>", "en", {}),
        ("привет hi", "en", dict.fromkeys("привет", "another script")),
        ("привет hi", "ru", {"h": "another script", "i": "another script"}),
        ("well 😀 done", "en", {"😀": "not spoken"}),
        ("caf\ufffd \x07 \u200b", "en", {"\ufffd": "not spoken", "\x07": "not spoken", "\u200b": "not spoken"}),
        ("20 € zwei", "de", {"€": "not spoken"}),  # normalise would lose it
        ("wa' 5", "tlh", {"5": "digits"}),
        ("می‌خواهم", "fa", {}),  # its joiner belongs there
        ("", "en", {}),
    ],
)
def test_characters_outside_the_language(text: str, language: str, outside: dict[str, str]) -> None:
    assert outside_language([text], language) == outside


def test_characters_are_counted_by_utterance_and_by_occurrence() -> None:
    rows, affected = characters(["fine", "д and д", "д"], np.array([5, 2, 3]), "en")
    assert affected.tolist() == [False, True, True]
    assert [(row["char"], row["times"], row["utterances"], row["example"]) for row in rows] == [("д", 7, 5, "д and д")]
    assert rows[0]["name"] == "cyrillic small letter de"


def test_the_most_frequent_character_comes_first() -> None:
    rows, _ = characters(["ж", "д", "д ж"], np.array([1, 9, 1]), "en")
    assert [row["char"] for row in rows] == ["д", "ж"]


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        ("turn on the light", "turn on the lihgt", "light / lihgt"),
        ("paint it in this colour", "paint it in this color", "colour / color"),
        ("yes", "yess", "yes / yess"),
        ("on the light turn", "turn on the light", "the order of the words"),
        ("i can not do that", "i cannot do that", "the spaces"),
        ("remind me to call my mother tomorrow", "remind me to call my old mother tomorrow", "+ old"),
        ("set a timer for five minutes", "set a timer for nine minutes", None),  # another command
        ("call anna", "call bob", None),
        ("stop", "please stop", None),
        ("turn of the ligth", "turn off the light", None),  # two words differ
    ],
)
def test_texts_that_are_almost_the_same(one: str, other: str, differs: str | None) -> None:
    for first, second in ((one, other), (other, one)):
        pairs = near_duplicates([first, second])
        assert places(pairs) == ([] if differs is None else [(0, 1)])
        words = differs.split(" / ") if differs else []
        assert differs is None or pairs.differs(0) == " / ".join(words if first == one else words[::-1])


def test_texts_without_spaces_are_compared_letter_by_letter() -> None:
    texts = ["今天天气很好我们去公园", "今天天气很好我们去公圆园", "完全不同的一句话"]
    assert places(near_duplicates(texts, "zh")) == [(0, 1)]
    letters, words = spoken_sizes(texts, "zh")
    assert letters.tolist() == words.tolist() == [11, 12, 8]


def test_letters_and_words_are_counted() -> None:
    letters, words = spoken_sizes(["turn it off", "", "no"], "en")
    assert (letters.tolist(), words.tolist()) == ([9, 0, 2], [3, 0, 1])


@pytest.mark.parametrize("texts", [[], ["alone"], ["", "x"]])
def test_few_texts_have_no_pairs(texts: list[str]) -> None:
    assert len(near_duplicates(texts)) == 0


def one_word_apart(one: str, other: str) -> bool:
    """The definition, pair by pair."""
    short, long = sorted((one.split(), other.split()), key=len)
    without = [long[:i] + long[i + 1 :] for i in range(len(long))]
    if len(short) + 1 == len(long):
        size = [sum(map(len, words)) + len(words) for words in (short, long)]
        return short in without and 200 * size[0] / sum(size) >= TEXT_SIMILARITY
    return len(short) == len(long) and any(
        short[:j] + short[j + 1 :] == left and fuzz.ratio(long[i], short[j]) >= WORD_SIMILARITY
        for i, left in enumerate(without)
        for j in range(len(short))
    )


def firsts(texts: list[str], form: Callable[[str], str]) -> set[tuple[int, int]]:
    """Pairs of texts of the same ``form``: each with the first of them."""
    groups: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        groups.setdefault(form(text), []).append(place)
    return {(group[0], place) for group in groups.values() for place in group[1:]}


def variants(text: str, rng: random.Random) -> list[str]:
    """The text with a slip of the pen, a word more, two words exchanged, and two words written as one."""
    words = text.split()
    place = rng.randrange(len(words))
    word = words[place]
    slip = word[: len(word) // 2] + rng.choice("aeiou") + word[len(word) // 2 :]
    exchanged = words[:]
    rng.shuffle(exchanged)
    return [
        " ".join([*words[:place], slip, *words[place + 1 :]]),
        " ".join([*words[:place], rng.choice("abcdef"), *words[place:]]),
        " ".join(exchanged),
        text.replace(" ", "", 1),
    ]


def test_the_fast_way_finds_what_comparing_each_with_each_finds() -> None:
    rng = random.Random(3)
    vocabulary = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 8))) for _ in range(200)]
    plain = [" ".join(rng.choices(vocabulary, k=rng.randint(1, 8))) for _ in range(150)]
    texts = sorted({*plain, *(variant for text in plain for variant in variants(text, rng))})
    apart = {pair for pair in combinations(range(len(texts)), 2) if one_word_apart(*(texts[place] for place in pair))}
    slow = apart | firsts(texts, lambda t: " ".join(sorted(t.split()))) | firsts(texts, lambda t: t.replace(" ", ""))
    assert len(slow) > 300
    assert set(places(near_duplicates(texts))) == slow


def test_in_a_crowd_alphabetical_neighbours_are_compared() -> None:
    names = [
        f"{first}{last}" for first in "bcdfghjklm" for last in ("arnold", "eleonore", "ingrid", "oswald", "ulrike")
    ]
    texts = [f"call {name} now" for name in [*names, "carnolld", "qbarnold"]]  # a letter more within, and at the start
    found = {frozenset((texts[one], texts[other])) for one, other in places(near_duplicates(texts))}
    assert frozenset(("call carnold now", "call carnolld now")) in found
    assert frozenset(("call barnold now", "call qbarnold now")) in found
    assert len(found) < len(texts) * NEIGHBOURS * 2


def test_a_grammar_with_one_slot_is_not_compared_each_with_each() -> None:
    texts = [f"dial extension {number:06d} please" for number in range(4_000)]
    assert len(near_duplicates(texts)) <= 2 * NEIGHBOURS * len(texts)
