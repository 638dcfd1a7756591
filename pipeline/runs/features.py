"""The ``features`` stage: encoder frames of every utterance, one Parquet file a shard, on Ray over the shards.

An actor pool with one item a shard, not Ray Data: every shard's file is written whole or not at all under a name that its
content decides, and a shard that is done is never done again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.cluster.placement import Placement
from pipeline.cluster.session import connect
from pipeline.cluster.shipping import Shipment, ship
from pipeline.cluster.work import Result, run_actors
from pipeline.progress import progress
from pipeline.runs.common import Context, Costs, count_utterances, log, pending_shards, tell_failures
from stages.atomic import sha256_file


class FeatureWorker:
    """Loads the encoder once, then turns one shard after another into a table. Runs on any node."""

    def __init__(self, encoder: Shipment, padding_s: float, max_duration_s: float, threads: int) -> None:
        import torch

        from stages.models.encoder import SpeechEncoder

        torch.set_num_threads(threads)
        self.encoder = SpeechEncoder.load(encoder.unpack())
        self.padding_s = padding_s
        self.max_duration_s = max_duration_s

    def work(self, shard: Shipment, cohort: str, advance: Callable[[int], None] | None = None) -> Any:
        """One shard -> (its table, its problems)."""
        from stages.features import compute_shard_features

        return compute_shard_features(
            shard.unpack(), cohort, self.encoder, self.padding_s, self.max_duration_s, advance
        )


def run(context: Context, cohort: str) -> None:
    """Compute the features of the cohort's shards that have none yet for this encoder and these settings."""
    from stages.features import features_key
    from stages.models.identity import read_identity

    settings = context.settings.features
    identity = str(read_identity(context.project.encoder))
    shards = context.shards(cohort)
    keys = {
        shard: features_key(identity, sha256_file(shard), settings.padding_s, settings.max_duration_s)
        for shard in shards
    }
    todo = pending_shards(context.project.features(cohort), keys)
    log.info("features@%s: %d of %d shard(s) to do", cohort, len(todo), len(shards))
    with context.tracker.run("features", cohort=cohort) as run:
        run.params({"features": settings.model_dump(), "encoder": identity})
        run.metrics({"shards": len(shards), "shards_computed": len(todo)})
        if todo:
            _compute(context, cohort, todo, keys, identity, run)


def _compute(context: Context, cohort: str, todo: list[Path], keys: dict[Path, str], identity: str, run: Any) -> None:
    from stages.features import features_path, write_shard_features

    settings = context.settings.features
    costs = Costs()
    counts = {"utterances": 0, "problems": 0, "audio_s": 0.0}

    def done(index: int, result: Result) -> None:
        table, problems = result.value
        shard = todo[index]
        target = features_path(context.project.features(cohort), shard)
        write_shard_features(table, target, keys[shard], identity, problems)
        for problem in problems:
            log.warning("features@%s: %s: %s", cohort, problem.item, problem.reason)
        costs.add(result)
        counts["utterances"] += table.num_rows
        counts["problems"] += len(problems)
        counts["audio_s"] += sum(table.column("duration_s").to_pylist())

    total = count_utterances(todo)
    with (
        connect(context.project, context.settings) as session,
        progress(f"features@{cohort}", total, "utterances") as advance,
    ):
        log.info(session.describe())
        failures = run_actors(
            session,
            FeatureWorker,
            (
                ship(context.project.encoder, shared_disk=context.shares_disk),
                settings.padding_s,
                settings.max_duration_s,
                1,
            ),
            [(ship(shard, shared_disk=context.shares_disk), cohort) for shard in todo],
            Placement(cpus=1),
            workers=settings.workers,
            retries=context.settings.ray.task_retries,
            on_result=done,
            on_advance=advance,
            describe=lambda index: str(todo[index]),
        )
    run.metrics({**counts, **costs.metrics()})
    tell_failures(f"features@{cohort}", failures, len(todo))
