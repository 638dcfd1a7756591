"""Personal updates of users whom they help: sparse against dense, and seconds to the same WER against the LLM in the loop.

Who the users are is said in ``personal_users``; the race in ``personal_race``. Everything that is
chosen (rates, masks, steps, the baseline's as well) is chosen on tuning users, and judged on others at that alone.

    make bench AREA=personal                                about four hours with one thread, once
    EDGEALIGN_PERSONAL_TIME=1 make bench AREA=personal      the race's seconds anew, alone: two minutes
    EDGEALIGN_PERSONAL_QUICK=1 make bench AREA=personal     whether it runs: figures of no worth, kept out of docs

A run that is stopped goes on where it was when it is started again; docs/benchmarks/personal.json is written after each part.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks import corpora
from benchmarks.alignment import Bench
from benchmarks.kept import Kept
from benchmarks.personal_figures import FULL, Quality, Race, figures, plots
from benchmarks.personal_loop import CODE, LoopBase, LoopPlan, loop_base, loop_path
from benchmarks.personal_race import (
    LOOP_EVERY,
    LOOP_PLANS,
    OUR_EVERY,
    OUR_PLANS,
    TIMED_STEPS,
    Clock,
    choose_loop,
    choose_ours,
    loop_curve,
    our_curve,
    pooled,
    time_loop,
    time_ours,
)
from benchmarks.personal_updates import OurPlan, best, judged, judged_at, piece, total
from benchmarks.personal_users import OurBase, People, our_base, people, some
from benchmarks.record import FOLDER, write_area
from benchmarks.sparse import Candidate
from pipeline.progress import progress
from pipeline.runs.configs import personal_config
from stages.alignment.personal import MASKING, PersonalConfig

log = logging.getLogger("edgealign")

RATES = {
    FULL: (1e-4, 3e-4, 1e-3),
    **{Candidate("shira", "gradient", density): (1e-3, 3e-3) for density in (0.01, 0.02)},
}
"""Each is tried with parts of the frames masked and without, for each of STEPS and at each of STRENGTHS."""
STEPS = (30, 60)
STRENGTHS = (1.0, 0.75, 0.5)
"""Shares of the learned change that are kept."""
SHIFT = OurPlan(Candidate("blocks", blocks=0), 1e-12, 1, 8)
"""Trains nothing to speak of: the shift of the frames alone."""

TEXTS = (*(f"stages/{name}.py" for name in ("text", "spoken_form", "spoken_numbers", "examples")),)
OUR_CODE = (
    *(f"benchmarks/personal_{name}.py" for name in ("users", "updates")),
    *(f"stages/alignment/{name}.py" for name in ("personal", "sparse", "packed", "freezing", "adapter", "vocabulary")),
    *(f"stages/alignment/{name}.py" for name in ("trainer", "bridgeformer", "embedlink", "soft_tokens", "metrics")),
    *TEXTS,
)
LOOP_CODE = (
    *(f"benchmarks/personal_{name}.py" for name in ("users", "loop")),
    *(f"stages/alignment/methods/{name}.py" for name in CODE),
    *(f"stages/alignment/{name}.py" for name in ("injection", "metrics", "trainer")),
    *TEXTS,
)


@dataclass(frozen=True)
class Size:
    """How much is run."""

    rates: tuple[tuple[Candidate, tuple[float, ...]], ...] = tuple(RATES.items())
    users: int | None = None  # of each group
    train: int | None = None  # utterances that teach the bases
    folds: int | None = None  # of each user, where sparse and dense are compared
    steps: int | None = None  # of everything
    our_tuning: int | None = 3  # folds of each tuning user, for our plans
    race_tuning: int = 2  # tuning users, one fold each, for the baseline's plans: each takes minutes
    race_judging: tuple[int | None, int] = (None, 2)  # users, folds of each
    race_clock: int = 6  # users, one fold each: seconds differ far less than errors do
    folder: Path = FOLDER


def size_asked() -> Size:
    """By the environment; see the module."""
    if not os.environ.get("EDGEALIGN_PERSONAL_QUICK"):
        return Size()
    rates = tuple((one, found[:1]) for one, found in RATES.items() if one.method == "full" or one.density == 0.01)
    return Size(rates, 1, 24, 1, 2, 1, 1, (1, 1), 1, corpora.quick_folder())


class Stores:
    """What is kept: of ours, of the baseline, and of the clock."""

    def __init__(self, everyone: People, ours: Sequence[Any], loop: Sequence[Any]) -> None:
        said = corpora.content([item for fold in (*everyone.tuning, *everyone.judging) for item in fold.held_out])
        self.ours = Kept("personal-ours", OUR_CODE, [said, OUR_EVERY, *ours])
        self.loop = Kept("personal-loop", LOOP_CODE, [said, LOOP_EVERY, *loop])
        self.clock = Kept("personal-clock", (*OUR_CODE, *LOOP_CODE), [said, TIMED_STEPS, [*ours], [*loop]])


def run() -> Path:
    """Measure everything and write docs/benchmarks/personal.json after each part."""
    size, bench = size_asked(), Bench.open()
    everyone = people(size.train, size.users)
    base = our_base(bench, everyone.teaching, 1 if size.steps else None)
    path = loop_path(bench, everyone.teaching, size.steps)
    ours = [base.name, repr(size.steps), repr(personal_config(bench.settings))]
    stores = Stores(everyone, ours, [path.stem, repr(size.steps), repr(MASKING)])
    if os.environ.get("EDGEALIGN_PERSONAL_TIME"):
        stores.clock.forget("")

    @cache
    def loop() -> LoopBase:
        return loop_base(bench, everyone.teaching, size.steps)

    measured, race = Quality(), Race()

    def written(tell: bool = False) -> Path:
        return write_area("personal", figures(measured, race), plots(measured, race), size.folder, tell)

    run_race(bench, base, loop, everyone, size, stores, race)
    written()
    quality(bench, base, everyone, size, stores.ours, measured)
    return written(tell=True)


def _limited(plan: Any, size: Size) -> Any:
    return plan if size.steps is None else replace(plan, steps=min(plan.steps, size.steps))


def plans_of(candidate: Candidate, rates: Sequence[float], settings: PersonalConfig, size: Size) -> list[OurPlan]:
    """What is tried for a way of learning."""
    made = [
        OurPlan(candidate, rate, steps, settings.batch_size, masked)
        for steps in STEPS
        for rate in rates
        for masked in (True, False)
    ]
    return list(dict.fromkeys(_limited(plan, size) for plan in made))


def quality(bench: Bench, base: OurBase, everyone: People, size: Size, kept: Kept, into: Quality) -> None:
    """Every way of learning: its plans on tuning users, the best of them on those who judge."""
    settings = personal_config(bench.settings)
    tuning, judging = some(everyone.tuning, None, size.folds), some(everyone.judging, None, size.folds)
    into.users, into.folds = len({fold.user for fold in judging}), len(judging)

    def errors(plan: OurPlan | None, group: str, folds: Sequence[Any]) -> tuple[int, int]:
        for fold in folds:
            kept.get(piece(plan, group, fold), partial(judged, bench, base, fold, plan, settings))
            advance(1)
        found = total(kept.known, plan, group, folds)
        assert found is not None  # they are all there now
        return found

    def tuned(plan: OurPlan) -> list[OurPlan]:
        plans = [replace(plan, strength=strength) for strength in STRENGTHS]
        for fold in tuning:
            left = [one for one in plans if piece(one, "tuning", fold) not in kept.known]
            if left:
                pairs = judged_at(bench, base, fold, plan, settings, [one.strength for one in left])
                for one, pair in zip(left, pairs, strict=True):
                    kept.get(piece(one, "tuning", fold), partial(list, pair))
            advance(1)
        return plans

    tried = sum(len(plans_of(*one, settings, size)) for one in size.rates) * len(tuning)
    with progress("personal updates", tried + (len(size.rates) + 2) * len(judging), "updates") as advance:
        into.base = errors(None, "judging", judging)
        into.shifted = errors(SHIFT, "judging", judging)
        for candidate, rates in size.rates:
            plans = plans_of(candidate, rates, settings, size)
            plans = [one for plan in plans for one in tuned(plan)]
            chosen = best(kept.known, plans, "tuning", tuning)
            pair = total(kept.known, chosen, "tuning", tuning)
            assert chosen is not None and pair is not None  # they are all there now
            into.plans[candidate], into.tuning[candidate] = chosen, pair
            into.judged[candidate] = errors(chosen, "judging", judging)


def run_race(bench: Bench, base: OurBase, loop: Any, everyone: People, size: Size, stores: Stores, into: Race) -> None:
    """Both sides' plans on tuning users, the chosen ones' curves on those who judge, then the clock."""
    settings = personal_config(bench.settings)
    tuning, judging = some(everyone.tuning, size.race_tuning, 1), some(everyone.judging, *size.race_judging)
    ours_tuning = some(everyone.tuning, None, size.our_tuning)
    into.users = len({fold.user for fold in judging})

    def ours(plan: OurPlan, group: str, folds: Sequence[Any]) -> list[Any]:
        return [
            stores.ours.get(f"curve {piece(plan, group, fold)}", partial(our_curve, bench, base, fold, plan, settings))
            for fold in folds
        ]

    def of_loop(measure: Callable[[LoopBase, Any, Any], Any], fold: Any, plan: Any) -> Any:
        return measure(loop(), fold, plan)  # the base is loaded, or trained, where something is left to measure

    def theirs(plan: LoopPlan, group: str, folds: Sequence[Any]) -> list[Any]:
        found = []
        for fold in folds:
            name = f"curve {piece(plan, group, fold)}"
            found.append(stores.loop.get(name, partial(of_loop, loop_curve, fold, plan)))
            log.info(
                "%s: WER %.3f to %.3f", name, found[-1][0][1] / found[-1][0][2], found[-1][-1][1] / found[-1][-1][2]
            )
        return found

    own = {
        plan: pooled(ours(plan, "tuning", ours_tuning))
        for plan in dict.fromkeys(_limited(one, size) for one in OUR_PLANS)
    }
    into.plans["ours"] = choose_ours(own)
    other = {
        plan: pooled(theirs(plan, "tuning", tuning))
        for plan in dict.fromkeys(_limited(one, size) for one in LOOP_PLANS)
    }
    masked = replace(choose_loop(other), masked=True)  # parts of the frames masked, as ours may have it
    other[masked] = pooled(theirs(masked, "tuning", tuning))
    into.plans["loop"], into.tried = choose_loop(other), len(other)
    into.curves["ours"] = ours(into.plans["ours"], "judging", judging)
    into.curves["loop"] = theirs(into.plans["loop"], "judging", judging)
    times: dict[str, list[Any]] = {"ours": [], "loop": []}
    timed = some(judging, size.race_clock, 1)
    into.timed = len(timed)
    with progress("clock", len(timed), "users") as advance:
        for fold in timed:
            for side, plan in into.plans.items():
                ours_here = partial(time_ours, bench, base, fold, plan, settings)
                measure = ours_here if side == "ours" else partial(of_loop, time_loop, fold, plan)
                times[side].append(stores.clock.get(piece(plan, side, fold), measure))
            advance(1)
    into.clock = Clock.of(times["ours"], times["loop"], into.plans["ours"].steps)
