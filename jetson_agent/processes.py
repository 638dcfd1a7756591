"""Ending processes that were started here: the node's by its agent, the embedded session's by its keeper."""

from __future__ import annotations

import psutil


def end_processes(processes: list[psutil.Process], grace_s: float = 3.0) -> None:
    """SIGTERM, then SIGKILL for those that stay. psutil refuses to signal a later process with the same pid."""
    for process in processes:
        try:
            process.terminate()
        except psutil.Error:
            continue
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(alive, timeout=grace_s)
