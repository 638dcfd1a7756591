"""From the shelf's history to the outbox: every judged update, roll-back and roll-out becomes an entry, each once.

The shelf writes an event together with the change itself, in one file. So nothing is lost or made up where the power fails
between a change and its entry: the next call goes on at the event after the last one that was noted.
"""

from __future__ import annotations

import json
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jetson_agent.outbox import Entry, Outbox
from jetson_agent.shelf import Event, Shelf, Version
from stages.atomic import sha256_json, write_private

if TYPE_CHECKING:
    from jetson_agent.home import Home


def note(home: Home) -> None:
    """Put what happened since the last call, to whomever the device was set up for, into the outbox. Raises OSError."""
    for folder in sorted(home.folder.glob("*/*/shelf*")):
        _note(Shelf(folder), Outbox(folder.parent / "outbox"), *folder.parts[-3:-1])


def roll_back(home: Home, why: str) -> Version | None:
    """Go back to the version before, as ``Shelf.rollback``, and note it."""
    with home.changing():
        note(home)  # before the version's files go
        version = home.shelf.rollback(why)
        note(home)
        return version


def discard(shelf: Shelf) -> None:
    """Delete a shelf whose events are noted, and how far they were: one of this name may come again."""
    shutil.rmtree(shelf.folder, ignore_errors=True)
    if not shelf.pointer.exists():  # else its events would be told once more
        _path(shelf, Outbox(shelf.folder.parent / "outbox")).unlink(missing_ok=True)


def _note(shelf: Shelf, outbox: Outbox, cohort: str, user: str) -> None:
    cursor = _path(shelf, outbox)
    with outbox.noting():
        noted = _cursor(cursor)
        if shelf.count() < noted["events"]:  # it was deleted, and counts from 1 again
            noted = _fresh(cursor)
        for number, event in shelf.journal(noted["events"]):
            for entry in _entries(noted["id"], number, event, cohort, user):
                folder = shelf.folder_of(event.number or 0)
                if entry.kind != "adapter":
                    outbox.put(entry)
                elif (folder / "adapter.json").is_file():  # else it was left again before anything noted it
                    outbox.put(entry, folder)
            noted["events"] = number
            write_private(cursor, json.dumps(noted).encode())


def _path(shelf: Shelf, outbox: Outbox) -> Path:
    """Where it lies how far a shelf was noted."""
    return outbox.folder / f"noted-{shelf.folder.name}.json"


def _cursor(path: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {"id": str(told["id"]), "events": int(told["events"])}
    except FileNotFoundError:
        return _fresh(path)


def _fresh(path: Path) -> dict[str, Any]:
    """Nothing noted yet; the id is part of the entries' keys, so that none is taken for one of an earlier shelf."""
    fresh: dict[str, Any] = {"id": secrets.token_hex(16), "events": 0}
    write_private(path, json.dumps(fresh).encode())
    return fresh


def _entries(shelf: str, number: int, event: Event, cohort: str, user: str) -> list[Entry]:
    def entry(kind: str) -> Entry:
        told = {"cohort": cohort, "user": user, "what": event.what, "why": event.why, "figures": event.figures}
        named = {"key": sha256_json([shelf, number, kind]), "run": sha256_json([shelf, number])}
        return Entry.model_validate({**named, "kind": kind, "when": float(event.when), **told})

    if "pulled" in event.figures:
        return [entry("verdict")]
    if event.what == "taken" and "method" not in event.figures:
        return []  # set up from a project, which recorded it
    learned = event.what == "taken"
    return [entry("update"), *([entry("adapter")] if learned else [])]
