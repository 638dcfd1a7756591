"""``adapter.json``, what an adapter says of itself: read without torch, for those who only ask."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from stages.errors import InputError

FORMAT = 1


@dataclass
class AdapterRecord:
    """What ``adapter.json`` says of an adapter."""

    kind: str  # "base" or "personal"
    method: str  # "embedlink" for a base; "shira", "lora", "full" or "blocks" for a personal adapter
    bridge: dict[str, Any]  # BridgeFormerConfig
    encoder: str  # name and weight hash
    llm: str  # name and weight hash
    vocabulary: list[int]  # token ids of the LLM
    base_sha256: str | None = None  # of the base's adapter.safetensors
    weights_sha256: str = ""  # of this adapter.safetensors; set when saved
    cohort: str | None = None
    user: str | None = None
    train_utterances: list[str] = field(default_factory=list)
    held_out_utterances: list[str] = field(default_factory=list)
    data_md5: str | None = None  # DVC's md5 of data/
    git_commit: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    device: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT


def read_record(folder: Path) -> AdapterRecord:
    """The adapter's record. Raises InputError where it is missing or not readable; tolerates newer keys with a warning."""
    path = Path(folder) / "adapter.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no adapter there. Run `dvc repro` to train it.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}). Delete the folder and run `dvc repro`.") from error
    known = {item.name for item in fields(AdapterRecord)}
    newer = sorted(set(content) - known)
    if newer:
        warnings.warn(f"{path}: written by a newer edgealign; ignored: {', '.join(newer)}", stacklevel=2)
    try:
        return AdapterRecord(**{key: value for key, value in content.items() if key in known})
    except TypeError as error:
        raise InputError(f"{path}: lacks a field ({error}). Delete the folder and run `dvc repro`.") from error
