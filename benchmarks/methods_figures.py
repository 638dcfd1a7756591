"""From finished runs to figures and plots. What is not measured yet is told as such, never left out."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.methods_runs import KeptRuns, Plan, Run
from benchmarks.record import Figure, at_least, at_most, plain
from stages.alignment.methods.names import IN_THE_LOOP, NAMES

MISSING = "not measured yet"


def figures(
    kept: KeptRuns, plans: Mapping[str, Plan], seeds: Sequence[int], threshold: float, equal_budget: int
) -> list[Figure]:
    """Every figure of the area, in the order in which a reader wants them."""
    runs = {name: [run for run in kept.of(name) if run.seed in seeds] for name in NAMES}
    padded = kept.costs.get("padded encoding")
    found = [
        _ratio_cached(runs, threshold, seeds),
        _ratio_raw(runs, threshold, padded, seeds),
        _equal(kept, runs, equal_budget),
        _memory(kept),
        *_by_llm_size(kept.costs.get("llm sizes")),
    ]
    for name in NAMES:
        if runs[name] and runs[name][0].trainable_parameters:
            found.append(_seconds(name, runs[name], plans[name], threshold))
    for name in NAMES:
        if runs[name]:
            by_seed = [run.wer for run in runs[name]]
            note = (
                f"{runs[name][0].words} words of all unseen speakers' utterances (first seed); by seed: {by_seed}; "
                + ("; ".join(dict.fromkeys(run.stopped for run in runs[name])))
            )
            found.append(plain(f"wer_{_key(name)}", statistics.mean(by_seed), "", seeds=_seeds(runs[name]), note=note))
    for name in NAMES:
        told = kept.costs.get(f"memory {name}")
        if told:
            note = "LLM loaded" if told["llm_loaded"] else "LLM not loaded"
            found.append(plain(f"peak_memory_{_key(name)}", told["beyond_bytes"], "bytes", note=note))
            found.append(plain(f"trainable_parameters_{_key(name)}", told["trainable_parameters"], ""))
            if runs[name]:
                batch = f"median, batch {runs[name][0].batch_size}"
                found.append(plain(f"step_seconds_{_key(name)}", quickest_step(runs[name]), "s", note=batch))
    if padded is not None:
        found.append(
            plain("padded_encoding_seconds", padded, "s", note="an utterance in Whisper's 30 s window; median")
        )
    return found


def median_seconds(runs: Sequence[Run], threshold: float, cautious: Callable[[float, float], float] = min) -> float:
    """Median over seeds; a run that never got there counts as slower than any other. Infinite where most did not.

    A run's seconds are those that were measured, or its steps at the quickest run's median time where that is less: what else
    the machine did for a while makes nobody slower. ``cautious`` max takes the larger of the measured and its own median's,
    for our own.
    """
    return statistics.median(_seconds_of(run, runs, threshold, cautious) for run in runs)


def median_seconds_raw(
    runs: Sequence[Run], threshold: float, padded_s: float, cautious: Callable[[float, float], float] = min
) -> float:
    """The same from raw audio: every utterance of every step is encoded in the padded window first."""
    times = []
    for run in runs:
        steps = run.steps_to(threshold)
        known = steps is not None
        seconds = _seconds_of(run, runs, threshold, cautious)
        times.append(seconds + steps * run.batch_size * padded_s if known else math.inf)  # type: ignore[operator]
    return statistics.median(times)


def _seconds_of(run: Run, runs: Sequence[Run], threshold: float, cautious: Callable[[float, float], float]) -> float:
    measured, steps = run.seconds_to(threshold), run.steps_to(threshold)
    if measured is None or steps is None:
        return math.inf
    step = run.step_seconds if cautious is max else quickest_step(runs)
    return cautious(measured, steps * step)


def quickest_step(runs: Sequence[Run]) -> float:
    """A method's median step in the run in which it was shortest: what disturbed another run slows no baseline down."""
    return min(run.step_seconds for run in runs)


def _key(name: str) -> str:
    return name.replace("-", "_")


def _seeds(runs: Sequence[Run]) -> tuple[int, ...]:
    return tuple(run.seed for run in runs)


def _unknown(name: str, unit: str, asked: str, note: str = MISSING) -> Figure:
    return Figure(name, None, unit, asked, False, (), note)


def _seconds(name: str, runs: Sequence[Run], plan: Plan, threshold: float) -> Figure:
    figure = f"seconds_to_wer_{threshold:.2f}_{_key(name)}"
    told = [run.seconds_to(threshold) for run in runs]
    schedule = plan.schedule
    note = (
        f"median; batch {schedule.batch_size}, one-cycle to {schedule.learning_rate:g} over {schedule.epochs} epochs, budget "
        f"{plan.budget_s:g} s; "
        f"its steps at the quickest run's median time where that is less than what was measured, by seed: {told}"
    )
    median = median_seconds(runs, threshold)
    if math.isinf(median):
        spent = [run.seconds for run in runs]
        return Figure(figure, None, "s", "", None, _seeds(runs), f"never got there in {spent} s; {note}")
    return plain(figure, median, "s", seeds=_seeds(runs), note=note)


def _ratio(
    figure: str, limit: float, times: Mapping[str, float], spent: Mapping[str, float], own: float, note: str, seeds: Any
) -> Figure:
    """Best in-loop method's seconds over embedlink's; a lower bound where none of them got there."""
    if math.isinf(own):
        return _unknown(figure, "×", f"≥ {limit:g}", "embedlink itself did not get there")
    best = min(times, key=lambda name: times[name])
    if not math.isinf(times[best]):
        return at_least(figure, times[best] / own, limit, "×", seeds=seeds, note=f"best in the loop: {best}; {note}")
    longest = max(spent, key=lambda name: spent[name])
    told = f"a lower bound: no method in the loop got there; {longest} spent most, {spent[longest]:.0f} s; {note}"
    return at_least(figure, spent[longest] / own, limit, "×", seeds=seeds, note=told)


def _judged_late(runs: Mapping[str, Sequence[Run]], loop: Sequence[str], threshold: float) -> str:
    """Which methods nobody had judged before they were there: their ratio is the most that it can be."""
    late = {
        name: min(run.curve[0][0] for run in runs[name] if run.curve and run.curve[0][1] <= threshold)
        for name in loop
        if any(run.curve and run.curve[0][1] <= threshold for run in runs[name])
    }
    told = (
        f"; {name} was there when first judged, after {seconds:.0f} s, and may have been sooner"
        for name, seconds in late.items()
    )
    return "".join(told)


def _ratio_cached(runs: Mapping[str, Sequence[Run]], threshold: float, seeds: Sequence[int]) -> Figure:
    figure = "time_ratio_cached_features"
    loop = [name for name in IN_THE_LOOP if runs[name]]
    if not loop or not runs["embedlink"]:
        return _unknown(figure, "×", "≥ 100")
    own = median_seconds(runs["embedlink"], threshold, max)
    times = {name: median_seconds(runs[name], threshold) for name in loop}
    spent = {name: statistics.median(run.seconds for run in runs[name]) for name in loop}
    note = f"embedlink {own:.1f} s to WER {threshold:g}{_judged_late(runs, loop, threshold)}"
    return _ratio(figure, 100.0, times, spent, own, note, seeds)


def _ratio_raw(
    runs: Mapping[str, Sequence[Run]], threshold: float, padded: float | None, seeds: Sequence[int]
) -> Figure:
    figure = "time_ratio_raw_audio_baseline"
    loop = [name for name in IN_THE_LOOP if runs[name]]
    if not loop or not runs["embedlink"] or padded is None:
        return _unknown(figure, "×", "≥ 250")
    own = median_seconds(runs["embedlink"], threshold, max)
    times = {name: median_seconds_raw(runs[name], threshold, padded) for name in loop}
    spent = {
        name: statistics.median(run.seconds + run.steps * run.batch_size * padded for run in runs[name])
        for name in loop
    }
    note = (
        f"as practised: {padded:.3f} s of padded encoding, measured alone, added for each utterance of each step; the 30 s "
        "window's longer input to the LLM is not added; embedlink on cached features"
        f"{_judged_late(runs, loop, threshold)}"
    )
    return _ratio(figure, 250.0, times, spent, own, note, seeds)


def _equal(kept: KeptRuns, runs: Mapping[str, Sequence[Run]], times: int) -> Figure:
    figure = "errors_at_equal_budget"
    others = {name: kept.of(name, "equal")[0] for name in IN_THE_LOOP if kept.of(name, "equal")}
    own = next((run for run in runs["embedlink"] if run.seed in {other.seed for other in others.values()}), None)
    if own is None:
        return _unknown(figure, "", "≤ 0.2")
    best = min(others, key=lambda name: others[name].wer)
    told = ", ".join(f"{name} {run.wer:.3f} ({run.seconds:.0f} s)" for name, run in others.items())
    note = (
        f"embedlink's WER {own.wer:.3f} after {own.seconds:.1f} s over the best baseline's ({best}) after {times} times that, "
        f"each with a schedule of that length: {told}; first seed"
    )
    if not others[best].wer:
        return _unknown(figure, "", "≤ 0.2", f"the best baseline makes no error; {note}")
    return at_most(figure, own.wer / others[best].wer, 0.2, "", seeds=(own.seed,), note=note)


def _memory(kept: KeptRuns) -> Figure:
    told = kept.costs.get("memory embedlink")
    if told is None:
        return _unknown("peak_training_memory", "bytes", "≤ 1e+09")
    note = (
        f"embedlink beyond the process's own start ({told['start_bytes'] / 1e6:.0f} MB after imports), in a fresh process, "
        f"longest batches, LLM not loaded; the peak in all is {told['peak_bytes'] / 1e6:.0f} MB"
    )
    return at_most("peak_training_memory", told["beyond_bytes"], 1e9, "bytes", note=note)


def _by_llm_size(sizes: Sequence[Mapping[str, float]] | None) -> list[Figure]:
    if not sizes:
        return []
    ratios = [item["ratio"] for item in sizes]
    told = "; ".join(
        f"{item['parameters'] / 1e6:.0f} M: {item['projector']:.3f} s against {item['embedlink']:.4f} s"
        for item in sizes
    )
    note = f"a step's seconds an utterance, projector over embedlink, LLMs of random weights: {told}"
    return [
        Figure(
            "step_ratio_growth_with_llm",
            round(ratios[-1] / ratios[0], 3),
            "×",
            "> 1, growing",
            all(later > earlier for earlier, later in itertools.pairwise(ratios)),
            note=f"largest LLM's ratio over the smallest's; {note}",
            details={"sizes": [dict(item) for item in sizes]},
        )
    ]


def plots(kept: KeptRuns) -> dict[str, Any]:
    """What the pictures are drawn from."""
    quality = {
        f"{run.method}, seed {run.seed}": [[seconds, wer] for seconds, wer, _ in run.curve]
        for run in kept.runs
        if run.kind == "whole" and run.curve
    }
    costs = {
        name: {"memory_bytes": told["beyond_bytes"], "trainable_parameters": told["trainable_parameters"]}
        for name in NAMES
        if (told := kept.costs.get(f"memory {name}"))
    }
    cascade = kept.of("cascade")
    return {
        "methods_quality": {"curves": quality, "cascade_wer": cascade[0].wer if cascade else None},
        "methods_costs": costs,
        "methods_llm_size": kept.costs.get("llm sizes", []),
    }
