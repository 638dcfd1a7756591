"""Converted chunks become a cohort, or the next part of one: nothing twice, nothing that was erased, one index, one record."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.cohorts.convert import CHUNK_FILE
from pipeline.cohorts.index import next_batch, read_index, table_of, write_index
from pipeline.cohorts.store import COHORT_FILE, CohortRecord, totals, write_record
from stages.atomic import sha256_bytes, sha256_json, write_bytes
from stages.errors import EdgealignError
from stages.schema import INDEX
from stages.shards import Problem, iter_shard, pack_shard

THERE_ALREADY = "in the cohort already, left out"


@dataclass
class Known:
    """Recordings that must not come in again."""

    there: frozenset[str] = frozenset()
    """audio_sha256 of what the cohort holds already."""
    erased: Mapping[str, str] = field(default_factory=dict)
    """Of users who asked to be forgotten: {sha256 of a recording: erasure id}."""
    seen: dict[str, str] = field(default_factory=dict)
    """Of this batch so far: {audio_sha256: utterance}."""

    def refusal(self, row: Mapping[str, Any]) -> str:
        """Why an utterance may not come in; empty where it may. One that may is seen from now on."""
        erasure = self.erased.get(row["audio_sha256"]) or self.erased.get(row["source_sha256"])
        if erasure:
            return f"its user asked to be forgotten (erasure {erasure}). It stays out."
        if row["audio_sha256"] in self.there:
            return THERE_ALREADY
        first = self.seen.setdefault(row["audio_sha256"], row["utterance"])
        if first != row["utterance"]:  # on both sides of a split it would judge what it has taught
            return f"the same recording as {first}. Keep one of them."
        return ""


@dataclass
class Batch:
    """What one ``add`` or ``append`` brings in."""

    tables: list[pa.Table] = field(default_factory=list)
    shards: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)

    @property
    def table(self) -> pa.Table:
        """The batch's index."""
        return pa.concat_tables(self.tables) if self.tables else INDEX.empty_table()


def gather(folders: Iterable[Path], known: Known, target: Path | None, first_shard: int = 0) -> Batch:
    """Bring converted chunks together, in order; shards are linked into ``target`` under their final names.

    Without a target only the outcome is told, for a dry run.
    """
    batch = Batch()
    for folder in folders:
        content = json.loads((folder / CHUNK_FILE).read_text(encoding="utf-8"))
        batch.problems += [Problem(*problem) for problem in content["problems"]]
        batch.done.update(content["done"])
        for shard in content["shards"]:
            refused = {row["utterance"]: known.refusal(row) for row in shard["rows"]}
            batch.done[THERE_ALREADY] += sum(reason == THERE_ALREADY for reason in refused.values())
            batch.problems += [
                Problem(f"recording {name}", reason)
                for name, reason in refused.items()
                if reason and reason != THERE_ALREADY
            ]
            rows = [row for row in shard["rows"] if not refused[row["utterance"]]]
            if not rows:
                continue
            name = f"shard-{first_shard + len(batch.shards):05d}.tar"
            digest = shard["sha256"]
            if target is not None and len(rows) == len(shard["rows"]):
                link(folder / shard["file"], target / name)
            elif target is not None:
                kept = {row["utterance"] for row in rows}
                packed = pack_shard(item for item in iter_shard(folder / shard["file"]) if item.utterance in kept)
                digest = sha256_bytes(packed)
                write_bytes(target / name, packed)
            batch.shards[name] = digest
            batch.tables.append(table_of({**row, "shard": name} for row in rows))
    batch.done += Counter()  # drops what counts zero
    return batch


def link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def finish(
    target: Path, record: CohortRecord, batch: Batch, old: Path | None, called: Mapping[str, str]
) -> CohortRecord:
    """Complete ``target`` (which holds the batch's shards): what ``old`` holds already, the index and cohort.yaml."""
    number, table = 0, batch.table
    if old is not None:
        number = next_batch(old)
        for path in sorted(old.iterdir()):
            if path.name != COHORT_FILE and path.is_file():
                link(path, target / path.name)
        table = pa.concat_tables([read_index(old), table])
    write_index(batch.table, target, number, batch.shards)
    columns = batch.table.select(["utterance", "user", "text", "source_sha256"]).to_pydict()
    source = sha256_json([record.created_from, *map(list, zip(*columns.values(), strict=True))])
    full = replace(record, created_from=source, shards={**record.shards, **batch.shards}, **totals(table, called))
    write_record(target, full)
    return full


@contextmanager
def told_when_full(kept: Path) -> Iterator[None]:
    """A full disk as one message that says what is kept and how to go on."""
    import errno

    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise EdgealignError(
            f"{kept}: the disk is full ({error.strerror}). data/ is as it was, and what was converted is kept there. Free some "
            f"space and run the same command again: it goes on from here. To give it up, delete {kept}."
        ) from error
