"""Utterances to learn from: features joined with accepted labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from stages.alignment.trainer import Example
from stages.alignment.vocabulary import Vocabulary
from stages.text import UNKNOWN


@dataclass(frozen=True)
class LabelledUtterance:
    """Frames and text of one utterance; plain data that may travel to any node."""

    utterance: str
    user: str
    cohort: str
    text: str
    source: str  # "human" or "pseudo"
    frames: np.ndarray  # (T, F) float16, 50 Hz
    cascade_text: str | None  # the first teacher's transcript: what a cascade would hand to the LLM
    duration_s: float = 0.0
    audio_sha256: str = ""  # of the FLAC bytes in the shard
    language: str = UNKNOWN  # told where the cascade's and the LLM's texts are compared with ``text``


def join(features: pa.Table, labels: pa.Table, use: str = "personal") -> list[LabelledUtterance]:
    """Every utterance that has both frames and an accepted label, sorted by name.

    ``use`` is "personal" or "base": whose consent covers the user's own adapter alone does not train the base.
    """
    accepted = {
        row["utterance"]: row
        for row in labels.to_pylist()
        if row["accepted"] and row["text"] and (use == "personal" or row["scope"] == "all")
    }
    joined = []
    for row in features.to_pylist():
        label = accepted.get(row["utterance"])
        if label is None:
            continue
        frames = np.frombuffer(row["frames"], dtype="<f2").reshape(row["n_frames"], row["width"])
        teachers = label["teachers"] or []
        joined.append(
            LabelledUtterance(
                row["utterance"],
                row["user"],
                row["cohort"],
                label["text"],
                label["source"],
                frames,
                teachers[0]["text"] if teachers else None,
                row.get("duration_s") or 0.0,
                row.get("audio_sha256") or "",
            )
        )
    return sorted(joined, key=lambda item: (item.cohort, item.utterance))


def by_user(utterances: Iterable[LabelledUtterance]) -> dict[str, list[LabelledUtterance]]:
    """The utterances of each user, users sorted by name."""
    groups: dict[str, list[LabelledUtterance]] = {}
    for item in utterances:
        groups.setdefault(item.user, []).append(item)
    return dict(sorted(groups.items()))


def to_examples(
    utterances: Sequence[LabelledUtterance], vocabulary: Vocabulary, rows_of: Callable[[str], Any]
) -> list[Example]:
    """Training examples; ``rows_of`` gives a text's (N,) row indices in ``vocabulary``."""
    if not len(vocabulary):
        raise ValueError("an empty vocabulary cannot spell any text")
    return [
        Example(item.utterance, torch.from_numpy(item.frames.astype(np.float32)), rows_of(item.text), item.text)
        for item in utterances
    ]
