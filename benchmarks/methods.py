"""The ways to let a frozen LLM hear, side by side: seconds to a quality, errors at equal budget, memory, growth with the LLM.

Same frames, same splits, same batches, one process, one method after the other. Speakers of AN4 that judge are never in
training. Every in-loop method runs as fast as it can be made: cached frames (unless a figure says raw audio), the
prompt's keys and values kept, scores at the reply's positions only.

Three seeds for ours, for what is as quick, and for the quickest two in the loop (projector and projector-lora), of whose
medians the better makes the ratios; the first seed alone for the others in the loop (``Plan.first_seed_only``), last.

    make bench AREA=methods                                 about two hours on two cores alone
    EDGEALIGN_METHODS_SEEDS=0 make bench AREA=methods       one seed, about an hour
    EDGEALIGN_METHODS_QUICK=1 make bench AREA=methods       whether it runs: figures of no worth, kept out of docs

A run that is stopped goes on where it was when it is started again (``methods_runs.KeptRuns``); docs/benchmarks/methods.json is
written after each method, with what is known by then.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks import corpora
from benchmarks.alignment import Bench
from benchmarks.methods_costs import LLM_SIZES, memory, padded_encoding, step_seconds, steps_by_llm_size
from benchmarks.methods_figures import figures, plots
from benchmarks.methods_runs import KeptRuns, Plan, Split, equal_plan, run_method
from benchmarks.record import FOLDER, write_area
from stages.alignment.methods.names import IN_THE_LOOP
from stages.alignment.methods.protocol import Schedule
from stages.alignment.methods.registry import make_method
from stages.errors import InputError

log = logging.getLogger("edgealign")

SEEDS = (0, 1, 2)
THRESHOLD = 0.10  # WER on unseen speakers
EQUAL_BUDGET = 10  # times embedlink's own seconds, given to each in-loop method with a schedule of that length
JUDGED = 1_000  # utterances of unseen speakers that a curve is drawn from: all of them
PADDED_RECORDINGS = 12

PLANS = {
    "embedlink": Plan(
        Schedule(epochs=2, batch_size=4, learning_rate=1e-3),
        300.0,
        judge_every=8,
        sizes={"stack": 6, "layers": 1, "dropout": 0.0, "scale": 20.0},
        masked=False,
    ),
    "ctc-only": Plan(Schedule(epochs=10, batch_size=8, learning_rate=1e-3), 300.0, judge_every=32),
    "cascade": Plan(Schedule(epochs=1, batch_size=8, learning_rate=1e-3), 0.0, judge_every=1),
    "projector-lora": Plan(
        Schedule(epochs=5, batch_size=8, learning_rate=1e-3), 1200.0, judge_every=32, judge_from=0.5
    ),
    "projector": Plan(Schedule(epochs=5, batch_size=8, learning_rate=3e-3), 1200.0, judge_every=32, judge_from=0.5),
    "qformer": Plan(
        Schedule(epochs=5, batch_size=8, learning_rate=1e-3),
        *(1200.0, 64, 0.75),
        first_seed_only=True,
    ),
    "projector-kl": Plan(
        Schedule(epochs=5, batch_size=8, learning_rate=1e-3),
        *(1200.0, 64, 0.75),
        first_seed_only=True,
    ),
}
"""In the order in which they run. Where a schedule is one that was chosen among others, docs/notes.md says among which."""

QUICK = ("embedlink", "ctc-only")

QUICK_STEPS = 5


@dataclass(frozen=True)
class Size:
    """How much is run."""

    seeds: tuple[int, ...] = SEEDS
    train: int | None = None  # at most so many utterances
    judged: int = JUDGED
    final: int | None = None
    limit: int | None = None  # steps of each method
    recordings: int = PADDED_RECORDINGS
    llm_sizes: tuple[tuple[int, ...], ...] = LLM_SIZES
    folder: Path = FOLDER


def size_asked() -> Size:
    """By the environment; see the module. Raises InputError for seeds that are no numbers."""
    told = os.environ.get("EDGEALIGN_METHODS_SEEDS", "")
    try:
        seeds = tuple(int(seed) for seed in told.replace(",", " ").split()) or SEEDS
    except ValueError:
        raise InputError(f"EDGEALIGN_METHODS_SEEDS={told!r}: needed whole numbers such as 0 or 0,1,2.") from None
    if os.environ.get("EDGEALIGN_METHODS_QUICK"):
        sizes = ((64, 2, 4, 2, 128), (128, 2, 4, 2, 256))
        return Size(seeds[:1], 60, 4, 8, QUICK_STEPS, 2, sizes, corpora.quick_folder())
    return Size(seeds)


def run() -> Path:
    """Measure everything and write docs/benchmarks/methods.json after each finished method."""
    size = size_asked()
    bench = Bench.open()
    plans = {
        name: replace(plan, schedule=replace(plan.schedule, limit=size.limit)) if size.limit else plan
        for name, plan in PLANS.items()
    }
    kept = KeptRuns(
        [
            str(plans),
            str(bench.bridge),
            size.train,
            size.judged,
            size.final,
            size.recordings,
            size.llm_sizes,
        ]
    )
    for name, plan in plans.items():
        log.info("%s: %s; stops when it is through, or after %g s", name, plan.schedule, plan.budget_s)

    def written(tell: bool = False) -> Path:
        return write_area(
            "methods", figures(kept, plans, size.seeds, THRESHOLD, EQUAL_BUDGET), plots(kept), size.folder, tell
        )

    splits = [Split(bench, seed, size.train, size.judged, size.final) for seed in size.seeds]
    for split in splits:
        for name in QUICK:
            _one(kept, split, name, plans[name])
            written()
    _costs(kept, splits[0], plans, size)
    _at_equal_budget(kept, splits[0], plans)
    written()
    for name in sorted(IN_THE_LOOP, key=lambda name: plans[name].first_seed_only):
        for split in splits[:1] if plans[name].first_seed_only else splits:
            _one(kept, split, name, plans[name])
            written()
    # last: once CTranslate2 has run in a process, every method's steps there take up to twice as long (docs/notes.md)
    for split in splits:
        _one(kept, split, "cascade", plans["cascade"])
    return written(tell=True)


def _one(kept: KeptRuns, split: Split, name: str, plan: Plan, kind: str = "whole") -> None:
    """A run, where it is not known yet."""
    if kept.find(name, split.seed, kind) is None:
        kept.add(run_method(name, split, plan, kind))


def _costs(kept: KeptRuns, split: Split, plans: dict[str, Plan], size: Size) -> None:
    """Memory, and times that stand beside every method."""
    for name in plans:
        if name != "cascade":
            kept.cost(f"memory {name}", partial(memory, name, size.train))
    kept.cost("padded encoding", partial(padded_encoding, size.recordings))
    kept.cost("llm sizes", partial(steps_by_llm_size, split, plans, size.llm_sizes))


def _at_equal_budget(kept: KeptRuns, split: Split, plans: dict[str, Plan]) -> None:
    """Each in-loop method with EQUAL_BUDGET times the seconds that embedlink took in all."""
    own = kept.find("embedlink", split.seed)
    assert own is not None  # it runs first
    for name in IN_THE_LOOP:
        if kept.find(name, split.seed, "equal") is None:
            schedule = plans[name].schedule
            takes = step_seconds(make_method(name, split.material, schedule), split.training, schedule.batch_size)
            plan = equal_plan(plans[name], takes, EQUAL_BUDGET * own.seconds)
            kept.add(run_method(name, split, plan, "equal"))
