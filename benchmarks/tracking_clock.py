"""``python -m benchmarks.tracking_clock STAGE [COHORT]``: one stage as `dvc repro` runs it, with a clock around tracking.

Counts the time that the stage's own process spends inside calls of pipeline.tracking (each once, however they nest): telling
a run what happened, keeping it in the spool, sending it. Writes ``.edgealign/clock/<stage>.json``.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

TOLD = ("params", "metrics", "curve", "tags", "artifact", "adapter", "dataset", "whole", "lasted", "failed")

BESIDE = "beside"
"""Stands for what tracking does in a thread of its own while the stage works."""


class Clock:
    """Seconds inside the outermost of the calls that it wraps, by the name of that call."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inside = threading.local()

    def wrap(self, owner: Any, name: str) -> None:
        """Put the clock around ``owner.name``; one that is not there is left out."""
        plain: Callable[..., Any] | None = getattr(owner, name, None)
        if plain is None:
            return

        @functools.wraps(plain)
        def timed(*arguments: Any, **named: Any) -> Any:
            if getattr(self._inside, "yes", False):
                return plain(*arguments, **named)
            self._inside.yes, start = True, time.perf_counter()
            try:
                return plain(*arguments, **named)
            finally:
                self._inside.yes = False
                key = name if threading.current_thread() is threading.main_thread() else BESIDE
                self.seconds[key] = self.seconds.get(key, 0.0) + time.perf_counter() - start

        setattr(owner, name, timed)


def main(arguments: list[str]) -> None:
    """Run the stage; its exit status is the program's."""
    from pipeline import cli
    from pipeline.project import Project
    from pipeline.tracking import tracker
    from pipeline.tracking.spool import Spool
    from stages.atomic import write_json

    clock = Clock()
    for name in TOLD:
        clock.wrap(tracker.Run, name)
    for name in ("_top", "_lines", "_open", "send"):
        clock.wrap(tracker.Tracker, name)
    for name in ("parameters", "lineage_tags", "changed_parameters"):
        clock.wrap(tracker, name)
    clock.wrap(Spool, "put")
    began = psutil.Process().create_time()
    sys.argv = ["edgealign", "stage", *arguments]
    try:
        cli.main()
    finally:
        project = Project.find(Path.cwd())
        told = {"stage": "@".join(arguments), "seconds": time.time() - began, "tracking": clock.seconds}
        write_json(project.private / "clock" / f"{'@'.join(arguments)}.json", told)


if __name__ == "__main__":
    main(sys.argv[1:])
