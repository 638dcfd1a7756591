"""The comparison with the cascade: who learns from what, both sides read alike, and a ratio that is one of errors."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import cascade, corpora
from benchmarks.alignment import Bench, speakers
from benchmarks.cascade import JOINT, REAL, SEEDS, figures
from benchmarks.record import Figure
from pipeline.settings import load_settings
from stages.agreement import ADAPTER, WHISPER, Heard
from stages.alignment.rescoring import Chooser
from stages.alignment.trainer import TrainConfig
from stages.examples import LabelledUtterance


def item(name: str, user: str, text: str) -> LabelledUtterance:
    return LabelledUtterance(name, user, "toy", text, "human", np.zeros((1, 1), np.float16), None)


REAL_SPEECH = [item(f"r{place}", f"user{place}", "rubout five") for place in range(10)]
SYNTHETIC = [item(f"s{place}", "voice", "go") for place in range(4)]
Learned = list[tuple[frozenset[str], TrainConfig]]


@pytest.fixture
def learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Learned:
    """Every training. Who has heard synthetic speech reads words apart, the others hear one of two wrongly."""
    made: Learned = []

    def train(bench: Any, training: Any, test: Any, config: TrainConfig) -> Any:
        names = frozenset(one.utterance for one in training)
        made.append((names, config))
        joint = bool(names & {"s0"})
        return SimpleNamespace(trainer=SimpleNamespace(seconds=2.0), joint=joint, vocabulary=SimpleNamespace(ids=(7,)))

    def hear(bench: Any, base: Any, items: Any, chooser: Chooser | None) -> dict[str, Heard]:
        read = "rubout nine" if not base.joint else "rub out five" if chooser else "rub out six"
        return {one.utterance: Heard(ADAPTER, read, 1.0) for one in items}

    bench = Bench(load_settings(corpora.ROOT), Path("toy"), None, SimpleNamespace())  # type: ignore[arg-type]  # not used
    monkeypatch.setattr(Bench, "open", lambda: bench)
    monkeypatch.setattr(corpora, "CACHE", tmp_path)
    monkeypatch.setattr(corpora, "an4", lambda: REAL_SPEECH)
    monkeypatch.setattr(corpora, "synthetic", lambda: SYNTHETIC)
    monkeypatch.setattr(cascade, "train", train)
    monkeypatch.setattr(cascade, "hear", hear)
    monkeypatch.setattr(cascade, "load_llm", lambda folder: (None, None))
    monkeypatch.setattr(cascade, "SpelledWords", lambda model, tokenizer: None)
    whisper = {one.utterance: Heard(WHISPER, "rub out five", 1.0, "Rub out 9.") for one in REAL_SPEECH}
    monkeypatch.setattr(cascade, "whisper_heard", lambda bench, asked: {name: whisper[name] for name in asked})
    monkeypatch.setattr(cascade, "size_asked", lambda: cascade.Size(SEEDS[:1], folder=tmp_path))
    return made


def told(path: Path) -> dict[str, dict[str, Any]]:
    return {figure["name"]: figure for figure in json.loads(path.read_text())["figures"]}


def test_both_sides_are_read_alike_and_nobody_who_judges_has_taught(learned: Learned) -> None:
    found = told(cascade.run())
    training, unseen = speakers(REAL_SPEECH, SEEDS[0])
    (real, own), (joint, changed) = learned
    assert real == {one.utterance for one in training} and joint == real | {one.utterance for one in SYNTHETIC}
    assert not joint & {one.utterance for one in unseen}
    assert own == Bench.open().train_config(SEEDS[0])  # params.yaml's
    assert (changed.epochs, changed.tempo) == (cascade.RECIPES[JOINT]["epochs"], cascade.RECIPES[JOINT]["tempo"])
    # two words each: "rub out" is "rubout" on both sides, "nine" is an error on both
    assert found["wer_cascade"]["value"] == found["wer_embedlink_real_speech_alone"]["value"] == 0.5
    assert found["errors_over_cascade"] | {"note": ""} == found["errors_over_cascade"] | {
        "note": "",
        "value": 0.0,
        "met": True,
        "asked": "≤ 0.5",
    }
    assert found["errors_over_cascade_real_speech_alone"]["value"] == 1.0
    assert found["errors_over_cascade_adapter_alone"]["value"] == 1.0  # "six" is what the LLM's opinion mends
    assert found["wer_embedlink_strict"]["value"] == 1.0  # "rubout" wrong, a word too many, "five" right: two of two


def test_a_run_that_was_stopped_trains_nothing_again(learned: Learned, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(bench: Any, asked: Any) -> Any:
        raise KeyboardInterrupt

    whisper = cascade.whisper_heard
    monkeypatch.setattr(cascade, "whisper_heard", stopped)
    with pytest.raises(KeyboardInterrupt):
        cascade.run()
    monkeypatch.setattr(cascade, "whisper_heard", whisper)
    assert told(cascade.run())["train_seconds"]["value"] == 2.0
    assert len(learned) == len(cascade.RECIPES)


def test_a_ratio_is_of_the_means_and_none_where_the_cascade_errs_nowhere() -> None:
    def one(wer: float) -> dict[str, float]:
        measured = {"wer": wer, "strict_wer": 2 * wer, "read_seconds": 0.1}
        alone = {f"alone_{name}": 3 * value for name, value in measured.items()}
        return {**measured, **alone, "words": 100, "seconds": 1.0, "utterances": 9}

    found: dict[str, Figure] = {
        figure.name: figure
        for figure in figures({REAL: [one(0.5), one(1.0)], JOINT: [one(0.25), one(0.5)]}, [0.25, 1.25], (0, 1))
    }
    assert (found["errors_over_cascade"].value, found["errors_over_cascade"].met) == (0.5, True)
    assert found["errors_over_cascade_strict"].value == 1.0
    assert found["errors_over_cascade_adapter_alone"].value == 1.5
    assert found["errors_over_cascade_real_speech_alone"].value == 1.0
    [none] = figures({REAL: [one(0.04)], JOINT: [one(0.01)]}, [0.0], (0,))
    assert (none.value, none.met) == (None, False)


def test_a_quick_run_is_kept_out_of_the_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cascade.size_asked() == cascade.Size()
    monkeypatch.setenv("EDGEALIGN_CASCADE_QUICK", "1")
    assert cascade.size_asked().folder == corpora.quick_folder() != cascade.FOLDER
