"""Splits never leak a speaker, an utterance or a sentence."""

from __future__ import annotations

import random

import numpy as np

from stages.alignment.splits import hold_out_users, split_utterances
from stages.examples import LabelledUtterance
from stages.personalize import UserSplit, split_user


def utterance(name: str, text: str, source: str = "human") -> LabelledUtterance:
    return LabelledUtterance(name, "ann", "c", text, source, np.zeros((4, 2), dtype=np.float16), None)


def test_users_held_out_do_not_depend_on_order() -> None:
    users = [f"user{index}" for index in range(20)]
    shuffled = random.Random(1).sample(users, len(users))
    assert hold_out_users(users, 0.2, 0) == hold_out_users(shuffled, 0.2, 0)
    assert len(hold_out_users(users, 0.2, 0)) == 4
    assert hold_out_users(users, 0.2, 0) != hold_out_users(users, 0.2, 1)


def test_one_user_is_never_held_out_alone() -> None:
    assert hold_out_users(["ann"], 0.5, 0) == set()
    assert len(hold_out_users(["ann", "bob"], 0.5, 0)) == 1


def test_a_sentence_said_twice_is_not_on_both_sides() -> None:
    texts = {f"u{index}": f"sentence {index % 5}" for index in range(20)}
    train, held_out = split_utterances(sorted(texts), texts, 4, 0)
    assert train
    assert held_out
    assert not {texts[name] for name in train} & {texts[name] for name in held_out}


def test_a_third_is_held_out_even_of_few() -> None:
    texts = {f"u{index}": f"sentence {index}" for index in range(6)}
    train, held_out = split_utterances(sorted(texts), texts, 8, 0)
    assert (len(train), len(held_out)) == (4, 2)


def test_at_most_so_many_judge_and_they_are_some_of_all_that_would() -> None:
    texts = {f"u{index}": f"sentence {index}" for index in range(30)}
    every, few = (split_utterances(sorted(texts), texts, 8, 0, judge) for judge in (None, 5))
    assert every[0] == few[0] and len(every[1]) == 22
    assert len(few[1]) == 5 and set(few[1]) < set(every[1])


def test_a_user_with_one_utterance_is_skipped_with_the_reason() -> None:
    reason = split_user([utterance("a", "hello")], 8, 4, 0)
    assert isinstance(reason, str)
    assert "1 labelled utterance" in reason


def test_pseudo_labels_fill_up_but_never_judge() -> None:
    human = [utterance(f"h{index}", f"human {index}") for index in range(6)]
    pseudo = [utterance(f"p{index}", f"pseudo {index}", "pseudo") for index in range(6)]
    leak = utterance("p9", "human 0", "pseudo")
    split = split_user([*human, *pseudo, leak], 8, 4, 0)
    assert isinstance(split, UserSplit)
    assert {item.source for item in split.held_out} == {"human"}
    assert len(split.train) == 8
    judged = {item.text for item in split.held_out}
    assert not judged & {item.text for item in split.train}


def test_a_user_without_human_transcripts_is_skipped() -> None:
    reason = split_user([utterance(f"p{index}", f"word {index}", "pseudo") for index in range(9)], 8, 4, 0)
    assert isinstance(reason, str)
    assert "human" in reason
