"""The benchmark of pseudo-labels, with teachers and students that hear what they are told to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import pseudo
from benchmarks.alignment import Bench
from pipeline.settings import load_settings
from stages.agreement import ADAPTER, WHISPER, Heard
from stages.alignment.bridgeformer import BridgeFormerConfig
from stages.alignment.trainer import TrainConfig
from stages.examples import LabelledUtterance

SAID = {"u0": "rubout one", "u1": "go", "u2": "stop", "u3": "yes"}
CONFIG = TrainConfig(epochs=4, batch_size=8, learning_rate=1e-3)


def item(name: str, text: str, user: str) -> LabelledUtterance:
    return LabelledUtterance(name, user, "toy", text, "human", np.zeros((1, 1), np.float16), None)


TRAINING = [item(name, text, f"user{place}") for place, (name, text) in enumerate(SAID.items())]
UNSEEN = [item("v0", "rubout go", "judge"), item("v1", "two oh", "judge")]


@dataclass
class Taught:
    """What a ``train`` was given; stands for what came of it."""

    texts: dict[str, str]
    config: TrainConfig
    start: Any
    name: str = ""

    @property
    def vocabulary(self) -> Any:
        return SimpleNamespace(strings=lambda tokenizer: [])


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> list[Taught]:
    """Every training, in order; with each round the teacher is surer of what it reads."""
    made: list[Taught] = []

    def train(bench: Any, training: Any, test: Any, config: TrainConfig, start: Any = None) -> Taught:
        made.append(Taught({one.utterance: one.text for one in training}, config, start))
        return made[-1]

    def hear(bench: Any, teacher: Taught, items: Any) -> dict[str, Heard]:
        if items is UNSEEN:
            read = {"v0": "rub out go", "v1": "two o"} if "u1" in teacher.texts else {"v0": "", "v1": ""}
            return {name: Heard(ADAPTER, pseudo.normalise(text), 0.5) for name, text in read.items()}
        assert items is TRAINING
        surer = 0.4 + 0.25 * sum(one.start is not None for one in made)  # a student has no start
        read = {"u0": "rubout one", "u1": "go", "u2": "drop", "u3": "yes"}
        sure = {"u0": 0.1, "u1": 0.1, "u2": surer, "u3": surer + 0.1}
        return {name: Heard(ADAPTER, read[name], sure[name]) for name in read}

    monkeypatch.setattr(pseudo, "train", train)
    monkeypatch.setattr(pseudo, "hear", hear)
    monkeypatch.setattr(pseudo, "can_spell", lambda tokens, tokenizer: lambda word: True)
    return made


def measured(world: list[Taught]) -> dict[str, Any]:
    heard = {"u0": ("rub out one", "Rub out 1"), "u1": ("go", "Go."), "u2": ("stop", "Stop."), "u3": ("guess", "Guess")}
    whisper = {name: Heard(WHISPER, text, 0.9, written) for name, (text, written) in heard.items()}
    bridge = BridgeFormerConfig(encoder_width=1, llm_width=1)
    bench = Bench(load_settings(pseudo.corpora.ROOT), Path("toy"), None, bridge)
    current: Any = Taught({}, CONFIG, None, "current")
    return pseudo.one_seed(bench, TRAINING, UNSEEN, whisper, current, CONFIG)


def test_each_rounds_teacher_learns_the_labels_of_the_round_before(world: list[Taught]) -> None:
    found = measured(world)
    second, third = world[:2]
    assert second.texts == {"u0": "rubout one", "u1": "go"}  # what both heard
    assert third.texts == second.texts  # 0.65 and 0.75: below the second round's bar
    last = next(one for one in reversed(world))
    assert last.texts == {"u0": "rubout one", "u1": "go", "u2": "drop", "u3": "yes"}  # 0.9 and 1.0: above the third's
    assert [one.start.name for one in world[:2]] == ["current", "current"]
    assert found["third round"]["accepted"] == 1.0 and found["third round"]["label_wer"] == pytest.approx(1 / 5)
    assert found["two teachers"]["accepted"] == 0.5 and found["two teachers"]["label_wer"] == 0.0


def test_students_begin_anew_without_tempo_and_take_equal_steps(world: list[Taught]) -> None:
    measured(world)
    teachers, students = world[:2], world[2:]
    assert all(one.config.tempo == pseudo.TEMPO for one in teachers)
    assert all(one.start is None and one.config.tempo == 0.0 for one in students)
    human, *others = students
    assert human.texts == SAID
    assert all(one.config.epochs * len(one.texts) == 4 * len(SAID) for one in others)


def test_a_word_written_apart_is_no_mishearing_but_is_told(world: list[Taught]) -> None:
    human = measured(world)["human"]
    assert human["wer"] == 0.0  # "rub out" for "rubout", and the o in a number
    assert human["strict_wer"] == pytest.approx(2 / 4)


def test_the_ratio_is_that_of_the_means() -> None:
    def seed(human: float, last: float) -> dict[str, Any]:
        one = {"accepted": 1.0, "label_wer": 0.1, "wer": last, "strict_wer": 2 * last}
        return {
            "teachers": {WHISPER: 0.1},
            "human": {**one, "wer": human, "strict_wer": human},
            **{name: one for name, _, _ in pseudo.ROUNDS},
        }

    found = {figure.name: figure for figure in pseudo.figures([seed(0.25, 0.25), seed(0.25, 0.5)], (0, 1))}
    ratio = found["pseudo_over_human_wer"]
    assert (ratio.value, ratio.met) == (pytest.approx(1.5), True)
    assert found["pseudo_over_human_wer_strict"].value == pytest.approx(3.0)
    assert found["pseudo_over_human_wer_strict"].met is None
