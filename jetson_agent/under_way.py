"""The update that is under way, on disk: after a power cut the next one goes on where it was cut off, with the same utterances.

``update.json`` says what it learns from and judges by, and when it began; ``update.safetensors`` is its last checkpoint.
Both are private to the user, whole or absent, and gone when the update has been judged.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jetson_agent.replay import Remembered
from stages.alignment.resume import Checkpoint
from stages.atomic import sha256_json, write_private

UPDATE_VERSION = 1
"""Raise when the same utterances would train another change."""


@dataclass(frozen=True)
class UnderWay:
    """What an update learns from and judges by, and since when."""

    folder: Path
    items: list[Remembered]
    began: float  # seconds since 1970

    @classmethod
    def begin(cls, folder: Path, items: Sequence[Remembered]) -> UnderWay:
        """The update that was cut off, where it got as far as a checkpoint and all it began with is still remembered as it was;
        else one of ``items``.

        Raises OSError where the disk does not take it.
        """
        path = folder / "update.json"
        known = {item.utterance: item for item in items}
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            kept = [known[name] for name in told["utterances"]]
            if told["said"] == _said(kept) and (folder / "update.safetensors").is_file():
                return cls(folder, kept, float(told["began"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass  # none was under way, or what it learned from has changed
        update = cls(folder, list(items), time.time())
        told = {"began": update.began, "utterances": [item.utterance for item in items], "said": _said(items)}
        write_private(path, json.dumps(told).encode())
        return update

    def checkpoint(self, *what: Any) -> Checkpoint:
        """Where its training is kept; ``what`` else it depends on, as JSON can say it."""
        return Checkpoint(self.folder / "update.safetensors", sha256_json([UPDATE_VERSION, _said(self.items), *what]))

    def end(self) -> None:
        """It was judged, or cannot be done."""
        for name in ("update.json", "update.safetensors"):
            (self.folder / name).unlink(missing_ok=True)
        for leftover in self.folder.glob(".update.*.part"):  # of a process that was killed while it wrote
            leftover.unlink(missing_ok=True)


def _said(items: Sequence[Remembered]) -> str:
    return sha256_json([[item.utterance, item.text, item.source] for item in items])
