"""What an adapter from the registry comes to on this device, against what is in use: as both would really be heard here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jetson_agent.canary import FAILED, PASSED, UNJUDGED
from jetson_agent.home import Device, Home
from jetson_agent.update import LEAST_JUDGING, Wers, split
from stages.alignment.metrics import word_errors
from stages.errors import InputError
from stages.guard import read_texts
from stages.listener import Listener


def check(folder: Path, told_sha256: str, base: Path, cohort: str, user: str) -> None:
    """Raises InputError where a downloaded adapter is not the registered one, not this user's, or not for this base."""
    from stages.alignment.record import read_record
    from stages.atomic import sha256_file

    record, found = read_record(folder), sha256_file(folder / "adapter.safetensors")
    for said, whose in ((record.weights_sha256, "its adapter.json"), (told_sha256, "the registry")):
        if found != said:
            raise InputError(
                f"its weights have the hash {found[:12]}, {whose} says {said[:12] or 'none'}: they were changed after they "
                "were registered, or cut off. Nothing of it is used. Promote or roll back to another version, or train again."
            )
    if (record.kind, record.cohort, record.user) != ("personal", cohort, user):
        raise InputError(
            f"it is a {record.kind} adapter of {record.cohort}/{record.user}, this is the device of {cohort}/{user}. "
            "Nothing of it is used. Register the right one."
        )
    mine = read_record(base)
    if record.base_sha256 != mine.weights_sha256:
        raise InputError(
            f"it was made for the base {str(record.base_sha256)[:12]}, this device has {mine.weights_sha256[:12]}. Nothing of "
            "it is used. Give the base's registered model the alias that this device follows, or run `edgealign-agent setup` "
            "again from the project of that base."
        )
    for name in ("encoder", "llm"):
        if getattr(record, name) != getattr(mine, name):
            raise InputError(
                f"it was made for the {name} {getattr(record, name)}, this device has {getattr(mine, name)}."
            )


def judge(home: Home, device: Device, used: Path | None, tried: Path | None, tried_base: Path) -> dict[str, Any]:
    """``wer`` before and after, ``judged`` (how many utterances) on the user's held-out corrections and on other people.

    ``used`` and ``tried`` are adapters' folders, None: the base alone, ``device.base`` or ``tried_base``.
    """
    _, own = split(home.replay.items())
    own = own if len(own) >= LEAST_JUDGING else []
    _, general = home.general()
    before = _wers(Listener.load(device.base, device.llm, used), own, general)
    after = _wers(Listener.load(tried_base, device.llm, tried), own, general)
    return {"wer": {"before": before, "after": after}, "judged": {"own": len(own), "general": len(general)}}


def verdict(figures: dict[str, Any], tolerance: float) -> tuple[str, str]:
    """(verdict, why): ``failed`` where the user's or other people's WER is more than ``tolerance`` above that before."""
    before, after = figures["wer"]["before"], figures["wer"]["after"]
    told, worse = [], []
    for side, whose in (("own", "the user's"), ("general", "other people's")):
        if before[side] is not None:
            told.append(f"{whose} WER {before[side]:.4f} → {after[side]:.4f}")
            if after[side] > before[side] + tolerance + 1e-9:
                worse.append(whose)
    if not told:
        return UNJUDGED, "nothing on this device judges it"
    if worse:
        return FAILED, f"worse than what is in use by more than {tolerance:g}: {', '.join(told)}"
    return PASSED, ", ".join(told)


def _wers(reader: Listener, own: Sequence[Any], general: Sequence[Any]) -> Wers:
    def wer(items: Sequence[Any]) -> float | None:
        return word_errors([item.text for item in items], read_texts(reader, items)).wer if items else None

    return {"own": wer(own), "general": wer(general)}
