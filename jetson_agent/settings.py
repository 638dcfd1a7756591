"""How a device keeps learning: one frozen record, stored beside ``device.json`` where it differs from the defaults."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from stages.errors import SettingsError

METHODS = ("replay+average", "replay", "average", "ewc", "none")


@dataclass(frozen=True)
class LearnSettings:
    """What may be turned in ``learn.json``."""

    method: str = "replay+average"  # how other people's speech is kept understood; see jetson_agent/update.py
    items: int = 200  # utterances that the replay buffer keeps
    bytes: int = 64_000_000  # and their size on disk
    steps: int = 40
    batch_size: int = 8  # of the user's own utterances; replay adds as many general ones
    learning_rate: float = 0.003
    density: float = 0.01  # share of the base's weights that change
    tolerance: float = 0.01  # how far other people's WER may be above the base's
    ewc_weight: float = 1000.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SettingsError(f"method: {self.method!r} is not known. Methods: {', '.join(METHODS)}.")
        for name in ("items", "bytes", "steps", "batch_size", "learning_rate", "density"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name}: {getattr(self, name)}, needed more than 0")


def read_settings(path: Path) -> LearnSettings:
    """The settings in ``learn.json``, the defaults where there is none. Raises SettingsError."""
    if not path.is_file():
        return LearnSettings()
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SettingsError(f"{path}: not readable as JSON ({error}). Correct or delete it.") from error
    known = {item.name: item.type for item in fields(LearnSettings)}
    for name, value in told.items():
        kind = known.get(name)
        if kind is None:
            raise SettingsError(f"{path}: {name!r} is not known. Keys: {', '.join(sorted(known))}.")
        wanted: Any = {"str": str, "int": int, "float": (int, float)}[str(kind)]
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise SettingsError(f"{path}: {name} is {value!r}, needed {kind}")
    return LearnSettings(**told)
