"""From finished runs to the figures of the ablation and of the schedules, and what the plot is drawn from."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ablation_runs import JOINED, Variant
from benchmarks.methods_figures import median_seconds, median_seconds_raw
from benchmarks.methods_runs import KeptRuns, Run
from benchmarks.record import Figure, at_least, machine, plain
from stages.alignment.methods.names import IN_THE_LOOP

REFERENCE, QUICKEST, WARM, PADDED = "reference", "lower_frame_rate", "warm_start", "padded_window"
"""``QUICKEST``: of the schedules from scratch, by training speakers alone (docs/notes.md), before this was measured."""

TITLES = {
    REFERENCE: "embedlink as params.yaml has it, 4 frames stacked, in a schedule of half its length",
    "positions": "a sinusoidal positional encoding added to the steps before the first block",
    "no_embedding_term": "embedding_weight 0: CTC alone",
    PADDED: "stored frames of the padded 30 s window, cut to the utterance, for training and for judging; first seed only",
    QUICKEST: "6 frames stacked instead of 4, a higher rate, fewer epochs",
    WARM: "begins with a base that was trained on synthetic speech alone; its schedule is untuned",
}
Runs = dict[str, list[Run]]


def figures(
    kept: KeptRuns, variants: Mapping[str, Variant], seeds: Sequence[int], threshold: float, methods: Path
) -> list[Figure]:
    """Every figure. ``methods``: the methods' comparison's file, for what only it has measured."""
    runs = {name: [run for run in kept.of(name, "ablation") if run.seed in seeds] for name in variants}
    found: list[Figure] = []
    for name in variants:
        if runs[name]:
            found += _trained(name, variants[name], runs, threshold, kept)
    baseline = read_baselines(methods, threshold)
    return [*_ratios(runs, threshold, baseline), *found, *_computed(kept, runs, threshold, baseline), *_updates(kept)]


def _seeds(runs: Sequence[Run]) -> tuple[int, ...]:
    return tuple(run.seed for run in runs)


def _seconds(name: str, value: float, threshold: float, seeds: Sequence[int], note: str) -> Figure:
    """Seconds to the threshold; a run that does not get there has none."""
    figure = f"seconds_to_wer_{threshold:.2f}_{name}"
    if math.isinf(value):
        return Figure(figure, None, "s", "", None, seeds, f"most seeds never stayed there; {note}")
    return plain(figure, value, "s", seeds=seeds, note=note)


def _trained(name: str, variant: Variant, runs: Runs, threshold: float, kept: KeptRuns) -> list[Figure]:
    """A variant that was trained: seconds to the threshold, a step, errors on all unseen and on joined utterances."""
    own, seeds, schedule = runs[name], _seeds(runs[name]), variant.schedule
    how = (
        f"{TITLES[name]}; batch {schedule.batch_size}, one-cycle to {schedule.learning_rate:g} over {schedule.epochs} epochs; "
        f"judged every {variant.judge_every} steps; by seed: {[run.seconds_to(threshold) for run in own]}"
    )
    if variant.warm and "start seconds" in kept.costs:
        how += f"; the start itself took {kept.costs['start seconds']:.1f} s, once and not counted here"
        how += f"; WER before the first step {[run.curve[0][1] for run in own]}"
    wers = [run.wer for run in own]
    found = [
        _seconds(name, median_seconds(own, threshold, max), threshold, seeds, how),
        plain(
            f"seconds_whole_schedule_{name}",
            statistics.median(run.seconds for run in own),
            "s",
            seeds=seeds,
            note="median",
        ),
        plain(
            f"step_seconds_{name}", statistics.median(run.step_seconds for run in own), "s", seeds=seeds, note="median"
        ),
        plain(
            f"wer_{name}",
            statistics.mean(wers),
            "",
            seeds=seeds,
            note=f"all unseen speakers' utterances, after the last step; by seed: {wers}",
        ),
    ]
    long = [kept.costs[key] for seed in seeds if (key := f"joined {name} {seed}") in kept.costs]
    if long:
        note = f"the same utterances joined {JOINED} and {JOINED}: a length that was never trained; by seed: {long}"
        found.append(plain(f"wer_joined_{name}", statistics.mean(long), "", seeds=seeds, note=note))
    return found


def read_baselines(path: Path, threshold: float) -> dict[str, Any]:
    """Of the methods' comparison: ``seconds`` to the threshold of each in-loop method that got there, ``wer`` and ``step`` of
    projector (None where unknown), ``same_machine``. Empty where it has not been measured."""
    if not path.is_file():
        return {}
    area = json.loads(path.read_text(encoding="utf-8"))
    values = {figure["name"]: figure["value"] for figure in area["figures"]}
    seconds = {name: values.get(f"seconds_to_wer_{threshold:.2f}_{name.replace('-', '_')}") for name in IN_THE_LOOP}
    return {
        "seconds": {name: value for name, value in seconds.items() if value is not None},
        "wer": values.get("wer_projector"),
        "step": values.get("step_seconds_projector"),
        "same_machine": area["machine"] == machine(),
        "date": area["date"],
    }


def _ratios(runs: Runs, threshold: float, baseline: Mapping[str, Any]) -> list[Figure]:
    """The best in-loop method's seconds over each schedule's. Asked is one of a schedule that begins from scratch."""
    found = []
    for name in (QUICKEST, REFERENCE, WARM):
        asked = name == QUICKEST
        figure = "time_ratio_quickest_schedule" if asked else f"time_ratio_{name}"
        why = _no_ratio(baseline)
        own = median_seconds(runs[name], threshold, max) if runs.get(name) else math.inf
        if not why and (math.isinf(own) or not own):
            why = "the schedule did not get there" if own else "the start itself is there before the first step"
        if why:
            found.append(Figure(figure, None, "×", "≥ 100" if asked else "", False if asked else None, (), why))
            continue
        best = min(baseline["seconds"], key=lambda method: baseline["seconds"][method])
        note = (
            f"{best}'s {baseline['seconds'][best]:.0f} s to WER {threshold:g} in the methods' comparison of "
            f"{baseline['date']}, this machine, another run, over {own:.2f} s ({TITLES[name]}); cached features for both"
        )
        seeds = _seeds(runs[name])
        value = baseline["seconds"][best] / own
        found.append(
            at_least(figure, value, 100.0, "×", seeds=seeds, note=note)
            if asked
            else plain(figure, value, "×", seeds=seeds, note=note)
        )
    return found


def _no_ratio(baseline: Mapping[str, Any]) -> str:
    """Why there is none, or nothing."""
    if not baseline:
        return "the methods' comparison is not measured yet: make bench AREA=methods, then this again"
    if not baseline["same_machine"]:
        return "the methods' comparison was measured on another machine"
    if not baseline["seconds"]:
        return "no method in the loop reached the threshold in the methods' comparison"
    return ""


def _computed(kept: KeptRuns, runs: Runs, threshold: float, baseline: Mapping[str, Any]) -> list[Figure]:
    """What is switched off by adding a measured cost to the reference's trainings; their errors are the reference's."""
    own = runs.get(REFERENCE) or []
    if not own:
        return []
    found: list[Figure] = []
    seeds, step = _seeds(own), statistics.median(run.step_seconds for run in own)
    encoding, padded = kept.costs.get("own encoding"), kept.costs.get("padded encoding")
    ways = []
    if encoding:
        note = (
            f"computed: {encoding['seconds']:.4f} s of encoding on the own length, measured alone, for each utterance of each "
            f"step; the errors are the reference's: frames encoded again differ from the stored by at most "
            f"{encoding['difference']:.2g}"
        )
        ways.append(("no_cached_features", encoding["seconds"], note))
    if padded is not None:
        note = (
            f"computed: {padded:.4f} s of encoding in Whisper's padded 30 s window, measured alone, for each utterance of each "
            "step; its frames cut to the utterance, so that nothing else takes longer. Errors on such "
            f"frames: {'wer_' + PADDED if runs.get(PADDED) else 'not measured (EDGEALIGN_ABLATION_PADDED=1 does)'}"
        )
        ways.append(("no_cache_no_own_length_window", padded, note))
    for name, seconds, note in ways:
        found.append(_seconds(name, median_seconds_raw(own, threshold, seconds, max), threshold, seeds, note))
        found.append(
            plain(f"step_seconds_{name}", step + own[0].batch_size * seconds, "s", seeds=seeds, note="computed")
        )
    if encoding and padded is not None:
        note = "padded over own length, an utterance; with cached features it is paid once"
        found.append(plain("encoding_ratio_padded_window", padded / encoding["seconds"], "×", note=note))
    found += _in_the_loop(kept, step, threshold, baseline)
    told = kept.costs.get("replies")
    if told:
        note = (
            f"LLM's reply against what was said, {told['utterances']:.0f} utterances of unseen speakers, soft tokens of "
            f"{REFERENCE}, first seed, read-out's own WER {told['read_out']:.4f}; it costs no training: the LLM is not there"
        )
        for way, title in (
            ("instructed", "instruction and examples around the soft tokens"),
            ("no_examples", "the instruction alone"),
            ("bare", "no instruction: soft tokens as the user's whole turn"),
        ):
            found.append(plain(f"llm_repeat_wer_{way}", told[way], "", note=f"{title}; {note}"))
    return found


def _in_the_loop(kept: KeptRuns, step: float, threshold: float, baseline: Mapping[str, Any]) -> list[Figure]:
    """LLM in the loop: the projector method, from the comparison where it is known."""
    name = "llm_in_the_loop"
    told = baseline.get("step") if baseline and baseline["same_machine"] else None
    measured = kept.costs.get("projector step")
    if told is None and measured is None:
        return []
    value = float(measured if told is None else told)  # type: ignore[arg-type]  # one of them is there
    source = f"the methods' comparison of {baseline['date']}" if told is not None else "three steps measured here"
    note = f"method projector, {source}; {value / step:.0f} times a step of the reference's"
    found = [plain(f"step_seconds_{name}", value, "s", note=note)]
    seconds = baseline["seconds"].get("projector") if told is not None else None
    if seconds is not None:
        found.append(plain(f"seconds_to_wer_{threshold:.2f}_{name}", seconds, "s", note=note))
    if told is not None and baseline["wer"] is not None:
        found.append(plain(f"wer_{name}", baseline["wer"], "", note=note))
    return found


def _updates(kept: KeptRuns) -> list[Figure]:
    """Personal updates: sparse against dense, and a step against one through the LLM."""
    found: list[Figure] = []
    for name, told in (kept.costs.get("updates") or {}).items():
        note = (
            f"{told['users']:.0f} AN4 users, {told['utterances']:.0f} utterances to learn from (median), "
            f"on the base of synthetic speech (WER {told['base_wer']:.4f} before), {told['words']:.0f} held-out words"
        )
        found.append(plain(f"personal_wer_{name}_update", told["wer"], "", note=note))
        found.append(plain(f"personal_seconds_{name}_update", told["seconds"], "s", note="median over users"))
        found.append(plain(f"personal_bytes_{name}_update", told["bytes"], "bytes", note="largest, as stored"))
    told = kept.costs.get("personal steps")
    if told:
        note = (
            f"a step of projector, {told['projector']:.2f} s, over one of ours, {told['embedlink']:.4f} s with the choice of "
            f"its weights; {told['utterances']:.0f} utterances of one user, batch {told['batch']:.0f}, "
            f"{told['steps']:.0f} steps of ours; cached features for both"
        )
        found.append(plain("personal_step_ratio", told["projector"] / told["embedlink"], "×", note=note))
        found.append(
            Figure(
                "personal_update_ratio",
                None,
                "×",
                "",
                None,
                (),
                "measured by `make bench AREA=personal` under this name, with what was asked; personal_step_ratio says "
                "nothing of how many steps each side needs",
            )
        )
    return found


def plots(kept: KeptRuns, names: Sequence[str]) -> dict[str, Any]:
    """What the picture is drawn from: a curve for each schedule and seed."""
    return {
        "ablation_schedules": {
            f"{run.method}, seed {run.seed}": [[seconds, wer] for seconds, wer, _ in run.curve]
            for run in kept.runs
            if run.kind == "ablation" and run.method in names
        }
    }
