"""Chunks over the cores, or over a Ray cluster; what is done stays done, whatever is killed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.cohorts.convert import (
    CHUNK_FILE,
    Report,
    chunk_key,
    keep_chunk,
    open_local,
    pack_shipped,
    write_chunk,
)
from pipeline.cohorts.plan import Row
from pipeline.project import Project
from pipeline.settings import Settings
from stages.errors import InputError
from stages.shards import Problem

AHEAD = 4  # chunks a worker that wait in line: enough to keep it busy, few enough to keep memory flat
CRASHED = "the program that decodes it crashed on it. Convert it to WAV or leave it out."

Convert = Callable[[Sequence[Row], Path, bool], int]
"""``write_chunk`` or ``judge_chunk``."""


def chunk_folders(chunks: Iterable[list[Row]], folder: Path, cut_long: bool) -> Iterator[tuple[list[Row], Path]]:
    """Each chunk with the folder that its content decides."""
    for rows in chunks:
        yield rows, folder / chunk_key(rows, cut_long)[:32]


def is_done(folder: Path) -> bool:
    """Whether a chunk was converted whole."""
    return (folder / CHUNK_FILE).is_file()


def run_local(
    chunks: Iterable[tuple[list[Row], Path]],
    cut_long: bool,
    workers: int,
    advance: Callable[[int], None],
    convert: Convert = write_chunk,
) -> None:
    """Convert the chunks that are not done yet, in ``workers`` processes of their own (0: in this one).

    A recording on which a worker crashes is set aside. Raises OSError where the disk takes no more.
    """
    todo = _pending(chunks, advance)
    if not workers:
        for rows, folder in todo:
            convert(rows, folder, cut_long)
            advance(len(rows))
        return
    lost: list[tuple[list[Row], Path]] = []
    while lost or (first := next(todo, None)):
        if lost:  # a worker died on one of these: one at a time, so that the others are not taken along
            rows, folder = lost.pop(0)
            _run_alone(rows, folder, cut_long, convert)
            advance(len(rows))
            continue
        lost = _run_pool(_chain(first, todo), cut_long, workers, advance, convert)


def _pending(
    chunks: Iterable[tuple[list[Row], Path]], advance: Callable[[int], None]
) -> Iterator[tuple[list[Row], Path]]:
    for rows, folder in chunks:
        if is_done(folder):
            advance(len(rows))
        else:
            shutil.rmtree(folder, ignore_errors=True)  # what a kill left
            yield rows, folder


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _pool(workers: int) -> ProcessPoolExecutor:
    # not fork: this process may have threads by now (the progress bar's, pyarrow's)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.cohorts.convert"])
    return ProcessPoolExecutor(workers, mp_context=context)


def _run_pool(
    todo: Iterator[tuple[list[Row], Path]],
    cut_long: bool,
    workers: int,
    advance: Callable[[int], None],
    convert: Convert,
) -> list[tuple[list[Row], Path]]:
    """Convert until all is done or a worker dies; returns the chunks that were under way then."""
    pool = _pool(workers)
    flying: dict[Future[int], tuple[list[Row], Path]] = {}
    try:
        more = True
        while more or flying:
            while more and len(flying) < AHEAD * workers:
                chunk = next(todo, None)
                if chunk is None:
                    more = False
                    break
                flying[pool.submit(convert, *chunk, cut_long)] = chunk
            done, _ = wait(flying, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                advance(len(flying.pop(future)[0]))
    except BrokenProcessPool:
        return [chunk for chunk in flying.values() if not is_done(chunk[1])]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return []


def _run_alone(rows: list[Row], folder: Path, cut_long: bool, convert: Convert) -> None:
    """Convert one chunk, leaving out the rows on which a process dies when it is given them alone."""
    if _survives(partial(convert, rows, folder, cut_long)):
        return
    trial = folder.with_name(folder.name + ".trial")
    crashed = [row for row in rows if not _survives(partial(convert, [row], trial, cut_long))]
    shutil.rmtree(trial, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    partial_report = [[row.item, CRASHED] for row in crashed]
    kept = [row for row in rows if row not in crashed]
    if not _survives(partial(_convert_without, kept, folder, cut_long, convert, partial_report)):
        raise InputError(
            f"A worker process was killed while it converted {rows[0].item} to {rows[-1].item}, and no single recording "
            "is to blame: is there enough memory? Run the same command again: it goes on from here."
        )


def _convert_without(rows: list[Row], folder: Path, cut_long: bool, convert: Convert, crashed: list[list[str]]) -> None:
    """Convert ``rows`` and note in the chunk's file what was left out."""
    import json

    from stages.atomic import write_json

    convert(rows, folder, cut_long)
    content = json.loads((folder / CHUNK_FILE).read_text(encoding="utf-8"))
    content["problems"] += crashed
    write_json(folder / CHUNK_FILE, content)


def _survives(work: Callable[[], Any]) -> bool:
    with _pool(1) as pool:
        try:
            pool.submit(work).result()
        except BrokenProcessPool:
            return False
    return True


class _Shipped(Sequence[tuple[list[Row], list[Any], bool]]):
    """Chunks with their recordings' bytes, read when a node is about to get them: memory stays flat."""

    def __init__(self, chunks: list[tuple[list[Row], Path]], cut_long: bool) -> None:
        self.chunks, self.cut_long = chunks, cut_long

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: Any) -> Any:
        rows = self.chunks[index][0]
        return rows, [_read(row) for row in rows], self.cut_long


def _read(row: Row) -> bytes | InputError:
    try:
        found = open_local(row)
        return found if isinstance(found, bytes) else found.read_bytes()
    except (InputError, OSError) as error:
        return error if isinstance(error, InputError) else InputError(f"{row.item}: cannot be read ({error.strerror}).")


def run_on_ray(
    project: Project,
    settings: Settings,
    chunks: Iterable[tuple[list[Row], Path]],
    cut_long: bool,
    advance: Callable[[int], None],
) -> None:
    """Convert the chunks that are not done yet on the cluster's nodes; the shards come back and are written here.

    Raises ClusterError where there is no cluster, and EdgealignError where a chunk could not be done by any node.
    """
    from pipeline.cluster.placement import Placement
    from pipeline.cluster.session import connect
    from pipeline.cluster.work import Result, run_tasks
    from pipeline.runs.common import tell_failures

    todo = list(_pending(chunks, advance))
    if not todo:
        return

    def done(index: int, result: Result) -> None:
        shards, report = result.value
        keep_chunk(todo[index][1], shards, report)
        advance(len(todo[index][0]))

    with connect(project, settings) as session:
        failures = run_tasks(
            session,
            pack_shipped,
            _Shipped(todo, cut_long),
            Placement(cpus=1),
            retries=settings.ray.task_retries,
            on_result=done,
            describe=lambda index: todo[index][0][0].item,
        )
    tell_failures("cohort add", failures, len(todo))
    for failure in failures:  # no node could do it: its recordings are set aside, each with the reason
        rows, folder = todo[failure.index]
        keep_chunk(folder, [], Report([Problem(row.item, failure.message) for row in rows]))
        advance(len(rows))


def default_workers() -> int:
    """One process a core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
