"""The guard: whom it judges by, against word errors counted by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from stages.examples import LabelledUtterance
from stages.guard import Guard, spread


class Parrot:
    """Reads the text that it was told for each utterance's number; counts what it read."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self.read_so_far: list[int] = []

    def read(self, frames: Sequence[np.ndarray]) -> Sequence[Any]:
        numbers = [int(item[0, 0]) for item in frames]
        self.read_so_far += numbers
        return numbers

    def text_of(self, output: Any) -> str:
        return self.texts[output]


def utterances(*users: str) -> list[LabelledUtterance]:
    return [
        LabelledUtterance(f"u{n}", user, "base", "turn on the light", "human", np.full((1, 1), n, np.float16), None)
        for n, user in enumerate(users)
    ]


def test_errors_are_those_of_the_base_and_of_the_adapter_on_the_same_utterances() -> None:
    base = Parrot("turn on the light", "turn off the light")  # one of eight words
    guard = Guard(base, utterances("ann", "bob"))
    found = guard.judge(Parrot("turn the light", "turn off a light"), "home", "cid")  # three of eight
    assert found["utterances"] == 2
    assert (found["base"]["wer"], found["personal"]["wer"]) == (1 / 8, 3 / 8)
    assert found["base"]["word_errors"] == 1


def test_nobody_is_judged_by_their_own_utterances() -> None:
    base, personal = Parrot(*["turn on the light"] * 3), Parrot("", "", "turn on the light")
    guard = Guard(base, utterances("ann", "ann", "bob"))
    assert guard.judge(personal, "base", "ann")["personal"]["wer"] == 0.0
    assert personal.read_so_far == [2]
    assert guard.judge(personal, "home", "ann")["utterances"] == 3  # another cohort's ann is somebody else
    assert guard.judge(None, "base", "ann")["utterances"] == 1


def test_the_base_reads_once_however_many_adapters_are_judged() -> None:
    base = Parrot("turn on the light", "turn on the light")
    guard = Guard(base, utterances("ann", "bob"))
    for user in ("cid", "dot", "ann"):
        guard.judge(Parrot("", ""), "base", user)
    guard.judge(None, "base", "eve")
    assert base.read_so_far == [0, 1]


def test_without_others_there_are_no_figures() -> None:
    guard = Guard(Parrot("turn on the light"), utterances("ann"))
    nothing = {"utterances": 0, "base": None, "personal": None}
    assert guard.judge(Parrot(""), "base", "ann") == nothing
    assert Guard(Parrot(), []).judge(Parrot(), "base", "ann") == nothing


@pytest.mark.parametrize(("count", "most"), [(0, 3), (2, 3), (3, 3), (10, 3), (126, 60), (5, 0)])
def test_the_choice_is_spread_over_all_and_takes_none_twice(count: int, most: int) -> None:
    chosen = spread(list(range(count)), most)
    assert len(chosen) == len(set(chosen)) == min(count, most)
    assert chosen == sorted(chosen)
    if len(chosen) > 1:
        steps = np.diff(chosen)
        assert steps.max() - steps.min() <= 1


def test_replies_count_by_how_many_there_are_however_much_was_held_out() -> None:
    from stages.evaluate import pool

    users: dict[str, Any] = {
        "ann": {"test_utterances": 4, "llm_utterances": 4, "response_agreement": 0.5, "response_kl": 1.0},
        "bob": {"test_utterances": 200, "llm_utterances": 6, "response_agreement": 1.0, "response_kl": 0.0},
        "cid": {"test_utterances": 9, "llm_utterances": 0},
    }
    assert pool(users)["response_agreement"] == (0.5 * 4 + 1.0 * 6) / 10
    assert pool(users)["response_kl"] == 4 / 10
    for user in users.values():
        del user["llm_utterances"]  # judged before that was told: what an erasure pools again
    assert pool(users)["response_kl"] == 4 / 204


def test_over_users_every_guard_word_counts_the_same() -> None:
    from stages.evaluate import pool

    guard = Guard(Parrot("turn on the light", "turn off the light"), utterances("ann", "bob"))
    users: dict[str, Any] = {
        "ann": {"test_utterances": 1, "guard": guard.judge(Parrot("", "turn on the light"), "base", "ann")},  # 0 of 4
        "cid": {"test_utterances": 9, "guard": guard.judge(Parrot("turn", "turn on"), "base", "cid")},  # 5 of 8
        "dot": {"test_utterances": 1},  # judged before there was a guard
    }
    assert pool(users)["guard_wer"] == 5 / 12
    assert pool(users)["base_guard_wer"] == 2 / 12
