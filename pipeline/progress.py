"""Progress of long work: one live bar on a terminal, plain lines (about every tenth) where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINES = 10  # plain lines from start to end, besides the first and the last


@contextmanager
def progress(name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield ``advance(n)``; n may be negative where work is taken back. Writes to standard error."""
    if sys.stderr.isatty():
        with _bar(name, total, unit) as advance:
            yield advance
    else:
        yield _plain(name, total, unit)


@contextmanager
def _bar(name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(name, total=total)
        yield lambda count: shown.update(task, advance=count)


def _plain(name: str, total: int, unit: str) -> Callable[[int], None]:
    start = time.monotonic()
    done = told = 0

    def advance(count: int) -> None:
        nonlocal done, told
        done += count
        tenth = done * LINES // total if total else LINES
        if tenth > told or (done == total and told < LINES):
            told = tenth
            share = 100 * done // total if total else 100
            print(
                f"{name}: {done}/{total} {unit} ({share} %)  {time.monotonic() - start:.0f} s",
                file=sys.stderr,
                flush=True,
            )

    return advance
