"""From what was measured of personal updates to figures and the picture's data; what is not measured says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.personal_loop import LoopPlan
from benchmarks.personal_race import Clock, pooled, steps_to
from benchmarks.personal_updates import OurPlan
from benchmarks.record import Figure, at_least, at_most, plain
from benchmarks.sparse import SPARSE as MOST_DENSITY
from benchmarks.sparse import Candidate

FULL = Candidate("full")
USERS = "real people (AN4) on bases that learned from synthetic speech alone"
NOT_YET = "not measured yet: the run was stopped before"


@dataclass
class Quality:
    """Errors of each way of learning, at what was chosen for it on tuning users."""

    base: tuple[int, int] | None = None  # (errors, words)
    shifted: tuple[int, int] | None = None  # frames shifted to the base's mean, nothing trained
    judged: dict[Candidate, tuple[int, int]] = field(default_factory=dict)
    plans: dict[Candidate, Any] = field(default_factory=dict)
    tuning: dict[Candidate, tuple[int, int]] = field(default_factory=dict)  # of the plan that was chosen
    users: int = 0
    folds: int = 0


@dataclass
class Race:
    """Curves of both sides on those who judge, and the clock."""

    plans: dict[str, Any] = field(default_factory=dict)  # "ours", "loop"
    curves: dict[str, list[list[list[int]]]] = field(default_factory=dict)
    clock: Clock | None = None
    users: int = 0
    tried: int = 0  # plans of the baseline
    timed: int = 0  # updates that the clock was at


def figures(quality: Quality, race: Race) -> list[Figure]:
    """Every figure."""
    return [*_quality(quality), *_race(race)]


def _wer(pair: tuple[int, int]) -> float:
    return pair[0] / pair[1]


def _quality(told: Quality) -> list[Figure]:
    if told.base is None or FULL not in told.judged:
        return [Figure("sparse_over_dense_wer", None, "", "≤ 1.1", False, (), NOT_YET)]
    base, full = _wer(told.base), _wer(told.judged[FULL])
    who = f"{told.users} users, {told.folds} updates of at most 10 utterances, {told.base[1]} held-out words; {USERS}"
    found = [plain("wer_base", base, "", note=who)]
    sparse = [one for one in told.judged if one.mask and one.density <= MOST_DENSITY]
    if sparse:
        chosen = min(sparse, key=lambda one: (_wer(told.tuning[one]), one.density))
        wer = _wer(told.judged[chosen])
        note = (
            f"WER {wer:.4f} of {chosen.mask} at {chosen.density:g}, chosen on tuning users, over {full:.4f} of a dense update; "
            f"{base:.4f} before; {who}"
        )
        found = [
            at_most("sparse_over_dense_wer", wer / full if full else 1.0, 1.1, "", note=note),
            plain("personal_wer_over_base_wer", wer / base, "", note="the same sparse update over the base"),
            plain(
                "dense_wer_over_base_wer",
                full / base,
                "",
                note="what a dense update gains: above is weak where it is near 1",
            ),
            *found,
        ]
    if told.shifted is not None:
        found.append(
            plain("wer_shift_alone", _wer(told.shifted), "", note="frames shifted to the base's mean, nothing trained")
        )
    for one, pair in told.judged.items():
        plan = told.plans[one]
        masked = "parts masked" if plan.masked else "nothing masked"
        how = f"{plan.steps} steps, rate {plan.learning_rate:g}, {masked}, strength {plan.strength:g}"
        found.append(plain(f"wer_{one.label}", _wer(pair), "", note=f"{how}: chosen on tuning users"))
    return found


def _race(race: Race) -> list[Figure]:
    name, asked = "personal_update_ratio", "≥ 50"
    if set(race.curves) != {"ours", "loop"} or race.clock is None:
        return [Figure(name, None, "×", asked, False, (), NOT_YET)]
    ours, loop = pooled(race.curves["ours"]), pooled(race.curves["loop"])
    clock, plans = race.clock, race.plans
    end, their_end = ours[-1][1], loop[-1][1]
    words = sum(curve[0][2] for curve in race.curves["ours"])
    who = f"{race.users} users, {len(race.curves['ours'])} updates, {words} held-out words; {USERS}"
    how = {side: _how(plan) for side, plan in plans.items()}
    found = [
        _ratio(name, ours, loop, end, end, clock, who, asked=True),
        _ratio(
            f"{name}_to_the_same_gain",
            *(ours, loop, end, loop[0][1] * end / ours[0][1] if ours[0][1] else 0.0, clock),
            "each side from its own base, until it has lost the share of its errors that ours loses",
            asked=False,
        ),
        plain("race_wer_base_embedlink", ours[0][1], "", note=who),
        plain("race_wer_base_projector_lora", loop[0][1], ""),
        plain("race_wer_end_embedlink", end, "", note=how["ours"]),
        plain(
            "race_wer_end_projector_lora", their_end, "", note=f"{how['loop']}; best of {race.tried} on tuning users"
        ),
        plain(
            "personal_update_seconds_embedlink",
            clock.whole,
            "s",
            note=f"whole update, the choice of weights in it; median of {race.timed} users",
        ),
        plain(
            "personal_step_seconds_projector_lora",
            clock.loop,
            "s",
            note=f"median of {race.timed} users; cached features for both sides",
        ),
    ]
    if their_end > end:  # a WER that both are at
        found.insert(
            1,
            _ratio(
                f"{name}_at_the_baselines_end",
                *(ours, loop, their_end, their_end, clock, "the WER that the baseline ends at"),
                asked=False,
            ),
        )
    return found


def _how(plan: OurPlan | LoopPlan) -> str:
    """A plan in words."""
    learned = f"{plan.candidate.label}, " if isinstance(plan, OurPlan) else ""
    masked = "parts masked" if plan.masked else "nothing masked"
    return (
        f"{learned}{plan.steps} steps, batch {plan.batch_size}, rate {plan.learning_rate:g}, {masked}, "
        "frames shifted to the base's mean"
    )


def _ratio(
    name: str,
    ours: Sequence[tuple[int, float]],
    loop: Sequence[tuple[int, float]],
    wer: float,
    their_wer: float,
    clock: Clock,
    who: str,
    asked: bool,
) -> Figure:
    """The baseline's seconds to ``their_wer`` over ours to ``wer``; a lower bound where it is not there within its budget."""
    own, theirs = steps_to(ours, wer), steps_to(loop, their_wer)
    why = ""
    if ours[-1][1] >= ours[0][1]:
        # a WER that our own base beats is nothing to race to, however late the other side gets there
        why = f"our update ends at WER {ours[-1][1]:.4f}, no better than its base's {ours[0][1]:.4f}"
    elif own is None:
        why = "ours is not there at its end"
    elif own == 0 or theirs == 0:
        why = "a base is there before its first step"
    if own is None or why:
        return Figure(name, None, "×", "≥ 50" if asked else "", False if asked else None, (), f"no ratio: {why}; {who}")
    bound = theirs is None
    steps = loop[-1][0] if theirs is None else theirs
    seconds, their_seconds = clock.ours(own), clock.theirs(steps)
    got = (
        f"never in its {steps} steps, {their_seconds:.1f} s: a lower bound"
        if bound
        else f"after {steps} steps, {their_seconds:.1f} s"
    )
    note = (
        f"to WER {wer:.4f}: embedlink after {own} steps, {seconds:.2f} s; projector-lora "
        f"{f'to {their_wer:.4f} ' if their_wer != wer else ''}{got}; at their ends "
        f"{ours[-1][1]:.4f} and {loop[-1][1]:.4f}, before {ours[0][1]:.4f} and {loop[0][1]:.4f}; cached features for both; "
        f"{who}"
    )
    value = their_seconds / seconds
    return at_least(name, value, 50.0, "×", note=note) if asked else plain(name, value, "×", note=note)


def plots(quality: Quality, race: Race) -> dict[str, Any]:
    """What the picture is drawn from."""
    if set(race.curves) != {"ours", "loop"} or race.clock is None:
        return {}
    clock = race.clock
    return {
        "personal_race": {
            "embedlink": [
                [round(clock.ours(steps), 3) if steps else 0.0, wer] for steps, wer in pooled(race.curves["ours"])
            ],
            "projector-lora": [[round(clock.theirs(steps), 3), wer] for steps, wer in pooled(race.curves["loop"])],
        }
    }
