"""The comparison's own arithmetic: when a quality counts as reached, what a ratio is made from, what is kept when stopped."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import corpora, methods, methods_plots, methods_runs
from benchmarks.methods_figures import figures, median_seconds, median_seconds_raw, plots
from benchmarks.methods_runs import KeptRuns, Plan, Run, equal_plan, run_method
from benchmarks.record import Figure
from stages.alignment.methods.embedlink import EmbedLinkMethod
from stages.alignment.methods.names import NAMES
from stages.alignment.methods.protocol import Schedule
from stages.alignment.methods.registry import make_method
from stages.alignment.trainer import Masking
from stages.errors import InputError
from tests.helpers_methods import toy_material

PLAN = Plan(Schedule(epochs=3, batch_size=2, learning_rate=1e-3), 100.0, judge_every=2)


@pytest.fixture(autouse=True)
def in_a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "CACHE", tmp_path)


def finished(method: str, curve: list[tuple[float, float, int]], seed: int = 0, **more: Any) -> Run:
    fields = {"kind": "whole", "stopped": "schedule done", "words": 100, "trainable_parameters": 7, "batch_size": 8}
    fields |= {
        "step_seconds": 2.0 if method != "embedlink" else 0.4,
        "judge_seconds": 1.0,
        "steps": curve[-1][2] if curve else 0,
    }
    fields |= {"seconds": curve[-1][0] if curve else 0.0, "wer": curve[-1][1] if curve else 0.3, "curve": curve}
    return Run(method=method, seed=seed, **{**fields, **more})  # type: ignore[arg-type]  # a mapping of mixed values


OURS = [finished("embedlink", [(4.0, 0.5, 10), (8.0, 0.09, 20), (10.0, 0.04, 30)], seed) for seed in (0, 1, 2)]
THEIRS = finished("projector", [(200.0, 0.09, 100), (400.0, 0.2, 200), (800.0, 0.1, 400), (1000.0, 0.08, 500)])
NEVER = finished("qformer", [(500.0, 0.9, 300)], stopped="budget of 500 s spent")


def kept_with(*runs: Run, **costs: Any) -> KeptRuns:
    kept = KeptRuns("test")
    kept.runs, kept.costs = list(runs), {name.replace("_", " "): value for name, value in costs.items()}
    return kept


def told(kept: KeptRuns) -> dict[str, Figure]:
    plans = dict.fromkeys(NAMES, PLAN)
    return {figure.name: figure for figure in figures(kept, plans, (0, 1, 2), 0.10, 10)}


def test_a_quality_is_reached_where_the_curve_stays_at_or_under_it() -> None:
    assert THEIRS.seconds_to(0.10) == 800.0  # not at 200 s, where it did not stay
    assert THEIRS.steps_to(0.10) == 400
    assert NEVER.seconds_to(0.10) is None
    assert NEVER.steps_to(0.10) is None


def test_a_run_that_never_got_there_is_slower_than_any_other_in_the_median() -> None:
    never = replace(THEIRS, curve=[(900.0, 0.5, 450)])
    assert median_seconds([THEIRS, THEIRS, never], 0.10) == 800.0
    assert median_seconds([THEIRS, never, never], 0.10) == math.inf


def test_raw_audio_adds_an_encoding_for_each_utterance_of_each_step() -> None:
    assert median_seconds_raw([THEIRS], 0.10, 0.4) == pytest.approx(800 + 400 * 8 * 0.4)


def test_the_ratio_is_of_the_best_method_in_the_loop() -> None:
    slower = replace(THEIRS, method="projector-lora", curve=[(1200.0, 0.05, 500)])
    found = told(kept_with(*OURS, THEIRS, slower, NEVER, padded_encoding=0.4))
    assert found["time_ratio_cached_features"].value == 100.0
    assert found["time_ratio_cached_features"].met
    assert "best in the loop: projector;" in found["time_ratio_cached_features"].note
    assert found["time_ratio_raw_audio_baseline"].value == pytest.approx((800 + 1280) / 8)
    assert found["seconds_to_wer_0.10_qformer"].value is None
    assert "never got there in [500.0] s" in found["seconds_to_wer_0.10_qformer"].note
    assert "budget 100 s" in found["seconds_to_wer_0.10_qformer"].note


def test_steps_that_something_else_slowed_down_do_not_help_us() -> None:
    disturbed = replace(THEIRS, step_seconds=1.0)  # 400 steps that took 800 s, most of them a second each
    assert told(kept_with(*OURS, disturbed))["time_ratio_cached_features"].value == 50.0
    lucky = [replace(run, step_seconds=0.8) for run in OURS]  # most steps were slower than those before the threshold
    assert told(kept_with(*lucky, disturbed))["time_ratio_cached_features"].value == 25.0


def test_every_run_of_a_baseline_counts_the_steps_of_its_quickest_one() -> None:
    quick = replace(THEIRS, step_seconds=1.0)
    assert median_seconds([THEIRS, quick, THEIRS], 0.10) == 400.0
    own = [replace(run, step_seconds=run.step_seconds * 10) for run in OURS]
    assert median_seconds([*own, OURS[0]], 0.10, max) == median_seconds(own, 0.10, max)


def test_where_no_baseline_got_there_the_ratio_is_said_to_be_a_lower_bound() -> None:
    figure = told(kept_with(*OURS, NEVER))["time_ratio_cached_features"]
    assert figure.value == pytest.approx(500 / 8, abs=1e-3)
    assert "a lower bound" in figure.note
    assert "qformer spent most, 500 s" in figure.note


def test_where_ours_did_not_get_there_there_is_no_ratio() -> None:
    figure = told(kept_with(replace(OURS[0], curve=[(10.0, 0.5, 30)]), THEIRS))["time_ratio_cached_features"]
    assert (figure.value, figure.met) == (None, False)


def test_equal_budget_takes_the_best_baseline_and_the_same_seed() -> None:
    others = [
        finished(name, [(95.0, wer, 50)], kind="equal") for name, wer in (("projector", 0.8), ("projector-lora", 0.4))
    ]
    figure = told(kept_with(*OURS, *others))["errors_at_equal_budget"]
    assert figure.value == pytest.approx(0.04 / 0.4)
    assert figure.met
    assert "projector 0.800 (95 s)" in figure.note


def test_what_is_not_measured_yet_is_not_met() -> None:
    found = told(kept_with())
    for name in ("time_ratio_cached_features", "errors_at_equal_budget", "peak_training_memory"):
        assert (found[name].value, found[name].met) == (None, False), name


def test_an_equal_plan_is_a_whole_schedule_of_the_steps_that_fit() -> None:
    plan = equal_plan(PLAN, 2.0, 170.0)
    assert plan.schedule.limit == 85
    assert plan.schedule.steps(10_000) == 85
    assert equal_plan(PLAN, 2.0, 0.1).schedule.limit == 1


def test_finished_runs_are_found_again_and_never_under_other_settings() -> None:
    kept = KeptRuns("one")
    kept.add(THEIRS)
    assert kept.cost("answer", lambda: 42) == 42
    again = KeptRuns("one")
    assert again.runs == [THEIRS]
    assert again.cost("answer", lambda: 43) == 42
    assert again.find("projector", 0) == THEIRS
    assert again.find("projector", 1) is None
    assert again.find("projector", 0, "equal") is None
    assert KeptRuns("another").runs == []


def toy_split(seed: int = 0) -> Any:
    material = toy_material()
    return SimpleNamespace(
        seed=seed,
        material=material,
        training=list(material.examples),
        judged=material.examples[:2],
        unseen=material.examples,
    )


def test_a_run_ends_with_its_schedule_and_is_judged_on_the_way() -> None:
    run = run_method("ctc-only", toy_split(), PLAN)
    assert (run.steps, run.stopped) == (6, "schedule of 6 steps done")
    assert [steps for _, _, steps in run.curve] == [2, 4, 6]
    assert run.curve[-1][0] == run.seconds > 0.0
    late = run_method("ctc-only", toy_split(), replace(PLAN, judge_from=0.9))
    assert [steps for _, _, steps in late.curve] == [6]


def test_a_run_ends_with_its_budget_and_says_so() -> None:
    run = run_method("ctc-only", toy_split(), replace(PLAN, budget_s=1e-9))
    assert (run.steps, run.stopped) == (1, "budget of 1e-09 s spent at step 1 of 6")
    assert len(run.curve) == 1


def test_judging_counts_in_no_training_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only judging moves."""
    clock = [0.0]
    judge = methods_runs.judge

    def slow(method: Any, items: Any) -> Any:
        clock[0] += 100.0
        return judge(method, items)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(methods_runs, "judge", slow)
    run = run_method("ctc-only", toy_split(), replace(PLAN, budget_s=1.0))
    assert (run.seconds, run.judge_seconds) == (0.0, 400.0)  # three on the way and one at the end
    assert run.steps == 6


def test_the_cascade_is_judged_without_a_step() -> None:
    run = run_method("cascade", toy_split(), PLAN)
    assert (run.steps, run.seconds, run.stopped, run.curve) == (0, 0.0, "does not learn", [])


def test_a_method_that_nobody_judged_before_it_was_there_is_told_of() -> None:
    late = finished("projector-lora", [(400.0, 0.09, 100), (500.0, 0.08, 200)])
    note = told(kept_with(*OURS, late))["time_ratio_cached_features"].note
    assert "projector-lora was there when first judged, after 400 s" in note
    early = finished("projector-lora", [(200.0, 0.3, 50), (400.0, 0.09, 100)])
    assert "first judged" not in told(kept_with(*OURS, early))["time_ratio_cached_features"].note


def test_every_method_has_a_plan() -> None:
    assert tuple(methods.PLANS)[:3] == ("embedlink", "ctc-only", "cascade")  # the quick ones first: short before long
    assert sorted(methods.PLANS) == sorted(NAMES)


def test_a_plan_changes_the_sizes_and_the_masks_of_embedlink_alone() -> None:
    material = toy_material()
    plan = replace(PLAN, sizes={"layers": 2, "scale": 20.0}, masked=False)
    changed = plan.material(material)
    assert changed.bridge == replace(material.bridge, layers=2, scale=20.0)
    assert changed.masking == Masking(0, 0, 0, 0) and material.masking != changed.masking
    assert PLAN.material(material) == material
    method = make_method("embedlink", changed, plan.schedule)
    assert isinstance(method, EmbedLinkMethod)
    assert method.trainer.config.masking == changed.masking
    assert method.trainer.bridge.log_scale.exp().item() == pytest.approx(20.0)
    assert {name for name, one in methods.PLANS.items() if one.sizes or not one.masked} == {"embedlink"}


def test_seeds_and_size_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert methods.size_asked() == methods.Size()
    monkeypatch.setenv("EDGEALIGN_METHODS_SEEDS", "2, 0")
    assert methods.size_asked().seeds == (2, 0)
    monkeypatch.setenv("EDGEALIGN_METHODS_QUICK", "1")
    quick = methods.size_asked()
    assert quick.seeds == (2,)
    assert quick.folder == tmp_path / "quick"  # never docs/benchmarks
    monkeypatch.setenv("EDGEALIGN_METHODS_SEEDS", "two")
    with pytest.raises(InputError, match="whole numbers"):
        methods.size_asked()


def test_pictures_are_drawn_from_what_is_there(tmp_path: Path) -> None:
    assert methods_plots.draw(plots(kept_with()), tmp_path) == []
    memory = {
        "beyond_bytes": 3e8,
        "trainable_parameters": 2_000_000,
        "llm_loaded": 0,
        "start_bytes": 1,
        "peak_bytes": 2,
    }
    sizes = [
        {"parameters": size, "projector": size / 1e8, "embedlink": 0.05, "ratio": size / 5e6} for size in (1e8, 3e8)
    ]
    whole = kept_with(*OURS, THEIRS, NEVER, finished("cascade", []), memory_embedlink=memory, llm_sizes=sizes)
    made = methods_plots.draw(plots(whole), tmp_path)
    assert [name for name, _ in made] == ["methods_quality.png", "methods_costs.png", "methods_llm_size.png"]
    assert all((tmp_path / name).stat().st_size > 5_000 for name, _ in made)
    assert set(methods_plots.LOOKS) == set(NAMES) - {"cascade"}
