"""The rule of promotion: it takes what meets all of its conditions, and each of them can be the only one that does not hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.tracking.promotion import CONDITIONS, Candidate, Champion, Figures, broken, is_champion

GOOD = Candidate(
    cohort="home",
    user="ann",
    adapter_bytes=40_000,
    file_sha256="a" * 64,
    record_sha256="a" * 64,
    base_sha256="b" * 64,
    base_now_sha256="b" * 64,
    judged_sha256="a" * 64,
    judged_held_out_sha256="d" * 64,
    held_out_sha256="d" * 64,
    test_utterances=5,
    figures=Figures(0.2, 0.1),
    base_figures=Figures(0.4, 0.3),
    guard=Figures(0.32, 0.2),
    base_guard=Figures(0.3, 0.2),
    guard_utterances=20,
    guard_tolerance=0.03,
    learned=8,
)
BEFORE = Champion("3", "c" * 64, Figures(0.3, 0.2))


def test_a_good_adapter_is_taken() -> None:
    assert broken(GOOD, None) == {}
    assert broken(GOOD, BEFORE) == {}


@pytest.mark.parametrize(
    ("changes", "condition", "told"),
    [
        ({"file_sha256": ""}, "weights", "not there"),
        ({"file_sha256": "e" * 64}, "weights", "eeeeeeeeeeee, adapter.json says aaaaaaaaaaaa"),
        ({"base_now_sha256": "e" * 64}, "base", "bbbbbbbbbbbb, the base is eeeeeeeeeeee now"),
        ({"judged_sha256": ""}, "judged", "dvc repro evaluate@home"),
        ({"judged_sha256": "e" * 64}, "judged", "judged the adapter eeeeeeeeeeee, this is aaaaaaaaaaaa"),
        ({"judged_held_out_sha256": ""}, "judged", "older edgealign"),
        ({"held_out_sha256": "e" * 64}, "judged", "labels of its held-out utterances have changed"),
        ({"figures": None}, "judged", "no figures"),
        ({"test_utterances": 0}, "judged", "no figures"),
        (
            {"base_figures": Figures(0.1, 0.3)},
            "better",
            "WER 0.2000 (CER 0.1000) is not better than the base's WER 0.1000",
        ),
        ({"base_figures": Figures(0.2, 0.1)}, "better", "not better"),
        ({"base_figures": Figures(0.2, 0.05)}, "better", "not better"),
        ({"guard": None}, "guard", "no figures on the guard"),
        ({"base_guard": None}, "guard", "`dvc repro evaluate@home`"),
        ({"guard_utterances": 0}, "guard", "no figures on the guard"),
        ({"guard_tolerance": 0.0}, "guard", "on 20 utterances of other people WER 0.3200"),
        ({"guard": Figures(0.34, 0.0)}, "guard", "more than 0.03 above the base's WER 0.3000"),
        ({"unlabelled": 1}, "consent", "of the 8 utterances that trained, 1 have no accepted label now and 0 are"),
        ({"withheld": 2}, "consent", "2 are gone or without consent"),
        ({"learned": 0}, "consent", "of the 0 utterances"),
        ({"erasure": "e-7"}, "erasure", "erasure e-7"),
    ],
)
def test_each_condition_breaks_alone(changes: dict[str, Any], condition: str, told: str) -> None:
    found = broken(replace(GOOD, **changes), None)
    assert list(found) == [condition]
    assert told in found[condition]


def test_equal_words_and_fewer_wrong_characters_are_better() -> None:
    assert broken(replace(GOOD, base_figures=Figures(0.2, 0.11)), None) == {}


@pytest.mark.parametrize(
    ("champion", "taken"),
    [
        (Figures(0.2, 0.1), True),  # as good as before
        (Figures(0.2, 0.2), True),
        (Figures(0.2, 0.05), False),
        (Figures(0.19, 0.9), False),
        (None, False),  # nothing is known of it: it is not taken for bad
    ],
)
def test_nobody_falls_behind_the_champion(champion: Figures | None, taken: bool) -> None:
    found = broken(GOOD, replace(BEFORE, figures=champion))
    assert list(found) == ([] if taken else ["champion"])
    if not taken:
        assert "version 3" in found["champion"]


def test_a_champion_that_learned_from_an_erased_person_holds_nobody_back() -> None:
    better = replace(BEFORE, figures=Figures(0.0, 0.0))
    assert list(broken(GOOD, better)) == ["champion"]
    assert broken(GOOD, replace(better, retrain="erasure e-7")) == {}


def test_figures_of_something_else_are_not_compared() -> None:
    stale = replace(GOOD, judged_sha256="e" * 64, figures=Figures(0.9, 0.9))
    assert list(broken(stale, BEFORE)) == ["judged"]


def test_what_cannot_be_read_is_told_and_never_taken_for_good() -> None:
    for name in ("record", "labels", *CONDITIONS):
        found = broken(replace(GOOD, unread={name: "the disk is gone"}), BEFORE)
        assert found == {name: "the disk is gone"}


def test_several_conditions_are_all_told() -> None:
    worst = replace(GOOD, file_sha256="e" * 64, base_figures=Figures(0.1, 0.1), withheld=1, erasure="e-7")
    assert list(broken(worst, None)) == ["weights", "better", "consent", "erasure"]


def test_a_champion_is_known_by_its_weights() -> None:
    assert is_champion(GOOD, Champion("1", GOOD.file_sha256, None))
    assert broken(GOOD, Champion("1", GOOD.file_sha256, None)) == {}
    assert not is_champion(GOOD, BEFORE)
    assert not is_champion(GOOD, None)
    assert not is_champion(replace(GOOD, file_sha256=""), replace(BEFORE, adapter_sha256=""))
