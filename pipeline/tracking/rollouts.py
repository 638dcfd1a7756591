"""The head's side of a roll-out: what each device made of a version, its canary share, and the stop."""

from __future__ import annotations

import datetime
from typing import Any

from jetson_agent.canary import (
    FAILED,
    HALTED,
    SHARE,
    all_devices_of,
    canaries,
    devices_of,
    halted,
    share_of,
    verdict_name,
    verdicts,
)
from pipeline.tracking.reference import Reference, version_at
from pipeline.tracking.registry import Registry, Version
from pipeline.tracking.tracker import Tracker
from stages.errors import InputError
from stages.registered import CHAMPION


def rollout(
    tracker: Tracker, text: str, *, share: float | None = None, halt: str = "", resume: bool = False
) -> dict[str, Any]:
    """How the roll-out of an adapter stands, after what is asked for was set.

    ``text`` as in Reference, without @ the champion. ``share`` sets the part of the devices that take the version first,
    ``halt`` stops it for a reason, ``resume`` takes the stop and every failed verdict away. Raises InputError, TrackingError.
    """
    if share is not None and not 0 < share <= 1:
        raise InputError(f"adapters rollout: got --share {share:g}, needed more than 0 and at most 1")
    if halt and resume:
        raise InputError("adapters rollout: got --halt and --resume, needed one of them")
    reference = Reference.parse(text if "@" in text else f"{text}@{CHAMPION}")
    registry = Registry(tracker)
    version = version_at(reference, registry.versions(reference.cohort, reference.user))
    if share is not None:
        registry.set_tags(version.name, version.version, {SHARE: f"{share:g}"})
    if halt:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        registry.set_tags(version.name, version.version, {HALTED: f"{now}: {halt}"})
    if resume:
        _resume(registry, version)
    return _state(reference, version, registry.tags(version.name, version.version), registry.model_tags(version.name))


def _resume(registry: Registry, version: Version) -> None:
    registry.drop_tag(version.name, version.version, HALTED)
    for device, said in verdicts(version.tags).items():
        if said.get("verdict") == FAILED:
            registry.drop_tag(version.name, version.version, verdict_name(device))


def _state(reference: Reference, version: Version, tags: dict[str, str], model_tags: dict[str, str]) -> dict[str, Any]:
    judged, share, known = verdicts(tags), share_of(tags, 0.0), all_devices_of(model_tags)
    living, key = devices_of(model_tags), f"{version.name}@{version.version}"

    def goes_first(device: str) -> bool:
        return device in living and device in canaries(device, key, tags, living, share)

    return {
        "adapter": reference.name,
        "version": version.version,
        "aliases": list(version.aliases),
        "share": share or None,
        "halted": halted(tags) or None,
        "devices": [
            {
                "device": device,
                "in_use": known.get(device, {}).get("version"),
                "seen": known.get(device, {}).get("when"),
                "canary": goes_first(device) if share else None,
                "verdict": judged.get(device, {}).get("verdict"),
                "judged": judged.get(device, {}).get("when"),
                "wer": judged.get(device, {}).get("wer"),
            }
            for device in sorted({*known, *judged})
        ],
    }
