"""Keys of what a stage's results follow from: what trains, and what tells later whether that is still there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.atomic import sha256_json

PERSONALIZE_VERSION = 2  # raise when the same inputs would train another adapter


def personalize_key(
    base_sha256: str,
    settings: Mapping[str, Any],
    embedding_weight: float,
    learned: Sequence[tuple[str, str, str]],
    held_out: Sequence[str],
) -> str:
    """Of one personal adapter. ``learned`` are (utterance, text, SHA-256 of its frames) in the order in which they train."""
    told = [list(item) for item in learned]
    return sha256_json([PERSONALIZE_VERSION, base_sha256, dict(settings), embedding_weight, told, list(held_out)])
