"""Work over a cohort's shards, one an actor at a time: what ``features``, ``pseudo_labels`` and ``second_labels`` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.cluster.placement import Placement
from pipeline.cluster.session import connect
from pipeline.cluster.shipping import ship
from pipeline.cluster.work import Result, run_actors
from pipeline.progress import progress
from pipeline.runs.common import Context, Costs, count_utterances, log, tell_failures
from pipeline.tracking.tracker import Run


def over_shards(
    context: Context,
    stage: str,
    todo: Sequence[Path],
    worker: type,
    loaded: tuple[Any, ...],
    extra: Any,
    workers: int,
    keep: Callable[[Path, Any, list[Any]], None],
    run: Run,
    total: int | None = None,
) -> None:
    """``worker(*loaded).work(shard, extra)`` for each shard, on any node; what it took goes to ``run``, by DESIGN's names.

    ``work`` gives (table, problems); ``keep(shard, table, problems)`` writes them here, one shard after the other. Problems are
    told. ``total``: how many utterances are to be done, where the shards are no tars that tell. Raises EdgealignError where no
    shard could be done.
    """
    costs = Costs()

    def done(index: int, result: Result) -> None:
        table, problems = result.value
        for problem in problems:
            log.warning("%s: %s: %s", stage, problem.item, problem.reason)
        keep(todo[index], table, problems)
        costs.add(result)

    with (
        connect(context.project, context.settings) as session,
        progress(stage, count_utterances(todo) if total is None else total, "utterances") as advance,
    ):
        failures = run_actors(
            session,
            worker,
            loaded,
            [(ship(shard, shared_disk=context.shares_disk), extra) for shard in todo],
            Placement(cpus=1),
            workers=workers,
            retries=context.settings.ray.task_retries,
            on_result=done,
            on_advance=advance,
            describe=lambda index: str(todo[index]),
        )
    run.metrics(costs.metrics())
    run.tags(costs.tags())
    tell_failures(stage, failures, len(todo))
