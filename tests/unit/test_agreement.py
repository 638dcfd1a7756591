"""Which texts of several teachers become a label."""

from __future__ import annotations

import pytest

from stages.agreement import AgreementRules, Heard, agreed, disputes, distance, unknown_words


def heard(*told: tuple[str, str, float]) -> list[Heard]:
    return [Heard(*one) for one in told]


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ("turn on the light", "turn on the light", 0.0),
        ("turn on the light", "turn on a light", 0.25),
        ("stop", "stop the music", 2.0),  # two words too many for one that was said
        ("stop the music", "stop", 2.0),  # whichever way round
        ("", "", 0.0),
        ("", "stop", 1.0),
    ],
)
def test_how_far_two_texts_are_apart(one: str, other: str, apart: float) -> None:
    assert distance(one, other) == pytest.approx(apart)


def test_what_both_heard_is_a_label() -> None:
    assert agreed(heard(("w", "turn on", 0.3), ("a", "turn on", 0.2)), AgreementRules()) == ("turn on", "")


def test_a_dispute_is_no_label_unless_it_is_small() -> None:
    both = heard(("w", "turn on the light", 0.9), ("a", "turn on a light", 0.9))
    label, why = agreed(both, AgreementRules())
    assert label is None and why == "disputed: w and a differ in 0.25 of the words"
    # the one that is believed first is written down
    assert agreed(both, AgreementRules(max_distance=0.25))[0] == "turn on the light"


def test_every_teacher_that_is_sure_has_a_say() -> None:
    three = heard(("w", "stop", 0.9), ("a", "stop", 0.9), ("b", "drop", 0.4))
    assert agreed(three, AgreementRules())[0] is None
    assert agreed(three, AgreementRules(min_scores={"b": 0.5}))[0] == "stop"


@pytest.mark.parametrize("quiet", [("a", "stop", 0.1), ("a", "", 0.9)])
def test_one_that_stands_alone_convinces_nobody(quiet: tuple[str, str, float]) -> None:
    label, why = agreed(heard(("w", "stop", 0.9), quiet), AgreementRules(min_scores={"a": 0.5}))
    assert label is None and why.startswith("unsure")


def test_but_from_its_own_bar_on() -> None:
    both = heard(("w", "drop", 0.9), ("a", "stop", 0.97))
    assert agreed(both, AgreementRules(alone={"a": 0.97}))[0] == "stop"
    assert agreed(both, AgreementRules(alone={"a": 0.98}))[0] is None
    assert agreed([], AgreementRules())[0] is None


def written(raw: str, spoken: str, other: str) -> list[Heard]:
    return [Heard("w", spoken, 0.5, raw), Heard("a", other, 0.5)]


@pytest.mark.parametrize(
    ("raw", "spoken", "other"),
    [
        ("HPGL 77.", "h p g l seventy seven", "h p g l seven seven"),
        ("1-5-01-5", "one five zero one five", "one five oh one five"),
        ("Snow.", "snow", "s n o w"),
        ("Rub out", "rub out", "rubout"),
    ],
)
def test_a_transcript_is_read_as_the_other_teacher_heard_it(raw: str, spoken: str, other: str) -> None:
    assert agreed(written(raw, spoken, other), AgreementRules()) == (other, "")


def test_another_word_is_no_other_reading() -> None:
    label, why = agreed(written("Go to 77", "go to seventy seven", "go two seventy seven"), AgreementRules())
    assert label is None and why.startswith("disputed")
    # a text that counts for nothing is not read back from what was written
    assert agreed(written("no no no", "", "no no no"), AgreementRules())[0] is None


def test_stretches_that_differ_are_told_with_the_words_of_each() -> None:
    assert disputes("rub out a b nine", "repeat a nine") == [(["rub", "out"], ["repeat"]), (["b"], [])]
    assert disputes("a nine", "a b nine") == [([], ["b"])]
    assert disputes("a", "a") == []


def test_many_users_word_is_a_word_and_one_users_is_a_mishearing() -> None:
    pairs = [(user, Heard("w", f"rub out {user}", 0.5), Heard("a", f"repeat {user}", 0.5)) for user in "xyz"]
    pairs += [("x", Heard("w", "robot", 0.5), Heard("a", "repeat", 0.5))] * 3
    pairs += [("q", Heard("w", "rub", 0.5), Heard("a", "", 0.0))]  # who heard nothing disputes nothing
    assert unknown_words(pairs, {"out"}.__contains__, 3) == {"rub"}
    assert unknown_words(pairs, {"out"}.__contains__, 4) == frozenset()
    assert unknown_words(pairs, {"out"}.__contains__, 1) == {"rub", "robot"}


def test_a_form_that_no_label_has_is_no_word() -> None:
    """ "TV" is "t v" in labels; that "tv" is nearer to "fan", which the adapter heard, makes it none."""
    pairs = [("turn on the t v", "turn on the fan"), ("the t v", "the lamp"), ("t v", "light")]
    heard = [
        (user, Heard("w", spoken, 0.5, spoken.replace("t v", "TV")), Heard("a", other, 0.5))
        for user, (spoken, other) in zip("xyz", pairs, strict=True)
    ]
    assert not unknown_words(heard, {"turn", "on", "the", "t", "v"}.__contains__, 1)


def test_a_word_that_only_the_first_knows_is_no_dispute_and_everything_else_is() -> None:
    rules = AgreementRules(unknown={"rub"}, alone={"a": 0.9})
    assert agreed(written("Rub out 75", "rub out seventy five", "repeat nine"), rules)[0] is None
    assert agreed(written("Rub out 7-0", "rub out seven zero", "repeat seven oh"), rules) == ("rub out seven oh", "")
    # one word that nobody taught it makes an adapter write another one, not five
    assert agreed(written("Rub", "rub", "repeat one two three four"), rules)[0] is None
    # not even where the other one, which cannot know it, is sure
    sure = [Heard("w", "rub out", 0.5), Heard("a", "repeat", 0.95)]
    assert agreed(sure, rules) == ("rub out", "")
    assert agreed(sure, AgreementRules(alone={"a": 0.9})) == ("repeat", "")


def test_teachers_of_another_script_agree_on_the_same_words_only() -> None:
    said = "включи свет на кухне"
    assert agreed(heard(("w", said, 0.9), ("a", said, 0.9)), AgreementRules()) == (said, "")
    label, why = agreed(heard(("w", said, 0.9), ("a", "закрой дверь", 0.9)), AgreementRules())
    assert label is None and why == "disputed: w and a differ in 2.00 of the words"
    assert disputes("включи свет", "включи цвет") == [(["свет"], ["цвет"])]
    assert distance("schon acht", "schön acht") == 0.5


@pytest.mark.parametrize("language", ["ru", "und", "en"])
def test_what_was_written_in_another_script_is_read_in_it(language: str) -> None:
    written = Heard("w", "включи свет", 0.9, "Включи свет.", language)
    assert written.read_like(Heard("a", "закрой дверь", 0.9)) == "включи свет"
