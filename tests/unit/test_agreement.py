"""Which texts of several teachers become a label."""

from __future__ import annotations

import pytest

from stages.agreement import AgreementRules, Heard, agreed, distance


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
