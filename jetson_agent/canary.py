"""Who takes a new version first, and who waits: decided by every device for itself, from what the registry's tags say.

No coordinator: a device's place is a hash of its name and the version's, so that each version tries itself on others. Those
below the share go first; the rest follow once enough of the first have judged it ``passed`` and nobody ``failed``. One
``failed`` halts the version for all. Nobody waits for a device that is gone or has nothing to judge by. Knows nothing of
MLflow: tags in, a decision out.
"""

from __future__ import annotations

import datetime
import json
import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from stages.atomic import sha256_bytes

GUARD = "guard."
"""Prefix of a version's tags: what a device's guard said of it, as JSON; see ``verdict_tag``."""
DEVICE = "device."
"""Prefix of a registered model's tags: which version a device has in use, as JSON."""
HALTED = "rollout.halted"
"""Tag of a version: nobody takes it any more, and who has it goes back. Its value says why."""
SHARE = "rollout.share"
"""Tag of a version: the share of the devices that take it first."""

PASSED, FAILED, UNJUDGED = "passed", "failed", "unjudged"

GONE_AFTER_S = 30 * 86400
"""A device that has not pulled for so long is gone; one that was flashed anew comes back under another name."""


@dataclass(frozen=True)
class Decision:
    """What a device does about a version: "take", "wait" or "halted", and why."""

    what: str
    why: str


def place(device: str, version: str) -> float:
    """Where a device stands in the order for a version, in [0, 1)."""
    return int(sha256_bytes(f"{device}\0{version}".encode())[:12], 16) / 16**12


def first(devices: Collection[str], version: str, share: float) -> set[str]:
    """The devices that take a version first: those below the share, at least the lowest one."""
    if not devices:
        return set()
    below = {device for device in devices if place(device, version) < share}
    return below or {min(devices, key=lambda device: place(device, version))}


def verdicts(tags: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """{device: verdict} of a version; what cannot be read counts as unjudged."""
    return {key.removeprefix(GUARD): _plain(value) for key, value in tags.items() if key.startswith(GUARD)}


def verdict_name(device: str) -> str:
    """The tag that holds a device's verdict."""
    return GUARD + device


def all_devices_of(tags: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """{device: what it has in use} of a registered model, also of devices that are gone: nobody takes their tags away."""
    return {key.removeprefix(DEVICE): _plain(value) for key, value in tags.items() if key.startswith(DEVICE)}


def devices_of(tags: Mapping[str, str], now: float | None = None) -> dict[str, dict[str, Any]]:
    """{device: what it has in use} of a registered model, without those that have been silent for GONE_AFTER_S at ``now``
    (seconds since 1970).

    Every pull says anew when it was. Who said no time counts, and who is ahead of ``now``: a clock that lost its battery
    would make all others go, and its device take whatever comes.
    """
    since = (time.time() if now is None else now) - GONE_AFTER_S
    return {device: told for device, told in all_devices_of(tags).items() if _seconds(told.get("when"), since) >= since}


def share_of(tags: Mapping[str, str], default: float) -> float:
    """A version's share; ``default`` where no tag says one, or one that is none."""
    try:
        share = float(tags[SHARE])
    except (KeyError, ValueError):
        return default
    return share if 0 < share <= 1 else default


def halted(tags: Mapping[str, str]) -> str:
    """Why a version is halted; empty where it is not."""
    if tags.get(HALTED):
        return tags[HALTED]
    failed = sorted(device for device, said in verdicts(tags).items() if said.get("verdict") == FAILED)
    return f"judged worse on {', '.join(failed)}" if failed else ""


def canaries(device: str, version: str, tags: Mapping[str, str], devices: Collection[str], share: float) -> set[str]:
    """The devices that take a version first, as ``device`` has it, with the version's tags as they are now.

    Others that could not judge the version do not count, so that the next in the order tries it where none is left below
    the share: one at a time, until one can judge or all have tried.
    """
    unable = {name for name, said in verdicts(tags).items() if said.get("verdict") not in (PASSED, FAILED)}
    return first({*devices} - unable | {device}, version, share)


def decide(
    device: str, version: str, tags: Mapping[str, str], devices: Collection[str], share: float, enough: float
) -> Decision:
    """Whether ``device`` takes a version (``version``: what names it among all) with these tags now.

    ``devices``: those that are known; ``share`` and ``enough``: as in RolloutSettings.
    """
    why = halted(tags)
    if why:
        return Decision("halted", why)
    before = canaries(device, version, tags, devices, share)
    if device in before:
        return Decision("take", f"{len(before)} of {len({*devices, device})} device(s) try it first, this is one")
    needed = max(1, math.ceil(enough * len(before)))
    passed = {name for name, said in verdicts(tags).items() if said.get("verdict") == PASSED}
    told = f"{len(passed)} device(s) passed it, {needed} needed"
    if len(passed) >= needed:
        return Decision("take", told)
    awaited = ", ".join(sorted(before - passed))
    return Decision("wait", f"{told}; awaited: {awaited} (`edgealign adapters rollout ... --share 1` waits for none)")


def verdict_tag(verdict: str, when: str, figures: Mapping[str, Any]) -> str:
    """A verdict as a tag's value."""
    return json.dumps({"verdict": verdict, "when": when, **figures})


def _seconds(when: Any, unknown: float) -> float:
    """A tag's ``when`` as seconds since 1970; ``unknown`` where it cannot be read. Without a zone it is UTC."""
    try:
        told = datetime.datetime.fromisoformat(when)
    except (TypeError, ValueError):
        return unknown
    return (told if told.tzinfo else told.replace(tzinfo=datetime.timezone.utc)).timestamp()


def _plain(value: str) -> dict[str, Any]:
    try:
        told = json.loads(value)
    except ValueError:
        told = None
    return told if isinstance(told, dict) else {"verdict": UNJUDGED}
