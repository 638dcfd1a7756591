"""The adapter versions of a device's user: the one in use, those before it, and why each came.

Everything that must agree lies in one small file, ``current.json``, which is replaced whole: a power cut leaves the
state before or the state after. Version folders are written before it names them and deleted after it forgets them.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stages.atomic import atomic_folder, sha256_file, write_private
from stages.errors import InputError

KEPT = 5
"""Versions that can be gone back to."""
EVENTS = 500


@dataclass(frozen=True)
class Version:
    """One adapter on the shelf."""

    number: int
    folder: Path
    sha256: str


@dataclass(frozen=True)
class Event:
    """One line of the history: ``number`` is in use from then on (None: the base alone)."""

    when: float  # seconds since 1970
    what: str  # "taken", "judged" (again), "refused", "rolled back" or "withdrawn"
    number: int | None
    why: str
    figures: dict[str, Any] = field(default_factory=dict)


class Shelf:
    """A folder of versions; one process at a time writes, any may read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pointer = folder / "current.json"

    def _state(self) -> dict[str, Any]:
        if not self.pointer.is_file():
            return {"stack": [], "events": [], "last": 0}
        try:
            return json.loads(self.pointer.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{self.pointer}: not readable ({error}). Delete it: the base speaks then.") from error

    def _lock(self) -> Any:
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return FileLock(str(self.folder / ".lock"))

    def _version(self, entry: dict[str, Any]) -> Version:
        return Version(entry["number"], self.folder_of(entry["number"]), entry["sha256"])

    def current(self) -> Version | None:
        """The version in use, its weights' hash checked; the newest whole one where it was damaged, None: base alone."""
        for entry in reversed(self._state()["stack"]):
            version = self._version(entry)
            weights = version.folder / "adapter.safetensors"
            if weights.is_file() and sha256_file(weights) == version.sha256:
                return version
        return None

    def take(self, folder: Path, why: str, figures: dict[str, Any]) -> Version:
        """Copy the adapter in ``folder`` onto the shelf and put it in use."""
        with self._lock():
            state = self._state()
            number = state["last"] + 1
            target = self.folder_of(number)
            shutil.rmtree(target, ignore_errors=True)  # of a take that was cut off before it counted
            with atomic_folder(target) as temporary:
                for name in ("adapter.safetensors", "adapter.json"):
                    shutil.copyfile(folder / name, temporary / name)
                    (temporary / name).chmod(0o600)
            entry = {"number": number, "sha256": sha256_file(target / "adapter.safetensors")}
            state["stack"] = [*state["stack"], entry][-KEPT:]
            state["last"] = number
            self._write(state, Event(time.time(), "taken", number, why, figures))
            return self._version(entry)

    def refuse(self, why: str, figures: dict[str, Any]) -> None:
        """Note that an update was judged and not taken; what is in use stays."""
        self.note("refused", why, figures)

    def note(self, what: str, why: str, figures: dict[str, Any]) -> None:
        """Note what happened to something else than the versions, which stay as they are: the base."""
        with self._lock():
            state = self._state()
            number = state["stack"][-1]["number"] if state["stack"] else None
            self._write(state, Event(time.time(), what, number, why, figures))

    def rollback(self, why: str) -> Version | None:
        """Go back to the version before, or to the base alone. Raises InputError where the base alone is in use."""
        with self._lock():
            state = self._state()
            if not state["stack"]:
                raise InputError("the base alone is in use: there is nothing to roll back")
            state["stack"] = state["stack"][:-1]
            number = state["stack"][-1]["number"] if state["stack"] else None
            self._write(state, Event(time.time(), "rolled back", number, why))
        return self.current()

    def withdraw(self, sha256: str, why: str, figures: dict[str, Any]) -> Version | None:
        """Drop every version with these weights, wherever it stands; what is in use then."""
        with self._lock():
            state = self._state()
            state["stack"] = [entry for entry in state["stack"] if entry["sha256"] != sha256]
            number = state["stack"][-1]["number"] if state["stack"] else None
            self._write(state, Event(time.time(), "withdrawn", number, why, figures))
        return self.current()

    def before(self) -> Version | None:
        """The version that a roll-back would put in use; None: the base alone."""
        stack = self._state()["stack"]
        return self._version(stack[-2]) if len(stack) > 1 else None

    def holds(self, sha256: str) -> bool:
        """Whether a version with these weights is in use, or can be gone back to."""
        return any(entry["sha256"] == sha256 for entry in self._state()["stack"])

    def folder_of(self, number: int) -> Path:
        """Where a version lies, as long as it can be gone back to."""
        return self.folder / f"{number:06d}"

    def history(self) -> list[Event]:
        """What happened, oldest first."""
        return [Event(**event) for event in self._state()["events"]]

    def count(self) -> int:
        """How many events there ever were; a shelf that is deleted begins anew."""
        return _count(self._state())

    def journal(self, after: int) -> list[tuple[int, Event]]:
        """The events since the first ``after``, each with its number from 1 up; of those the last EVENTS at most."""
        state = self._state()
        first = _count(state) - len(state["events"]) + 1
        numbered = enumerate((Event(**event) for event in state["events"]), first)
        return [(number, event) for number, event in numbered if number > after]

    def _write(self, state: dict[str, Any], event: Event) -> None:
        state["count"] = _count(state) + 1
        state["events"] = [*state["events"], asdict(event)][-EVENTS:]
        write_private(self.pointer, json.dumps(state, indent=2).encode())
        kept = {f"{entry['number']:06d}" for entry in state["stack"]}
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.endswith(".part"):  # of a process that was killed; the lock is ours
                path.unlink()


def _count(state: dict[str, Any]) -> int:
    return int(state.get("count", len(state["events"])))
