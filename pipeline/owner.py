"""Who asked for this work: the `dvc repro` above this process, which several stages share.

DVC starts each stage as a process of its own, so what belongs to one `dvc repro` (its parent run, its Ray head) cannot
be passed in memory. The process that started them all is the one thing that every stage can find again.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

_DVC_COMMANDS = (("repro",), ("exp", "run"), ("exp", "exec-run"), ("experiments", "run"), ("experiments", "exec-run"))


@dataclass(frozen=True)
class Owner:
    """A process on this host."""

    pid: int
    create_time: float
    """Seconds since the epoch, as psutil tells it."""
    command: str
    """The command line, for people."""
    key: str
    """Names the process for ever: host, boot, pid and start (a pid alone is used again)."""
    dvc: bool
    """True for a `dvc repro` or `dvc exp run`; False for a command that was started by hand."""

    def alive(self) -> bool:
        """True while this very process (not a later one with its pid) runs."""
        try:
            process = psutil.Process(self.pid)
            return process.status() != psutil.STATUS_ZOMBIE and _key(process) == self.key
        except psutil.Error:
            return False


def is_dvc(arguments: list[str]) -> bool:
    """True for the command line of a `dvc` that runs stages; a shell line that merely mentions one is no such thing."""
    for position, argument in enumerate(arguments[:4]):
        path = Path(argument)
        # `python -m dvc` shows as `-m dvc` or, once Python has resolved it, as .../dvc/__main__.py
        if path.name == "dvc" or (path.name == "__main__.py" and path.parent.name == "dvc"):
            words = [word for word in arguments[position + 1 :] if not word.startswith("-")]
            return any(tuple(words[: len(command)]) == command for command in _DVC_COMMANDS)
    return False


def owner() -> Owner:
    """The nearest `dvc repro` or `dvc exp run` at or above this process; where there is none, this process itself."""
    here = psutil.Process()
    for process in (here, *here.parents()):
        try:
            arguments = process.cmdline()
            if is_dvc(arguments):
                return _describe(process, arguments, dvc=True)
        except psutil.Error:  # gone meanwhile, or another user's
            continue
    return _describe(here, here.cmdline(), dvc=False)


def _describe(process: psutil.Process, arguments: list[str], *, dvc: bool) -> Owner:
    return Owner(process.pid, process.create_time(), " ".join(arguments), _key(process), dvc)


def _key(process: psutil.Process) -> str:
    """Host, boot, pid and start; in ticks since boot where Linux tells them, as the clock may be set meanwhile."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        # the second field is the program's name in brackets, which may itself hold blanks and brackets
        start = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        boot, start = "boot", f"{process.create_time():.0f}"
    return f"{socket.gethostname()}-{boot}-{process.pid}-{start}"
