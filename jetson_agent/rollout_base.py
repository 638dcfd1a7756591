"""A new base for the fleet: `edgealign-agent pull` follows the alias of the base's registered model, too, where it bears one.

A base comes together with its user's adapter for it, or not at all where the user has one now: a personal adapter changes one
base. Base and shelf are named by one file (device.json), so that both change in one write and can be gone back to.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from jetson_agent.canary import FAILED
from jetson_agent.home import Home
from jetson_agent.journal import discard, note
from jetson_agent.registry import Found, Model
from jetson_agent.shelf import Shelf
from stages.errors import InputError
from stages.registered import RETRAIN, model_name

if TYPE_CHECKING:
    from jetson_agent.rollout import Pull

BASES = ".bases"
"""Folder in the agent's; no cohort can be called so."""


def follow_base(fleet: Pull, again: bool) -> bool:
    """Go back from a base that was halted, then try the one that the alias names; False where the guard refused it."""
    from stages.alignment.record import read_record

    model = fleet.registry.model(model_name(fleet.settings.experiment, None, None))
    if model is None:
        return True
    _go_back(fleet, model, read_record(fleet.device.base).weights_sha256)
    if fleet.settings.alias not in model.aliases and fleet.settings.canary_alias not in model.aliases:
        return True  # most fleets keep the base that they were set up with
    version, in_use = fleet.target(model), read_record(fleet.device.base).weights_sha256
    try:
        if version.sha256 == in_use:
            return True
        fleet.coming = version.sha256
        if fleet.may_try(model, version, fleet.home.history(), again) is None:
            return True
        personal = _personal(fleet, version)
        if personal is None and fleet.shelf.current() is not None:
            fleet.tell(f"base version {version.version} waits: its user has no adapter for it under the alias yet")
            return True
        if fleet.dry_run:
            fleet.tell(f"would check and judge base version {version.version} ({version.sha256[:12]})")
            return True
        return _try(fleet, version, personal)
    finally:
        fleet.say_state(model, read_record(fleet.device.base).weights_sha256)


def _go_back(fleet: Pull, model: Model, digest: str) -> None:
    from jetson_agent.rollout import out_of_use

    version = next((item for item in model.versions.values() if item.sha256 == digest), None)
    why = out_of_use(version) if version else ""
    if version is None or not why:
        return
    told = f"base version {version.version} ({why})"
    if not fleet.device.earlier:
        fleet.tell(f"{told} is what this device was set up with: there is none to go back to")
    elif fleet.dry_run:
        fleet.tell(f"would leave {told}")
    else:
        fleet.shelf.note("withdrawn", why, {"left": version.named})
        fleet.home.leave_base()
        fleet.tell(f"left {told}")


def _personal(fleet: Pull, base: Found) -> Found | None:
    """The user's version under the alias, where it is made for this base and may be used."""
    from jetson_agent.rollout import out_of_use

    device = fleet.device
    model = fleet.registry.model(model_name(fleet.settings.experiment, device.cohort, device.user))
    found = model.versions.get(model.aliases.get(fleet.settings.alias, "")) if model else None
    if found is None or found.tags.get("base_sha256") != base.sha256 or out_of_use(found) or found.tags.get(RETRAIN):
        return None
    return found


def _try(fleet: Pull, version: Found, personal: Found | None) -> bool:
    from jetson_agent.judge import check, judge, verdict
    from stages.portable import keep_base

    home, device, start = fleet.home, fleet.device, time.perf_counter()
    try:
        base = keep_base(version.sha256, lambda place: fleet.registry.fetch(version, place), home.folder / BASES)
        _check_base(base, device.base)
    except InputError as error:
        raise InputError(f"{version.model}, version {version.version}: {error}") from None
    with tempfile.TemporaryDirectory(prefix="edgealign-pull-", dir=home.own) as folder:
        tried = None
        if personal is not None:
            tried = fleet.registry.fetch(personal, Path(folder))
            check(tried, personal.sha256, base, device.cohort, device.user)
        current = fleet.shelf.current()
        figures = judge(home, device, current.folder if current else None, tried, base)
        said, why = verdict(figures, fleet.settings.tolerance, fleet.settings.guard_tolerance)
        figures |= {"verdict": said, "seconds": round(time.perf_counter() - start, 2)}
        of_base = {**figures, "pulled": version.named}
        if said == FAILED:
            fleet.shelf.refuse(why, of_base)
            fleet.tell(f"base version {version.version} refused: {why}")
            return False
        shelf = Shelf(home.own / f"shelf-{version.sha256[:12]}")
        shelf.note("taken", why, of_base)
        if tried is not None and personal is not None:
            shelf.take(tried, why, {**figures, "pulled": personal.named})
        home.use_base(base, shelf.folder.name)
        fleet.coming = ""
    with_it = f" with version {personal.version} of the user's adapter" if personal else ""
    fleet.tell(f"base version {version.version} taken{with_it}: {why}")
    _tidy(home)
    return True


def _check_base(folder: Path, used: Path) -> None:
    """Raises InputError where it is no base, or one for another encoder or LLM than this device has."""
    from stages.alignment.record import read_record

    record, mine = read_record(folder), read_record(used)
    if record.kind != "base":
        raise InputError(f"it is a {record.kind} adapter, needed a base. Nothing of it is used.")
    for name in ("encoder", "llm"):
        if getattr(record, name) != getattr(mine, name):
            raise InputError(
                f"it was made for the {name} {getattr(record, name)}, this device has {getattr(mine, name)}: run "
                "`edgealign-agent setup` again from the project of that base."
            )


def _tidy(home: Home) -> None:
    """Delete bases and shelves that can no longer be gone back to, once what happened on them is noted."""
    note(home)
    device = home.device
    bases = {device.base, *(base for base, _ in device.earlier)}
    shelves = {"shelf", device.shelf, *(shelf for _, shelf in device.earlier)}
    for path in (home.folder / BASES).glob("[!.]*"):
        if path not in bases:
            shutil.rmtree(path, ignore_errors=True)
    for shelf in home.shelves():
        if shelf.folder.name not in shelves:
            discard(shelf)
