"""The ``features`` stage: encoder frames of every utterance, one Parquet file a shard, on Ray over the shards.

An actor pool with one item a shard, not Ray Data: every shard's file is written whole or not at all under a name that its
content decides, and a shard that is done is never done again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.cluster.shipping import Shipment, ship
from pipeline.runs.common import Context, log, pending_shards
from pipeline.runs.over_shards import over_shards
from pipeline.runs.recorded import recorded
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
    with recorded(context, "features", cohort) as run:
        _run(context, cohort, run)


def _run(context: Context, cohort: str, run: Any) -> None:
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
    run.params({"features": settings.model_dump(), "encoder": identity})
    run.metrics({"shards": len(shards), "shards_computed": len(todo)})
    if todo:
        _compute(context, cohort, todo, keys, identity, run)


def _compute(context: Context, cohort: str, todo: list[Path], keys: dict[Path, str], identity: str, run: Any) -> None:
    from stages.features import features_path, write_shard_features

    settings = context.settings.features
    counts = {"utterances": 0, "problems": 0, "audio_s": 0.0}

    def keep(shard: Path, table: Any, problems: list[Any]) -> None:
        target = features_path(context.project.features(cohort), shard)
        write_shard_features(table, target, keys[shard], identity, problems)
        counts["utterances"] += table.num_rows
        counts["problems"] += len(problems)
        counts["audio_s"] += sum(table.column("duration_s").to_pylist())

    encoder = ship(context.project.encoder, shared_disk=context.shares_disk)
    loaded = (encoder, settings.padding_s, settings.max_duration_s, 1)
    over_shards(context, f"features@{cohort}", todo, FeatureWorker, loaded, cohort, settings.workers, keep, run)
    run.metrics(counts)
