"""``python -m benchmarks.methods_tune METHOD...``: learning rates and batch sizes for ``methods.PLANS``.

Learned on training speakers alone: a fifth of them judges, and the speakers that judge the comparison are in neither part.
Each candidate gets the same seconds with a schedule of that length (EDGEALIGN_TUNE_SECONDS, 240 by default; 10 for methods
without the LLM in the loop). Every result is printed and kept in the cache. About half an hour a method in the loop, alone
on two cores.
"""

from __future__ import annotations

import itertools
import os
import sys
from dataclasses import replace

from benchmarks.alignment import Bench
from benchmarks.methods import JUDGED, PLANS
from benchmarks.methods_costs import step_seconds
from benchmarks.methods_runs import KeptRuns, Plan, Split, equal_plan, run_method
from pipeline.cli import set_up_logging
from stages.alignment.methods.names import IN_THE_LOOP, check_name
from stages.alignment.methods.registry import make_method
from stages.errors import EdgealignError

RATES = (3e-4, 1e-3, 3e-3)
BATCHES = (8, 16)
SECONDS, SECONDS_WITHOUT_LLM = 240.0, 10.0
SEED = 0


def tune(name: str) -> list[tuple[float, Plan]]:
    """(WER, plan) of each candidate, the best first."""
    seconds = float(os.environ.get("EDGEALIGN_TUNE_SECONDS", SECONDS)) if name in IN_THE_LOOP else SECONDS_WITHOUT_LLM
    split = Split(Bench.open(), SEED, None, JUDGED, JUDGED, tuning=True)
    kept = KeptRuns(["tune", seconds, RATES, BATCHES])
    found = []
    for batch_size, rate in itertools.product(BATCHES, RATES):
        schedule = replace(PLANS[name].schedule, epochs=1_000, batch_size=batch_size, learning_rate=rate)
        plan = replace(PLANS[name], schedule=schedule)
        kind = f"tune {batch_size} {rate:g}"
        run = kept.find(name, SEED, kind)
        if run is None:
            takes = step_seconds(make_method(name, plan.material(split.material), schedule), split.training, batch_size)
            run = run_method(name, split, equal_plan(plan, takes, seconds), kind)
            kept.add(run)
        found.append((run.wer, plan))
        print(
            f"{name}: batch {batch_size}, {rate:g}: WER {run.wer:.3f} after {run.steps} steps, {run.seconds:.0f} s",
            flush=True,
        )
    return sorted(found, key=lambda item: item[0])


if __name__ == "__main__":
    set_up_logging()
    try:
        for asked in sys.argv[1:] or IN_THE_LOOP:
            wer, best = tune(check_name(asked))[0]
            print(f"{asked}: best is batch {best.schedule.batch_size}, {best.schedule.learning_rate:g}, WER {wer:.3f}")
    except EdgealignError as error:
        sys.exit(f"error: {error}")
