"""The ablation: each variant changes what it says and nothing else; ratios and added costs are what they say they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import ablation, ablation_plots, corpora
from benchmarks.ablation_costs import longest_split
from benchmarks.ablation_figures import QUICKEST, REFERENCE, WARM, figures, plots
from benchmarks.ablation_runs import Variant, joined, make_variant, material_of, padded_split, run_variant, sinusoids
from benchmarks.methods_runs import KeptRuns, Run
from benchmarks.record import Figure, machine
from stages.alignment.bridgeformer import BridgeFormer
from stages.alignment.methods.protocol import Schedule
from stages.alignment.vocabulary import Vocabulary
from tests.helpers_methods import toy_material

SCHEDULE = Schedule(epochs=2, batch_size=2, learning_rate=1e-3)


@pytest.fixture(autouse=True)
def in_a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "CACHE", tmp_path)


def toy_split() -> Any:
    material = toy_material()
    return SimpleNamespace(material=material, seed=0, judged=material.examples[:2], unseen=material.examples)


def run_of(name: str, seconds: float, seed: int = 0) -> Run:
    curve = [(0.0, 1.0, 0), (seconds / 2, 0.3, 10), (seconds, 0.08, 20)]
    return Run(name, seed, "ablation", "done", 20, seconds, 0.05, 100, 7, 8, 0.1, 1.0, curve)


def told(tmp_path: Path, methods: dict[str, float] | None, *runs: Run, **costs: Any) -> dict[str, Figure]:
    path = tmp_path / "methods.json"
    if methods is not None:
        listed = [{"name": name, "value": value} for name, value in methods.items()]
        path.write_text(json.dumps({"figures": listed, "machine": machine(), "date": "2026-11-24"}))
    kept = KeptRuns("test")
    kept.runs, kept.costs = list(runs), {name.replace("_", " "): value for name, value in costs.items()}
    return {figure.name: figure for figure in figures(kept, ablation.VARIANTS, (0, 1, 2), 0.10, path)}


def test_sinusoids_are_those_of_the_closed_form() -> None:
    table = sinusoids(5, 8)
    assert table[0].tolist() == [0, 1] * 4
    assert table[3, 4] == pytest.approx(torch.tensor(3 / 10_000 ** (4 / 8)).sin().item())
    assert table[3, 5] == pytest.approx(torch.tensor(3 / 10_000 ** (4 / 8)).cos().item())


def outputs_of(bridge: BridgeFormer, frames: torch.Tensor) -> torch.Tensor:
    return bridge.eval()(frames[None], torch.tensor([len(frames)]))[0][0]


@pytest.mark.parametrize("positions", [False, True])
def test_with_positions_and_only_then_the_order_of_the_steps_counts(positions: bool) -> None:
    material = toy_material()
    bridge = make_variant(Variant(SCHEDULE, positions=positions), material, 0, None).trainer.bridge
    frames = torch.randn(8 * 4, 64)  # 8 steps of 4 frames
    turned = frames.view(8, 4, 64).flip(0).reshape(32, 64)
    same = torch.allclose(outputs_of(bridge, frames), outputs_of(bridge, turned).flip(0), atol=1e-5)
    assert same is not positions


def test_variants_begin_with_the_same_weights() -> None:
    material = toy_material()
    plain, other = (
        list(make_variant(Variant(SCHEDULE, positions=on), material, 0, None).trainer.bridge.parameters())
        for on in (False, True)
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


def test_a_variant_changes_what_it_says() -> None:
    split = toy_split()
    assert material_of(Variant(SCHEDULE), split, None) is split.material
    assert material_of(Variant(SCHEDULE, embedding=False), split, None).embedding_weight == 0.0
    assert material_of(Variant(SCHEDULE, stack=6), split, None).bridge == replace(split.material.bridge, stack=6)
    with pytest.raises(ValueError, match="train one on synthetic speech"):
        material_of(Variant(SCHEDULE, warm=True), split, None)


def test_a_warm_start_keeps_weights_and_words_of_its_base_but_not_its_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    split = toy_split()
    split.bench = SimpleNamespace(llm="toy")
    table = split.material.llm().get_input_embeddings().weight.detach()
    monkeypatch.setattr("stages.models.llm.embedding_rows", lambda llm, ids: table[list(ids)])
    base = BridgeFormer(split.material.bridge)
    words = Vocabulary.of_texts(split.material.tokenizer, ["zoo go"])
    start: Any = SimpleNamespace(trainer=SimpleNamespace(bridge=base), vocabulary=words)
    variant = Variant(SCHEDULE, warm=True)
    material = material_of(variant, split, start)
    assert set(words.ids) <= set(material.vocabulary.ids)
    for item in material.examples:
        assert material.text_of(item.target.tolist()) == item.text
    bridge = make_variant(variant, material, 0, start).trainer.bridge
    assert all(torch.equal(a, b) for a, b in zip(bridge.parameters(), base.parameters(), strict=True))
    assert not torch.equal(bridge.frame_mean, base.frame_mean)


def test_a_run_is_judged_before_its_first_step_and_after_its_last() -> None:
    asked: list[float] = []
    run = run_variant(
        "x", Variant(SCHEDULE, judge_every=3), toy_split(), then=lambda method: asked.append(method.seconds)
    )
    assert [steps for _, _, steps in run.curve] == [0, 3, 4]
    assert run.curve[0][0] == 0.0
    assert [round(seconds, 2) for seconds in asked] == [run.seconds]


def test_a_padded_split_has_other_frames_as_many_and_the_same_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    split = toy_split()
    split.training = split.material.examples
    whole = np.ones((1500, 64), dtype=np.float16)
    encoder = SimpleNamespace(encode_padded=lambda samples: whole)
    monkeypatch.setattr("stages.models.encoder.SpeechEncoder.load", lambda folder: encoder)
    monkeypatch.setattr("stages.audio.load_audio", lambda path, name: np.zeros(1600, dtype=np.float32))
    monkeypatch.setattr(corpora, "models", lambda: (Path("encoder"), Path("llm")))
    recordings = [(item.utterance, "user", item.text, Path("x")) for item in split.training]
    monkeypatch.setattr(corpora, "an4_recordings", lambda: recordings)
    before = [(len(item.frames), item.text) for item in split.training]
    found = padded_split(split)
    assert [(len(item.frames), item.text) for item in found.training] == before
    assert all(item.frames.eq(1).all() for item in (*found.training, *found.unseen, *found.judged))
    assert not split.training[0].frames.eq(1).all()
    assert not hasattr(found, "material")


def test_joined_utterances_are_longer_and_leave_out_a_rest() -> None:
    items = toy_material().examples[:3]
    (pair,) = joined(items, 2)
    assert torch.equal(pair.frames, torch.cat([items[0].frames, items[1].frames]))
    assert pair.text == f"{items[0].text} {items[1].text}"


def test_the_ratio_is_of_the_best_baseline_over_the_schedule_named_beforehand(tmp_path: Path) -> None:
    methods = {"seconds_to_wer_0.10_projector": 900.0, "seconds_to_wer_0.10_qformer": 700.0}
    runs = [run_of(name, seconds) for name, seconds in ((REFERENCE, 14.0), (QUICKEST, 5.0), (WARM, 2.0))]
    found = told(tmp_path, methods, *runs)
    assert found["time_ratio_quickest_schedule"].value == 140.0
    assert found["time_ratio_quickest_schedule"].met
    assert found["time_ratio_reference"].value == 50.0
    assert found["time_ratio_reference"].met is None


def test_without_the_comparison_there_is_no_ratio_and_it_says_why(tmp_path: Path) -> None:
    figure = told(tmp_path, None, run_of(QUICKEST, 5.0))["time_ratio_quickest_schedule"]
    assert (figure.value, figure.met) == (None, False)
    assert "make bench AREA=methods" in figure.note


def test_a_start_that_is_there_already_has_no_ratio(tmp_path: Path) -> None:
    there = replace(run_of(WARM, 5.0), curve=[(0.0, 0.09, 0), (5.0, 0.05, 20)])
    found = told(tmp_path, {"seconds_to_wer_0.10_projector": 900.0}, there)
    assert found["seconds_to_wer_0.10_warm_start"].value == 0.0
    assert found["time_ratio_warm_start"].value is None


def test_encoding_is_added_for_each_utterance_of_each_step(tmp_path: Path) -> None:
    own = {"seconds": 0.05, "difference": 0.0}
    found = told(tmp_path, None, run_of(REFERENCE, 14.0), own_encoding=own, padded_encoding=0.4)
    assert found["seconds_to_wer_0.10_no_cached_features"].value == pytest.approx(14 + 20 * 8 * 0.05)
    assert found["seconds_to_wer_0.10_no_cache_no_own_length_window"].value == pytest.approx(14 + 20 * 8 * 0.4)
    assert found["step_seconds_no_cached_features"].value == pytest.approx(0.1 + 8 * 0.05)


def test_what_was_not_measured_is_not_told_as_met(tmp_path: Path) -> None:
    steps = {"projector": 3.0, "embedlink": 0.05, "steps": 60, "batch": 8, "utterances": 10}
    found = told(tmp_path, None, personal_steps=steps)
    assert found["personal_step_ratio"].value == pytest.approx(60)
    elsewhere = found["personal_update_ratio"]
    assert (elsewhere.value, elsewhere.met) == (None, None) and "make bench AREA=personal" in elsewhere.note


def test_the_personal_step_is_of_a_user_who_has_most_utterances() -> None:
    users: Any = [(str(count), SimpleNamespace(train=[None] * count)) for count in (6, 10, 8)]
    assert longest_split(users) is users[1][1]


def test_the_picture_shows_the_schedules(tmp_path: Path) -> None:
    kept = KeptRuns("test")
    kept.runs = [run_of(name, 5.0) for name in (*ablation.SCHEDULES, "positions")]
    drawn = plots(kept, ablation.SCHEDULES)
    assert set(drawn["ablation_schedules"]) == {f"{name}, seed 0" for name in ablation.SCHEDULES}
    ((name, _),) = ablation_plots.draw(drawn, tmp_path)
    assert (tmp_path / name).stat().st_size > 0


def test_a_quick_run_writes_nothing_into_docs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEALIGN_ABLATION_QUICK", "1")
    assert ablation.size_asked().folder == corpora.CACHE / "quick"
