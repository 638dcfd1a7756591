"""Where an embedded Ray session keeps its sockets, token and record, and how what a dead one left is cleared away."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from jetson_agent.processes import end_processes
from stages.atomic import write_json
from stages.errors import ClusterError

_LONGEST_BASE = 27
"""A Unix socket's path may have 107 bytes; Ray's own part below a session's folder takes up to 80 of them."""


@dataclass(frozen=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    create_time: float
    """Seconds since the epoch, as psutil tells it."""

    @classmethod
    def of(cls, process: psutil.Process) -> ProcessId:
        return cls(process.pid, process.create_time())

    def process(self) -> psutil.Process | None:
        """The process while it runs, else None."""
        try:
            process = psutil.Process(self.pid)
            # psutil works the start out from the boot time, which moves a little when the clock is corrected
            same = abs(process.create_time() - self.create_time) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def alive(self) -> bool:
        return self.process() is not None


@dataclass(frozen=True)
class Record:
    """What a running session tells to whoever wants to connect."""

    address: str
    """HOST:PORT of the head; empty while it starts."""
    keeper: ProcessId
    owner: ProcessId
    processes: tuple[ProcessId, ...]
    """Every process of the session but the keeper."""

    def write(self, folder: Path) -> None:
        write_json(record_path(folder), asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """The record of a session's folder; None where there is none yet."""
        try:
            content = json.loads(record_path(folder).read_text(encoding="utf-8"))
            return cls(
                address=content["address"],
                keeper=ProcessId(**content["keeper"]),
                owner=ProcessId(**content["owner"]),
                processes=tuple(ProcessId(**item) for item in content["processes"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


def record_path(folder: Path) -> Path:
    return folder / "session.json"


def token_path(folder: Path) -> Path:
    return folder / "token"


def base_folder() -> Path:
    """The private folder that holds this user's sessions. Raises ClusterError where somebody else owns its name."""
    name = f"edgealign-{os.getuid()}"
    base = Path(tempfile.gettempdir()) / name
    if len(str(base)) > _LONGEST_BASE:
        base = Path(os.sep, "tmp", name)  # the folder with a short name on every system; ours in it is private
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = base.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise ClusterError(
            f"{base}: belongs to somebody else; Ray's token would lie there. Set TMPDIR to a folder of your own."
        )
    base.chmod(0o700)
    return base


def session_folder(key: str) -> Path:
    """The folder of the session that ``key`` names."""
    return base_folder() / hashlib.sha256(key.encode()).hexdigest()[:8]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder``'s lock, making the folder where needed. Its keeper may remove it meanwhile: then once more."""
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / "lock"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                current = path.stat().st_ino == os.fstat(handle).st_ino
            except FileNotFoundError:
                current = False
            if current:
                yield
                return
        finally:
            os.close(handle)


def clear_stale() -> None:
    """End what is left of sessions whose keeper was killed, and remove their folders."""
    for folder in base_folder().iterdir():
        record = Record.read(folder)
        if record is None or record.keeper.alive():
            continue
        end_processes([process for item in record.processes if (process := item.process())])
        shutil.rmtree(folder, ignore_errors=True)
