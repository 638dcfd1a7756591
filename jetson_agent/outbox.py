"""What a device has to tell the registry, kept until it was told: ordered entries, each whole or absent, none ever dropped.

An entry holds figures and, where it is of an adapter, the adapter's two files; never a text or a recording. Entries are
numbered rather than dated: a device without a network does not know the time. Readable by its owner alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.atomic import atomic_folder, write_private
from stages.errors import EdgealignError, InputError

SEND_WAIT_S = 60.0
"""How long a sender waits for another one that sends."""


class EntryRefused(EdgealignError):
    """The registry answered and will never take this entry."""


class Entry(BaseModel):
    """One thing to tell."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    key: str = Field(min_length=16, description="What makes telling it repeatable: no two entries share one.")
    run: str = Field(min_length=16, description="The run that it is told in; an update and its adapter share one.")
    kind: Literal["update", "adapter", "verdict"]
    when: float = Field(description="Seconds since 1970, by the device's clock.")
    cohort: str
    user: str
    what: str = Field(description="As jetson_agent.shelf.Event.")
    why: str
    figures: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Waiting:
    """An entry with the folder that it lies in."""

    folder: Path
    entry: Entry


@dataclass(frozen=True)
class Size:
    """How much waits; ``aside`` are entries that the registry refused."""

    entries: int
    aside: int
    bytes: int


class Outbox:
    """A folder of entries."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.aside = folder / "refused"

    def put(self, entry: Entry, files: Path | None = None) -> None:
        """Keep an entry, with the adapter in ``files``; one whose key waits already is kept once. Raises OSError."""
        with self._lock(".lock", -1):
            there = self._folders()
            if any(path.name.endswith(entry.key[:24]) for path in there):
                return
            for leftover in self.folder.glob(".*.part"):  # of a process that was killed; the lock is ours
                shutil.rmtree(leftover, ignore_errors=True)
            last = max((int(path.name[:10]) for path in there), default=0)
            with atomic_folder(self.folder / f"{last + 1:010d}-{entry.kind}-{entry.key[:24]}") as temporary:
                if files is not None:
                    _copy(files, temporary)
                (temporary / "entry.json").write_text(entry.model_dump_json(indent=2), encoding="utf-8")
                for path in temporary.iterdir():
                    path.chmod(0o600)

    def waiting(self) -> list[Waiting]:
        """What waits, oldest first; an entry that cannot be read is put aside."""
        found = []
        for folder in self._folders():
            try:
                found.append(Waiting(folder, _read(folder)))
            except (FileNotFoundError, ValueError, ValidationError) as error:
                if folder.is_dir():  # else it was told meanwhile
                    self._refuse(folder, f"not readable ({error})")
        return found

    def replay(self, send: Callable[[Waiting], None]) -> int:
        """Tell everything that waits, oldest first, one sender at a time; how many were told.

        ``send`` returns once the registry has it; called again after a power cut with an entry that the registry has, it
        must change nothing. What it raises ends the replay, and that entry and the later ones stay; EntryRefused puts the entry
        aside and goes on. Raises filelock.Timeout where another process sends for a minute.
        """
        told = 0
        with self._lock(".sending", SEND_WAIT_S):
            while waiting := self.waiting():
                for item in waiting:
                    try:
                        send(item)
                        self._remove(item.folder)
                        told += 1
                    except EntryRefused as error:
                        self._refuse(item.folder, str(error))
        return told

    def size(self) -> Size:
        """How much waits; another process may be sending meanwhile."""
        entries = size = 0
        for folder in self._folders():
            try:
                size += sum(path.stat().st_size for path in folder.iterdir())
            except FileNotFoundError:
                continue  # told meanwhile
            entries += 1
        return Size(entries, len(list(self.aside.glob("*"))), size)

    def readmit(self) -> int:
        """Let what was put aside wait again; how many."""
        aside = sorted(self.aside.iterdir()) if self.aside.is_dir() else []
        for folder in aside:
            (folder / "reason.json").unlink(missing_ok=True)
            folder.rename(self.folder / folder.name)
        return len(aside)

    def erase(self) -> None:
        """Forget everything that waits, once nobody is sending it. Raises InputError where somebody is, for a minute."""
        from filelock import Timeout

        if not self.folder.is_dir():
            return
        try:
            with self._lock(".sending", SEND_WAIT_S):
                shutil.rmtree(self.folder)
        except Timeout:
            raise InputError(f"{self.folder}: is being sent. Try again, or end `edgealign-agent push`.") from None

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Hold the right to decide what is to be put: see jetson_agent.journal."""
        with self._lock(".noting", -1):
            yield

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("[0-9]*") if path.is_dir())

    def _remove(self, folder: Path) -> None:
        gone = folder.with_name(f".{folder.name}.part")  # renamed first: half an entry must not be read as one
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _refuse(self, folder: Path, reason: str) -> None:
        self.aside.mkdir(exist_ok=True, mode=0o700)
        target = self.aside / folder.name
        folder.rename(target)
        write_private(target / "reason.json", json.dumps({"reason": reason}).encode())

    def _lock(self, name: str, timeout_s: float) -> Any:
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return FileLock(str(self.folder / name), timeout=timeout_s)


def _copy(source: Path, target: Path) -> None:
    """An adapter without the names of the recordings that it learned from: they are hashes of what was said aloud."""
    shutil.copyfile(source / "adapter.safetensors", target / "adapter.safetensors")
    record = json.loads((source / "adapter.json").read_text(encoding="utf-8"))
    record |= {key: [] for key in ("train_utterances", "held_out_utterances") if key in record}
    (target / "adapter.json").write_text(json.dumps(record, indent=2, sort_keys=True), encoding="utf-8")


def _read(folder: Path) -> Entry:
    return Entry.model_validate_json((folder / "entry.json").read_text(encoding="utf-8"))
