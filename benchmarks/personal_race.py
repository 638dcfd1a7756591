"""The race of personal updates to the same WER: embedlink's against the best method's with the LLM in the loop.

Errors and seconds are measured apart. Errors at a number of steps do not depend on the machine's load: they are kept as curves,
pooled over the users at equal steps. Seconds of a step do: they are measured on the same folds in turn, one side after the
other, and can be measured anew alone on a quiet machine (EDGEALIGN_PERSONAL_TIME=1).
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.alignment import Bench, seconds_to
from benchmarks.personal_loop import LoopBase, LoopPlan, shifted, spoken, update
from benchmarks.personal_updates import OurPlan, errors_of, learn
from benchmarks.personal_users import Fold, OurBase
from benchmarks.sparse import Candidate
from stages.alignment.bridgeformer import BridgeFormer
from stages.alignment.metrics import word_errors
from stages.alignment.personal import PersonalConfig

log = logging.getLogger("edgealign")

BATCH = 8
OUR_STEPS = (15, 30)
OUR_PLANS = tuple(
    OurPlan(candidate, rate, steps, BATCH, masked)
    for candidate, rate in ((Candidate("full"), 3e-4), (Candidate("shira", "gradient", 0.02), 3e-3))
    for steps in OUR_STEPS
    for masked in (True, False)
)
"""Dense and sparse ones: the race is one of time, a sparse update is no quicker. Rates are good ones of ``personal.RATES``."""
LOOP_STEPS = 60
"""The baseline's budget."""
LOOP_PLANS = tuple(LoopPlan(rate, LOOP_STEPS, BATCH) for rate in (1e-4, 3e-4, 1e-3))
OUR_EVERY, LOOP_EVERY = 3, 10  # steps between two judgings
WORSE = 1.05
"""Of ours the shortest plan is taken that makes at most so many times the errors of the best one."""
TIMED_STEPS = 5

Curve = list[list[int]]
"""(steps, word errors, words), from the base (0 steps) to the end of the schedule."""


def our_curve(bench: Bench, base: OurBase, fold: Fold, plan: OurPlan, settings: PersonalConfig) -> Curve:
    """A fold's errors while its update learns."""
    found = errors_of(bench, base, fold, base.bridge)
    curve = [[0, found.errors, found.words]]

    def watch(steps: int, bridge: BridgeFormer) -> None:
        if steps % OUR_EVERY == 0 or steps == plan.steps:
            now = errors_of(bench, base, fold, bridge)
            curve.append([steps, now.errors, now.words])

    learn(bench, base, fold, plan.config(settings), watch)
    return curve


def loop_curve(base: LoopBase, fold: Fold, plan: LoopPlan) -> Curve:
    """The same of the baseline."""
    own = spoken(fold.train)
    held_out = shifted(base, spoken(fold.held_out), own, plan)
    curve: Curve = []

    def watch(steps: int) -> None:
        if steps % LOOP_EVERY == 0 or steps == plan.steps:
            now = word_errors([item.text for item in held_out], base.method.read(held_out))
            curve.append([steps, now.errors, now.words])

    update(base, shifted(base, own, own, plan), plan, watch)
    return curve


def pooled(curves: Sequence[Curve]) -> list[tuple[int, float]]:
    """(steps, WER over all folds) of curves with the same steps."""
    return [
        (points[0][0], sum(point[1] for point in points) / sum(point[2] for point in points))
        for points in zip(*curves, strict=True)
    ]


def steps_to(curve: Sequence[tuple[int, float]], wer: float) -> int | None:
    """Steps until the WER stays at or under ``wer``."""
    found = seconds_to([(float(steps), value) for steps, value in curve], wer)
    return None if found is None else int(found)


def choose_ours(curves: Mapping[OurPlan, Sequence[tuple[int, float]]]) -> OurPlan:
    """The shortest plan that ends within WORSE of the best end; of equals the better one."""
    limit = WORSE * min(curve[-1][1] for curve in curves.values())
    good = [plan for plan, curve in curves.items() if curve[-1][1] <= limit]
    return min(good, key=lambda plan: (plan.steps, curves[plan][-1][1], plan.learning_rate))


def choose_loop(curves: Mapping[LoopPlan, Sequence[tuple[int, float]]]) -> LoopPlan:
    """The plan that ends best, as ours is chosen by its end; of equals the one that was tried first."""
    return min(curves, key=lambda plan: curves[plan][-1][1])


def time_ours(bench: Bench, base: OurBase, fold: Fold, plan: OurPlan, settings: PersonalConfig) -> dict[str, float]:
    """Seconds of a whole update and of one that ends after its first step, the choice of its weights in both."""
    config = plan.config(settings)
    learn(bench, base, fold, replace(config, steps=1))  # warms up
    return {
        "one": statistics.median(learn(bench, base, fold, replace(config, steps=1)).seconds for _ in range(3)),
        "all": statistics.median(learn(bench, base, fold, config).seconds for _ in range(3)),
    }


def time_loop(base: LoopBase, fold: Fold, plan: LoopPlan) -> dict[str, float]:
    """Median seconds of a step; the first one warms up."""
    own = spoken(fold.train)
    each = update(base, shifted(base, own, own, plan), plan, limit=TIMED_STEPS + 1)
    return {"step": statistics.median(each[1:] or each)}


@dataclass(frozen=True)
class Clock:
    """Medians over the folds, in seconds."""

    first: float  # our update that ends after one step
    whole: float  # our whole update
    steps: int  # of it
    loop: float  # a step of the baseline

    @classmethod
    def of(cls, ours: Sequence[Mapping[str, Any]], loop: Sequence[Mapping[str, Any]], steps: int) -> Clock:
        return cls(
            statistics.median(told["one"] for told in ours),
            statistics.median(told["all"] for told in ours),
            steps,
            statistics.median(told["step"] for told in loop),
        )

    def ours(self, steps: int) -> float:
        """Seconds of our update's first ``steps`` steps."""
        return self.first + (self.whole - self.first) * (steps - 1) / max(1, self.steps - 1)

    def theirs(self, steps: int) -> float:
        return self.loop * steps
