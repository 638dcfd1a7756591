"""The index of a cohort: what it holds, a row an utterance, so that nothing has to be decoded to look something up.

``index-00000.parquet`` is written by ``add``, one more by each ``append``. An index tells which shards it was made from; where
one is missing or does not fit the cohort's shards, its rows are made anew from the shards themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.errors import InputError
from stages.schema import INDEX, read_metadata, read_table, write_table
from stages.shards import ShardItem, iter_shard

INDEX_GLOB = "index-*.parquet"


def index_name(batch: int) -> str:
    """File name of a batch's index."""
    return f"index-{batch:05d}.parquet"


def next_batch(folder: Path) -> int:
    """The number of the batch that the next ``append`` writes."""
    return max((int(path.stem.split("-")[1]) + 1 for path in folder.glob(INDEX_GLOB)), default=0)


def write_index(table: pa.Table, folder: Path, batch: int, shards: Mapping[str, str]) -> Path:
    """Write a batch's index (schema INDEX); ``shards`` is {file name: SHA-256} of those that it describes."""
    path = folder / index_name(batch)
    write_table(table, path, {"shards": json.dumps(dict(sorted(shards.items())))})
    return path


def read_index(folder: Path) -> pa.Table:
    """What the cohort in ``folder`` holds, sorted by shard, then utterance (schema INDEX).

    Raises InputError where there is no cohort.
    """
    from pipeline.cohorts.store import read_cohort

    wanted = read_cohort(folder).shards
    tables = []
    found: set[str] = set()
    for path in sorted(folder.glob(INDEX_GLOB)):
        described = described_shards(path)
        if all(wanted.get(name) == digest for name, digest in described.items()) and not found & set(described):
            tables.append(read_table(path, INDEX).select(INDEX.names))
            found |= set(described)
    for name in sorted(set(wanted) - found):
        tables.append(table_of(index_row(item, name) for item in iter_shard(folder / name) if not item.problem))
    table = pa.concat_tables(tables) if tables else INDEX.empty_table()
    return table.sort_by([("shard", "ascending"), ("utterance", "ascending")])


def described_shards(path: Path) -> dict[str, str]:
    """{shard: SHA-256} that an index file was made from; empty where that cannot be told."""
    try:
        shards = json.loads(read_metadata(path).get("shards", "{}"))
    except ValueError:
        return {}
    return shards if isinstance(shards, dict) else {}


def table_of(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Rows as a table of schema INDEX."""
    return pa.Table.from_pylist(list(rows), schema=INDEX)


def index_row(item: ShardItem, shard: str, source: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """An utterance's row. ``source`` holds what was measured on the file that came in; without it the FLAC is measured."""
    row = {
        "utterance": item.utterance,
        "user": item.user,
        "text": item.text,
        "language": item.language,
        "shard": shard,
        "duration_s": item.duration_s,
        "source_sha256": item.source_sha256,
        "audio_sha256": item.audio_sha256,
        "granted": item.consent.get("granted") is True,
        "scope": item.consent.get("scope"),
        "consent_date": item.consent.get("date"),
        "source_rate_hz": None,
        "source_channels": None,
        "source_format": None,
    }
    return {**row, **(source if source is not None else _measured(item))}


def _measured(item: ShardItem) -> dict[str, Any]:
    from stages.audio import decode
    from stages.quality import measure

    try:
        recording = decode(item.audio, item.utterance)
    except InputError:
        return {}
    return levels_of(measure(recording.samples, recording.rate_hz))


LEVELS = {"level_dbfs": 2, "peak": 4, "clipped_share": 5, "snr_db": 1, "speech_share": 3}
"""Columns of the index that ``stages.quality`` measures, and the digits kept: another CPU's last bit is none of them."""


def levels_of(quality: Any) -> dict[str, Any]:
    """The index's columns of a ``stages.quality.Quality``."""
    values = {name: getattr(quality, name) for name in LEVELS}
    return {name: None if value is None else round(float(value), LEVELS[name]) for name, value in values.items()}
