"""The benchmark of personal updates: who judges has taught nothing, both sides learn from the same, a ratio is what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import corpora, personal, personal_loop, personal_plots, personal_updates
from benchmarks.alignment import Bench
from benchmarks.kept import Kept
from benchmarks.personal_figures import FULL, Quality, Race, figures, plots
from benchmarks.personal_loop import LoopBase, LoopPlan, loop_base, spoken, state_of, train_base, update
from benchmarks.personal_race import LOOP_EVERY, Clock, choose_loop, choose_ours, loop_curve, pooled, steps_to
from benchmarks.personal_updates import OurPlan, best, judged, judged_at, piece
from benchmarks.personal_users import Fold, People, folds_of, our_base, people
from benchmarks.record import Figure
from benchmarks.sparse import Candidate
from pipeline.runs.configs import personal_config
from pipeline.settings import load_settings
from stages.alignment.methods.lora import ProjectorLora
from stages.alignment.methods.registry import make_method
from stages.alignment.resume import Checkpoint
from stages.alignment.trainer import mean_frame
from stages.examples import LabelledUtterance
from tests.helpers_methods import SCHEDULE, toy_llm, toy_material

SPARSE, DENSER = Candidate("shira", "gradient", 0.01), Candidate("shira", "gradient", 0.05)


@pytest.fixture(autouse=True)
def in_a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "CACHE", tmp_path)


def said(user: str, texts: list[str]) -> list[LabelledUtterance]:
    frames = [item.frames.numpy().astype(np.float16) for item in toy_material().examples]
    return [
        LabelledUtterance(f"{user}-{place}", user, "toy", text, "human", frames[place % len(frames)], None)
        for place, text in enumerate(texts)
    ]


def test_every_utterance_judges_once_and_never_where_its_text_has_taught() -> None:
    items = said("ann", [f"text {place}" for place in range(12)] + ["text 0"])
    folds = folds_of("ann", items)
    judged = [item.utterance for fold in folds for item in fold.held_out]
    assert len(judged) == len(set(judged)) and set(judged) >= {item.utterance for item in items[1:12]}
    for fold in folds:
        assert len(fold.train) == 10
        assert not {item.text for item in fold.train} & {item.text for item in fold.held_out}
    assert [len(fold.train) for fold in folds_of("bob", said("bob", [f"text {place}" for place in range(9)]))] == [
        7
    ] * 4 + [8]


def test_bases_learn_from_synthetic_speech_and_who_tunes_does_not_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    real = [item for number in range(10) for item in said(f"user{number}", [f"text {place}" for place in range(12)])]
    monkeypatch.setattr(corpora, "an4", lambda: real)
    monkeypatch.setattr(corpora, "synthetic", lambda: said("voice", ["go", "stop it", "a b"]))
    found = people(train=2)
    tuning, judging = ({fold.user for fold in folds} for folds in (found.tuning, found.judging))
    assert [item.user for item in found.teaching] == ["voice", "voice"]
    assert len(judging) == 2 and len(tuning) == 2 and not tuning & judging
    assert len({fold.user for fold in people(users=1).judging}) == 1


def test_errors_are_pooled_at_equal_steps_and_a_wer_is_reached_where_it_stays() -> None:
    curve = pooled([[[0, 9, 10], [5, 1, 10], [10, 2, 10]], [[0, 9, 30], [5, 3, 30], [10, 6, 30]]])
    assert curve == [(0, 18 / 40), (5, 0.1), (10, 0.2)]
    assert steps_to(curve, 0.1) is None
    assert steps_to(curve, 0.2) == 5
    with pytest.raises(ValueError):
        pooled([[[0, 9, 10]], [[0, 9, 10], [5, 1, 10]]])


def test_ours_is_the_shortest_that_is_nearly_as_good_as_the_best() -> None:
    plans = [OurPlan(SPARSE, 1e-2, steps, 8) for steps in (15, 30, 60)]
    curves = dict(zip(plans, ([(0, 0.5), (15, 0.30)], [(0, 0.5), (30, 0.204)], [(0, 0.5), (60, 0.20)]), strict=True))
    assert choose_ours(curves) == plans[1]


def test_the_baseline_is_the_one_that_ends_best_and_the_first_of_equals() -> None:
    slow, quick = LoopPlan(1e-3, 10, 8), LoopPlan(3e-3, 10, 8)
    curves = {quick: [(0, 0.9), (5, 0.2), (10, 0.2)], slow: [(0, 0.9), (5, 0.4), (10, 0.1)]}
    assert choose_loop(curves) == slow
    masked = replace(slow, masked=True)
    assert choose_loop({**curves, masked: [(0, 0.9), (5, 0.1), (10, 0.1)]}) == slow  # masks only where they help


def toy_loop() -> LoopBase:
    method = make_method("projector-lora", toy_material(), SCHEDULE)
    assert isinstance(method, ProjectorLora)
    state = {name: value.clone() for name, value in state_of(method).items()}
    return LoopBase(method, state, mean_frame(toy_material().examples))


def test_an_update_of_the_baseline_begins_at_its_base_learns_and_is_watched() -> None:
    base, plan, shown = toy_loop(), LoopPlan(1e-2, 6, 3, masked=True), list[int]()
    examples = list(toy_material().examples)
    before = float(base.method.loss(examples).detach())
    update(base, examples, plan, shown.append)
    once = {name: value.clone() for name, value in state_of(base.method).items()}
    assert shown == list(range(7))
    assert float(base.method.loss(examples).detach()) < before
    assert len(update(base, examples, plan, limit=2)) == 2
    update(base, examples, plan)
    assert all(torch.equal(once[name], value) for name, value in state_of(base.method).items())
    base.restore()
    assert float(base.method.loss(examples).detach()) == pytest.approx(before)


def test_what_watches_takes_no_second_of_the_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    base = toy_loop()

    def watch(steps: int) -> None:
        clock[0] += 100.0

    assert update(base, list(toy_material().examples), LoopPlan(1e-3, 2, 2), watch) == [0.0, 0.0]


def test_a_base_of_the_baseline_that_was_stopped_comes_to_the_same(tmp_path: Path) -> None:
    schedule, examples = replace(SCHEDULE, epochs=3, batch_size=2), list(toy_material().examples)

    def method() -> ProjectorLora:
        made = make_method("projector-lora", toy_material(), schedule)
        assert isinstance(made, ProjectorLora)
        return made

    straight, stopped, resumed = method(), method(), method()
    train_base(straight, examples, Checkpoint(tmp_path / "a", "a", 1e9))
    step, done = stopped.step, list[int]()

    def until_the_third(batch: Any) -> float:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(1)
        return step(batch)

    stopped.step = until_the_third  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        train_base(stopped, examples, Checkpoint(tmp_path / "b", "b", 0.0))
    train_base(resumed, examples, Checkpoint(tmp_path / "b", "b", 1e9))
    assert all(torch.equal(value, state_of(straight)[name]) for name, value in state_of(resumed).items())


def test_a_curve_of_the_baseline_goes_from_its_base_to_its_end() -> None:
    items = said("ann", ["go", "stop it", "a b", "yes now"])
    curve = loop_curve(toy_loop(), Fold("ann", 0, items[:2], items[2:]), LoopPlan(1e-3, LOOP_EVERY + 2, 2))
    assert [steps for steps, _, _ in curve] == [0, LOOP_EVERY, LOOP_EVERY + 2]
    assert {words for _, _, words in curve} == {4}


def test_the_best_plan_has_the_fewest_errors_on_all_folds() -> None:
    fold = Fold("ann", 0, [], [])
    low, high = OurPlan(FULL, 1e-4, 60, 8), OurPlan(FULL, 3e-4, 60, 8)
    known = {piece(low, "tuning", fold): (5, 10), piece(high, "tuning", fold): (4, 10)}
    assert best(known, [low, high], "tuning", [fold]) == high
    assert best({**known, piece(low, "tuning", fold): (4, 10)}, [high, low], "tuning", [fold]) == low
    assert best(known, [low, high], "judging", [fold]) is None


def test_what_is_kept_is_not_measured_again_unless_it_is_forgotten() -> None:
    kept = Kept("x", (), "told")
    assert kept.get("a", lambda: 1) == 1
    again = Kept("x", (), "told")
    assert again.get("a", lambda: 2) == 1
    again.forget("")
    assert Kept("x", (), "told").get("a", lambda: 3) == 3
    assert Kept("x", (), "other").known == {}


def told(quality: Quality, race: Race) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures(quality, race)}


def raced(loop: list[list[int]]) -> Race:
    plans = {"ours": OurPlan(SPARSE, 1e-2, 15, 8), "loop": LoopPlan(1e-3, 20, 8)}
    curves = {"ours": [[[0, 50, 100], [3, 30, 100], [15, 20, 100]]], "loop": [loop]}
    return Race(plans, curves, Clock(first=0.3, whole=1.0, steps=15, loop=2.0), 1, 5)


def test_the_ratio_is_of_seconds_to_the_wer_that_ours_ends_at() -> None:
    figure = told(Quality(), raced([[0, 60, 100], [10, 20, 100], [15, 25, 100], [20, 20, 100]]))[
        "personal_update_ratio"
    ]
    assert (figure.value, figure.met) == (40.0, False)  # 20 steps of 2 s, not 10, over 1 s


def test_a_baseline_that_is_not_there_gives_a_lower_bound_and_a_wer_that_both_reach() -> None:
    found = told(Quality(), raced([[0, 60, 100], [10, 30, 100], [20, 30, 100]]))
    assert found["personal_update_ratio"].value == 40.0
    assert "a lower bound" in found["personal_update_ratio"].note
    assert found["personal_update_ratio_at_the_baselines_end"].value == pytest.approx(
        20 / (0.3 + 0.7 * 2 / 14), abs=1e-3
    )


def test_the_same_gain_is_a_share_of_each_sides_own_errors() -> None:
    # ours goes from 0.5 to 0.2: the baseline, from 0.6, has gained as much at 0.24, before it ever comes to 0.2
    found = told(Quality(), raced([[0, 60, 100], [10, 24, 100], [20, 22, 100]]))
    assert found["personal_update_ratio_to_the_same_gain"].value == 20.0  # 10 steps of 2 s over 1 s
    assert found["personal_update_ratio"].value == 40.0


def test_where_a_base_is_there_already_there_is_no_ratio() -> None:
    figure = told(Quality(), raced([[0, 10, 100], [20, 10, 100]]))["personal_update_ratio"]
    assert (figure.value, figure.met) == (None, False)


def test_an_update_that_makes_it_worse_wins_no_race() -> None:
    race = raced([[0, 60, 100], [20, 55, 100]])
    race.curves["ours"] = [[[0, 20, 100], [3, 30, 100], [15, 25, 100]]]
    found = told(Quality(), race)
    figure = found["personal_update_ratio"]
    assert (figure.value, figure.met) == (None, False) and "no better than its base's 0.2000" in figure.note
    assert found["personal_update_ratio_at_the_baselines_end"].value is None


def test_sparse_is_chosen_on_tuning_users_and_only_where_it_is_sparse() -> None:
    two, plan = Candidate("shira", "gradient", 0.02), OurPlan(FULL, 1e-3, 60, 8)
    quality = Quality(
        base=(50, 100),
        judged={FULL: (20, 100), SPARSE: (30, 100), two: (25, 100), DENSER: (15, 100)},
        plans=dict.fromkeys((FULL, SPARSE, two, DENSER), plan),
        tuning={FULL: (20, 100), SPARSE: (22, 100), two: (24, 100), DENSER: (10, 100)},
    )
    found = told(quality, Race())
    assert (found["sparse_over_dense_wer"].value, found["sparse_over_dense_wer"].met) == (1.5, False)
    assert found["personal_wer_over_base_wer"].value == 0.6
    assert found["dense_wer_over_base_wer"].value == 0.4


def test_what_is_not_measured_is_not_met(tmp_path: Path) -> None:
    found = told(Quality(), Race())
    for name in ("sparse_over_dense_wer", "personal_update_ratio"):
        assert (found[name].value, found[name].met) == (None, False)
    assert personal_plots.draw(plots(Quality(), Race()), tmp_path) == []


def toy_bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    material = toy_material()
    table = toy_llm().get_input_embeddings().weight.detach()
    for module in ("benchmarks.alignment", "benchmarks.personal_users"):
        monkeypatch.setattr(f"{module}.embedding_rows", lambda llm, ids: table[list(ids)])
    monkeypatch.setattr(personal_loop, "load_llm", lambda llm: (toy_llm(), material.tokenizer))
    monkeypatch.setattr(personal_loop, "read_identity", lambda llm: "toy")
    return Bench(load_settings(corpora.ROOT), Path("toy"), material.tokenizer, material.bridge)


def test_a_quick_run_goes_through_every_part_and_a_second_one_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, texts = toy_bench(monkeypatch), ["go", "stop it", "a b", "yes now"]
    people = People(said("ann", texts), folds_of("bob", said("bob", texts), 2), folds_of("cat", said("cat", texts), 2))
    monkeypatch.setattr(Bench, "open", lambda: bench)
    monkeypatch.setattr(personal, "people", lambda train, users: people)
    monkeypatch.setenv("EDGEALIGN_PERSONAL_QUICK", "1")
    path = personal.run()
    assert path.parent == tmp_path / "quick"  # never docs/benchmarks
    area = json.loads(path.read_text())
    names = {figure["name"] for figure in area["figures"]}
    assert {"personal_update_ratio", "sparse_over_dense_wer", "wer_full", "race_wer_end_projector_lora"} <= names
    made = personal_plots.draw(
        {"personal_race": {"embedlink": [[0, 0.5], [1, 0.1]], "projector-lora": [[50, 0.2]]}}, tmp_path
    )
    assert (tmp_path / made[0][0]).stat().st_size > 5_000
    for name in ("judged", "judged_at", "our_curve", "loop_curve", "time_ours", "time_loop", "loop_base"):
        monkeypatch.setattr(personal, name, lambda *_: pytest.fail("measured again"))
    assert json.loads(personal.run().read_text())["figures"] == area["figures"]


def test_one_training_judges_every_strength_as_an_update_of_that_strength_is_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench, texts = toy_bench(monkeypatch), ["go", "stop it", "a b", "yes now", "go stop", "it now"]
    base, [fold, *_] = our_base(bench, said("ann", texts), 4), folds_of("bob", said("bob", texts), 3)
    plan = OurPlan(FULL, 3e-2, 6, 4, masked=False)
    settings = personal_config(bench.settings)
    strengths = (1.0, 0.5, 0.05)

    def change(_: object, base: Any, __: object, bridge: Any) -> Any:
        """What is judged, in the place of errors: of so small a model they are the same at every strength."""
        pairs = zip(bridge.parameters(), base.bridge.parameters(), strict=True)
        return SimpleNamespace(errors=sum(float((now - before).abs().sum()) for now, before in pairs), words=1)

    monkeypatch.setattr(personal_updates, "errors_of", change)
    found = [errors for errors, _ in judged_at(bench, base, fold, plan, settings, strengths)]
    apart = [judged(bench, base, fold, replace(plan, strength=one), settings)[0] for one in strengths]
    assert found == pytest.approx(apart, rel=1e-3)  # an update is stored in half precision
    assert found == pytest.approx([found[0] * strength for strength in strengths], rel=1e-3) and found[0] > 0


def test_the_base_of_the_baseline_is_trained_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, items = toy_bench(monkeypatch), said("ann", ["go", "stop it", "a b", "yes now"])
    first = loop_base(bench, items, 2)
    monkeypatch.setattr(personal_loop, "train_base", lambda *_: pytest.fail("trained again"))
    again = loop_base(bench, items, 2)
    assert all(torch.equal(value, again.state[name]) for name, value in first.state.items())
    assert [item.text for item in spoken(items)] == [item.text for item in items]


def test_size_comes_from_the_environment() -> None:
    assert personal.size_asked() == personal.Size()
