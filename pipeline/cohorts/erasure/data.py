"""The person out of a cohort's shards, index and cohort.yaml; the others stay as they are, byte for byte."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from pipeline.cohorts.erasure.content import is_members, is_row, iter_members
from pipeline.cohorts.erasure.person import Matcher
from pipeline.cohorts.erasure.state import Erasure
from pipeline.cohorts.index import INDEX_GLOB, described_shards, read_index
from pipeline.cohorts.remove import paths_of
from pipeline.cohorts.store import COHORT_FILE, CohortRecord, read_cohort, totals, unlist_in_params, write_record
from stages.atomic import sha256_file, write_bytes
from stages.errors import InputError
from stages.schema import INDEX, read_table, write_table
from stages.shards import Member


def belongs(erasure: Erasure, path: Path) -> bool:
    """Whether a file of data/cohorts/ is part of a cohort, and not what a kill left."""
    known = {COHORT_FILE, *erasure.before.get(path.parent.name, [])}
    return path.name in known or path.match(INDEX_GLOB)


def touched_shards(folder: Path, record: CohortRecord, matcher: Matcher) -> dict[str, str]:
    """{shard: SHA-256} of the cohort's shards that hold the person. Raises InputError where one is not there."""
    touched = {}
    for name in sorted(record.shards):
        path = folder / name
        if not path.is_file():
            raise InputError(
                f"{path}: not there. `dvc pull` first: what is not here cannot be written anew without a user."
            )
        with path.open("rb") as file:
            if any(is_members(key, fields, matcher, record.name) for key, fields, _ in iter_members(file)):
                touched[name] = sha256_file(path)
    return touched


def without(path: Path, matcher: Matcher, cohort: str) -> bytes | None:
    """A shard's bytes without the person; None where nothing remains.

    The other members are copied as they are, so the result is what ``stages.shards.pack_shard`` makes of them.
    """
    with path.open("rb") as file:
        gone = {key for key, fields, _ in iter_members(file) if is_members(key, fields, matcher, cohort)}
    buffer = io.BytesIO()
    kept = 0
    with tarfile.open(path, mode="r:", tarinfo=Member) as source, tarfile.open(fileobj=buffer, mode="w") as target:
        for member in source:
            if member.name.partition(".")[0] not in gone:
                target.addfile(member, source.extractfile(member) if member.isreg() else None)
                kept += 1
    return buffer.getvalue() if kept else None


def erase_cohort(erasure: Erasure, cohort: str) -> None:
    """Rewrite what holds the person; a cohort without anybody else is removed, from params.yaml as well."""
    project, matcher = erasure.project, erasure.matcher()
    folder = project.cohort(cohort)
    for name in erasure.shards.get(cohort, {}):
        path = folder / name
        if path.is_file():
            rest = without(path, matcher, cohort)
            if rest is None:
                path.unlink()
            elif rest != path.read_bytes():
                write_bytes(path, rest)
    try:
        record = read_cohort(folder)
    except InputError:
        if folder.is_dir():
            raise
        record = None  # removed by an earlier try
    if record is not None:
        record = _describe(folder, record, erasure, matcher)
    if record is None or not record.users:
        unlist_in_params(project, cohort)  # first: a stage that is started now does not miss its recordings
        for path in paths_of(project, cohort):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _describe(folder: Path, record: CohortRecord, erasure: Erasure, matcher: Matcher) -> CohortRecord:
    """Write index files and cohort.yaml anew, for the shards as they are now."""
    old = erasure.shards.get(record.name, {})
    now = {name: sha256_file(folder / name) for name in old if (folder / name).is_file()}
    for path in sorted(folder.glob(INDEX_GLOB)):
        _rewrite_index(path, old, now, matcher, record.name)
    shards = {name: now.get(name, digest) for name, digest in record.shards.items() if name not in old or name in now}
    names = {slug: user.name for slug, user in record.users.items()}
    users = {slug: user for slug, user in record.users.items() if slug != matcher.person.slugs.get(record.name)}
    record = replace(record, shards=shards, users=users)
    if not shards:
        (folder / COHORT_FILE).unlink()
        return replace(record, users={})
    write_record(folder, record)  # the index is read by the shards that this names
    record = replace(record, **totals(read_index(folder), names))
    write_record(folder, record)
    return record


def _rewrite_index(path: Path, old: Mapping[str, str], now: Mapping[str, str], matcher: Matcher, cohort: str) -> None:
    try:
        table = read_table(path, INDEX)
    except InputError:
        path.unlink()  # read_index makes its rows from the shards
        return
    described = {}
    for name, digest in described_shards(path).items():
        if name not in old:
            described[name] = digest
        elif name in now:
            # one that did not fit its shard before is not made to fit
            described[name] = now[name] if digest in (old[name], now[name]) else digest
    kept = drop_rows(table, matcher, cohort)
    if kept.num_rows == 0:
        path.unlink()
    else:
        write_table(kept.replace_schema_metadata(), path, {"shards": json.dumps(dict(sorted(described.items())))})


def drop_rows(table: pa.Table, matcher: Matcher, cohort: str) -> pa.Table:
    """A table of features, transcripts, labels or an index without the person's rows."""
    columns = [name for name in ("utterance", "user", "cohort") if name in table.column_names]
    keep = [not is_row(row, matcher, cohort) for row in table.select(columns).to_pylist()]
    return table.filter(pa.array(keep, pa.bool_())) if not all(keep) else table
