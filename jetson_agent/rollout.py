"""``edgealign-agent pull``: follow the registry's alias, a canary share of the devices first, and go back where it got worse.

What is in use changes only after the new version was downloaded whole, its hashes fit, and this device's own guard (the
user's held-out corrections, other people's utterances) found it no worse. The verdict goes to the registry as a tag.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from jetson_agent.canary import DEVICE, FAILED, Decision, decide, devices_of, first, halted, share_of
from jetson_agent.home import Device, Home
from jetson_agent.journal import note
from jetson_agent.outbox import Outbox
from jetson_agent.registry import Found, Model, Registry, iso
from jetson_agent.settings import RolloutSettings
from jetson_agent.shelf import Event, Shelf
from stages.errors import InputError, TrackingError
from stages.registered import RETRAIN, WITHDRAWN, model_name

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Sent:
    """What a push did: told and waiting entries; what stopped it, empty where nothing did."""

    told: int
    waiting: int
    aside: int
    problem: str = ""


def push(home: Home, settings: RolloutSettings, registry: Registry | None = None) -> Sent:
    """Tell the registry everything that waits, oldest first, each once; what could not be told waits on, and is told of.

    Each user's by itself: what one's cannot be told for stops no other's. Raises OSError where the disk does not take what
    happened since the last call.
    """
    note(home)
    try:
        registry = registry or Registry(settings)
    except (TrackingError, InputError, OSError) as error:
        return _sent(home, 0, [str(error)])
    told, problems = 0, []
    for outbox in home.outboxes():
        try:
            told += _push(outbox, registry)
        except Timeout:  # an OSError, too
            problems.append("another process is sending")
        except (InputError, OSError) as error:
            problems.append(str(error))
        except TrackingError as error:
            problems.append(str(error))
            if not registry.answers():
                break  # the others would wait for nobody, too
    return _sent(home, told, problems)


def _push(outbox: Outbox, registry: Registry) -> int:
    if not outbox.size().entries:
        return 0
    _check_forgotten(outbox, registry)
    told = outbox.replay(registry.tell)
    _check_forgotten(outbox, registry)  # the first adapter may have made the model
    return told


def _sent(home: Home, told: int, problems: list[str]) -> Sent:
    sizes = [outbox.size() for outbox in home.outboxes()]
    aside = sum(size.aside for size in sizes)
    return Sent(told, sum(size.entries for size in sizes), aside, "; ".join(dict.fromkeys(problems)))


def pull(home: Home, settings: RolloutSettings, tell: Tell, *, dry_run: bool = False, again: bool = False) -> bool:
    """Bring the device to what the registry says; False where its guard refused it. ``tell`` gets a line for each step.

    ``again`` tries a version, too, that this device refused or left before. Raises InputError and TrackingError: then what is
    in use is as it was.
    """
    device, registry = home.device, Registry(settings)
    if device.user in settings.device.split("-"):
        raise InputError(
            f"the device is called {settings.device!r}, which names its user. Name nobody: `device` in rollout.json."
        )
    if not dry_run:
        _told(push(home, settings, registry), tell)
    from jetson_agent.rollout_base import follow_base

    with home.changing():
        for leftover in home.own.glob("edgealign-pull-*"):  # of a process that was killed
            _remove(leftover)
        fleet = Pull(home, registry, settings, tell, dry_run)
        good = follow_base(fleet, again) and fleet.user(again)
    if not dry_run:
        _told(push(home, settings, registry), tell)
    return good


class Pull:
    """One pull of one device; ``device`` and ``shelf`` are as they are in use, also after the base has changed."""

    def __init__(self, home: Home, registry: Registry, settings: RolloutSettings, tell: Tell, dry_run: bool) -> None:
        self.home, self.registry, self.settings, self.tell, self.dry_run = home, registry, settings, tell, dry_run
        self.coming = ""  # hash of the base that the registry wants here, once the canaries passed it

    @property
    def device(self) -> Device:
        return self.home.device

    @property
    def shelf(self) -> Shelf:
        return self.home.shelf

    def user(self, again: bool) -> bool:
        """Follow the alias of the user's model; False where the version was refused."""
        name = model_name(self.settings.experiment, self.device.cohort, self.device.user)
        model = self.registry.model(name)
        if model is None:
            raise InputError(
                f"{self.settings.server}: no registered model {name}. `dvc repro` in the project registers it, `edgealign "
                f"adapters promote {self.device.cohort}/{self.device.user}` gives it the alias."
            )
        try:
            left = self._go_back(model)
            if left and self.dry_run:
                return True
            return self._follow(model, self.target(model), again)
        finally:
            current = self.shelf.current()
            self.say_state(model, current.sha256 if current else None)

    def _go_back(self, model: Model) -> bool:
        """Leave every version that was halted or taken out of use meanwhile; whether there was any."""
        found = False
        for version in model.versions.values():
            why = out_of_use(version)
            if not why or not version.sha256 or not self.shelf.holds(version.sha256):
                continue
            found = True
            if self.dry_run:
                self.tell(f"would leave version {version.version} ({why})")
                continue
            now = self.shelf.withdraw(version.sha256, why, {"left": version.named})
            self.tell(f"left version {version.version} ({why}); in use: {f'{now.number}' if now else 'the base alone'}")
        return found

    def target(self, model: Model) -> Found:
        """The version that this device is to have: the canary alias's where it is one of its canaries, else the alias's."""
        trial = model.versions.get(model.aliases.get(self.settings.canary_alias, ""))
        if trial is not None and not halted(trial.tags):
            share = share_of(trial.tags, self.settings.share)
            if self.settings.device in first({*devices_of(model.tags), self.settings.device}, trial.key, share):
                return trial
        found = model.versions.get(model.aliases.get(self.settings.alias, ""))
        if found is None:
            there = ", ".join(f"{alias} (version {number})" for alias, number in sorted(model.aliases.items()))
            raise InputError(
                f"{model.name}: bears no alias {self.settings.alias!r}; there is: {there or 'none'}. `edgealign adapters "
                "promote` makes a champion; --alias follows another alias."
            )
        return found

    def _follow(self, model: Model, version: Found, again: bool) -> bool:
        current = self.shelf.current()
        if current is not None and current.sha256 == version.sha256:
            return self._look_again(version, current.folder)
        if self.coming and version.tags.get("base_sha256") == self.coming:
            self.tell(f"version {version.version} waits for its base")
            return True
        decision = self.may_try(model, version, self.shelf.history(), again)
        if decision is None:
            return True
        in_use = f"version {current.number} of the shelf" if current else "the base alone"
        if self.dry_run:
            self.tell(
                f"would check and judge version {version.version} ({version.sha256[:12]}, {decision.why}); in use: {in_use}"
            )
            return True
        with tempfile.TemporaryDirectory(prefix="edgealign-pull-", dir=self.home.own) as folder:
            return self._try(version, self.registry.fetch(version, Path(folder)), current.folder if current else None)

    def _look_again(self, version: Found, used: Path) -> bool:
        """Judge what is in use once more where the user has corrected more since, and leave it where it is worse now."""
        from jetson_agent.judge import judge, verdict
        from jetson_agent.update import LEAST_JUDGING, split

        last = _last(self.shelf.history(), version.model)
        judged = last.figures.get("judged", {}).get("own", 0) if last else 0
        own = len(split(self.home.replay.items())[1]) if last and not self.dry_run else 0
        own = own if own >= LEAST_JUDGING else 0  # as ``judge`` counts: else fewer would be judged with every pull
        if last is None or last.figures["pulled"] != version.named or own <= judged:
            self.tell(f"version {version.version} is in use: nothing to do")
            return True
        before = self.shelf.before()
        figures = judge(self.home, self.device, before.folder if before else None, used, self.device.base)
        said, why = verdict(figures, self.settings.tolerance, self.settings.guard_tolerance)
        figures |= {"pulled": version.named, "verdict": said}
        if said == FAILED:
            self.shelf.withdraw(version.sha256, why, figures)
        else:
            self.shelf.note("judged", why, figures)
        self.tell(f"version {version.version} {'left' if said == FAILED else 'stays'}, judged again: {why}")
        return said != FAILED

    def may_try(self, model: Model, version: Found, events: list[Event], again: bool) -> Decision | None:
        """Why this device may try a version now; None where it may not, which was told.

        Raises InputError where nobody may: it learned from a person who was erased.
        """
        what = f"{'base ' if model.name.endswith('.base') else ''}version {version.version}"
        before = _last(events, model.name)
        if before is not None and before.figures["pulled"]["sha256"] == version.sha256 and not again:
            left = "what is in use came after it" if before.what in ("taken", "judged") else before.why
            self.tell(f"{what} was {before.what} on {iso(before.when)} ({left}): --again tries it once more")
            return None
        share, known = share_of(version.tags, self.settings.share), devices_of(model.tags)
        decision = decide(self.settings.device, version.key, version.tags, known, share, self.settings.enough)
        if decision.what != "take":
            self.tell(f"{what} {'waits' if decision.what == 'wait' else 'is halted'}: {decision.why}")
            return None
        if version.tags.get(RETRAIN):
            raise InputError(f"{what} learned from a person who was erased since ({version.tags[RETRAIN]}): not taken")
        return decision

    def _try(self, version: Found, folder: Path, used: Path | None) -> bool:
        from jetson_agent.judge import check, judge, verdict

        device = self.device
        try:
            check(folder, version.sha256, device.base, device.cohort, device.user)
        except InputError as error:
            raise InputError(f"{version.model}, version {version.version}: {error}") from None
        start = time.perf_counter()
        figures = judge(self.home, device, used, folder, device.base)
        said, why = verdict(figures, self.settings.tolerance, self.settings.guard_tolerance)
        pulled = version.named
        figures |= {"pulled": pulled, "verdict": said, "seconds": round(time.perf_counter() - start, 2)}
        if said == FAILED:
            self.shelf.refuse(why, figures)
        else:
            self.shelf.take(folder, why, figures)
        self.tell(f"version {version.version} {'refused' if said == FAILED else 'taken'}: {why}")
        return said != FAILED

    def say_state(self, model: Model, digest: str | None) -> None:
        """Which weights this device has in use, as a tag of the model: the others learn of this device by it."""
        if self.dry_run:
            return
        known = next((item.version for item in model.versions.values() if digest and item.sha256 == digest), None)
        told: dict[str, Any] = {"version": known, "sha256": digest, "when": iso(time.time())}
        try:
            self.registry.set_model_tag(model.name, DEVICE + self.settings.device, json.dumps(told))
        except TrackingError as error:  # what is in use is in use all the same
            self.tell(f"the registry does not know yet what is in use here: {error}")


def _check_forgotten(outbox: Outbox, registry: Registry) -> None:
    """Raises InputError where the registry had the user's model and has it no more: the person may have been erased."""
    cohort, user = outbox.folder.parts[-3:-1]
    name, seen = model_name(registry.settings.experiment, cohort, user), outbox.folder / "registered"
    if registry.model(name) is not None:
        seen.touch()
    elif seen.exists():
        raise InputError(
            f"{name} was registered and is not any more, as when a person was erased: nothing of {cohort}/{user} is told. "
            f"`edgealign-agent forget {cohort}/{user}` erases the rest here; to register it anew, delete {seen}."
        )


def out_of_use(version: Found) -> str:
    """Why a version is to be left by whoever has it; empty where it is not."""
    why = halted(version.tags)
    return f"halted: {why}" if why else version.tags.get(WITHDRAWN, "")


def _last(events: list[Event], model: str) -> Event | None:
    """The newest event of a model's version; None where that version was left for its halt: it may come again."""
    for event in reversed(events):
        if event.figures.get("left", {}).get("model") == model:
            return None
        if event.figures.get("pulled", {}).get("model") == model:
            return event
    return None


def _told(sent: Sent, tell: Tell) -> None:
    if sent.told or sent.problem:
        tell(
            f"told the registry {sent.told} thing(s), {sent.waiting} wait{f': {sent.problem}' if sent.problem else ''}"
        )


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
