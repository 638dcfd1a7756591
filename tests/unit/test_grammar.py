"""The demo cohorts' sentences: spoken form, coverage, and no sentence in two cohorts."""

from __future__ import annotations

import string
from collections import Counter

import pytest

from pipeline.cohorts import wordlists
from pipeline.cohorts.demo import BASE_RULES, BASE_UTTERANCES, DemoUser, Speech, plans, recipe_hash, ssml
from pipeline.cohorts.grammar import DIGITS, ORDINALS, RULES, SPOKEN_FORM, TEENS, TENS, Grammar, Sentence, is_letter

PLANS = plans()


def texts(cohort: str) -> list[str]:
    return [speech.sentence.text for user in PLANS[cohort] for speech in user.speeches]


def heard(cohort: str) -> Counter[str]:
    return Counter(word for text in texts(cohort) for word in text.split())


@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_makes_spoken_form(rule: str) -> None:
    grammar = Grammar("test")
    assert all(SPOKEN_FORM.match(grammar.sentence(rule).text) for _ in range(100))


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "control"])
def test_a_rule_never_repeats_itself(rule: str) -> None:
    grammar = Grammar("test")
    made = [grammar.sentence(rule).text for _ in range(150)]
    assert len(set(made)) == len(made)


def test_the_grammar_has_thousands_of_sentences() -> None:
    grammar = Grammar("test")
    made = {grammar.sentence(rule).text for rule in ("command", "question", "code", "date") for _ in range(600)}
    assert len(made) == 2_400


def test_the_same_seed_gives_the_same_sentences_and_another_seed_others() -> None:
    def draw(seed: str) -> list[str]:
        grammar = Grammar(seed)
        return [grammar.sentence("command").text for _ in range(20)]

    assert draw("a") == draw("a") != draw("b")


def test_no_sentence_is_in_two_cohorts() -> None:
    base, quiet, far = (set(texts(name)) for name in ("base-synthetic", "quiet-voices", "far-accents"))
    assert not base & quiet
    assert not base & far
    assert not quiet & far


def test_personal_cohorts_use_words_that_the_base_has_heard() -> None:
    assert set(heard("quiet-voices")) | set(heard("far-accents")) <= set(heard("base-synthetic"))


def test_no_voice_of_the_base_speaks_in_a_personal_cohort() -> None:
    voices = {name: {user.voice.name for user in users} for name, users in PLANS.items()}
    assert len(voices["base-synthetic"]) >= 24
    assert not voices["base-synthetic"] & (voices["quiet-voices"] | voices["far-accents"])


@pytest.mark.parametrize(
    ("words", "often"),
    [
        (list(string.ascii_lowercase), 90),
        ([*DIGITS, "oh"], 60),
        (TEENS, 10),
        (TENS, 30),
        (ORDINALS, 3),
        (wordlists.MONTHS, 5),
    ],
)
def test_every_letter_number_and_month_is_heard_often(words: list[str], often: int) -> None:
    counts = heard("base-synthetic")
    assert {word: counts[word] for word in words if counts[word] < often} == {}


def test_a_third_of_far_accents_has_no_transcript_and_no_other_cohort_lacks_any() -> None:
    told = {name: [speech.told for user in users for speech in user.speeches] for name, users in PLANS.items()}
    assert all(told["base-synthetic"])
    assert all(told["quiet-voices"])
    assert 0.25 < told["far-accents"].count(False) / len(told["far-accents"]) < 0.4


def test_the_rules_add_up_to_a_speakers_utterances() -> None:
    assert sum(BASE_RULES.values()) == BASE_UTTERANCES == len(PLANS["base-synthetic"][0].speeches)


@pytest.mark.parametrize(
    ("text", "spelled", "letters"),
    [
        ("set a timer", False, []),
        ("i paid a b", False, [2, 3]),
        ("a d a m", True, [0, 1, 2, 3]),
        ("enter a", True, [1]),
        ("enter f six", False, [1]),
    ],
)
def test_a_and_i_are_letters_only_where_something_is_spelled(text: str, spelled: bool, letters: list[int]) -> None:
    assert [index for index in range(len(text.split())) if is_letter(text, index, spelled)] == letters


def test_letters_go_to_espeak_as_letters_in_order() -> None:
    for user in PLANS["base-synthetic"]:
        for speech in user.speeches:
            tagged = "".join(part.split("<")[0] for part in ssml(speech).split('"characters">')[1:])
            words = speech.sentence.text.split()
            wanted = [
                word for i, word in enumerate(words) if is_letter(speech.sentence.text, i, speech.sentence.spelled)
            ]
            assert tagged == "".join(wanted)


def test_the_recipe_hash_changes_with_what_is_said() -> None:
    voice = PLANS["quiet-voices"][0].voice
    one, other = (
        DemoUser("u", voice, (Speech("u-0", Sentence(text, "name", False), True),), (20.0, 30.0))
        for text in ("a b", "a c")
    )
    assert recipe_hash([one]) != recipe_hash([other])
