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
    """``wer`` of the base, before and after, on the user's held-out corrections and on other people; ``judged`` by how many.

    ``used`` and ``tried`` are adapters' folders, None: the base alone, ``device.base`` or ``tried_base``. ``words``: how many
    the utterances hold that judge.
    """
    _, own = split(home.replay.items())
    _, general = home.general()
    sides: dict[str, Sequence[Any]] = {"own": own if len(own) >= LEAST_JUDGING else [], "general": general}

    def wers(base: Path, personal: Path | None) -> Wers:
        reader = Listener.load(base, device.llm, personal)
        return {
            side: word_errors([item.text for item in items], read_texts(reader, items)).wer if items else None
            for side, items in sides.items()
        }

    by_base = wers(device.base, None)
    before = by_base if used is None else wers(device.base, used)
    return {
        "wer": {"base": by_base, "before": before, "after": wers(tried_base, tried)},
        "judged": {side: len(items) for side, items in sides.items()},
        "words": {side: sum(len(item.text.split()) for item in items) for side, items in sides.items()},
    }


def verdict(figures: dict[str, Any], tolerance: float, guard_tolerance: float) -> tuple[str, str]:
    """(verdict, why): ``failed`` where the user's WER is more than ``tolerance`` above that before, or other people's is so
    and more than ``guard_tolerance`` above the base's, as in the rule of promotion.

    One word more that is wrong fails nothing: with a dozen words to judge by it would be chance.
    """
    wer, words = figures["wer"], figures["words"]
    told, worse = [], []
    for side, whose in (("own", "the user's"), ("general", "other people's")):
        before, after = wer["before"][side], wer["after"][side]
        if before is None:
            continue
        told.append(f"{whose} WER {before:.4f} → {after:.4f}")
        bar = before + max(tolerance, 1 / max(words[side], 1))
        if side == "general":
            bar = max(bar, wer["base"][side] + guard_tolerance)
        if after > bar + 1e-9:
            worse.append(f"{whose} WER may be {bar:.4f}")
    if not told:
        return UNJUDGED, "nothing on this device judges it"
    if worse:
        return FAILED, f"worse than what is in use ({', '.join(worse)}): {', '.join(told)}"
    return PASSED, ", ".join(told)
