"""What the figures need of one user: every utterance as it was read, one read-out over time, which weights changed.

Dimensions: T frames, S steps, V rows of the vocabulary, R rows that are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stages.alignment.metrics import word_errors
from stages.examples import LabelledUtterance
from stages.listener import Listener
from stages.schema import FRAME_RATE_HZ

ROWS_SHOWN = 14
"""Rows of a heat map: a reader can tell so many apart, and an evaluation stays small."""


def utterance_rows(
    held_out: Sequence[LabelledUtterance], by_base: Sequence[str], heard: Sequence[str]
) -> list[dict[str, Any]]:
    """One row for each held-out utterance: what was said, what base and personal adapter read, errors, length."""
    rows = []
    for item, base, personal in zip(held_out, by_base, heard, strict=True):
        before, after = (word_errors([item.text], [text], item.language) for text in (base, personal))
        rows.append(
            {
                "utterance": item.utterance,
                "reference": item.text,
                "base": base,
                "personal": personal,
                "words": after.words,
                "base_errors": before.errors,
                "personal_errors": after.errors,
                "duration_s": item.duration_s,
                "n_frames": len(item.frames),
                "audio_sha256": item.audio_sha256,
            }
        )
    return rows


def posteriors_over_time(listener: Listener, frames: np.ndarray, shown: int = ROWS_SHOWN) -> dict[str, Any]:
    """Posteriors of the rows that matter in one utterance's (T, F) frames.

    ``{"step_s": float, "tokens": R names, "values": R lists of S posteriors}``. The blank comes first, named "", then rows in
    the order in which they are read, then those that came closest; ``shown`` rows at most.
    """
    posteriors = listener.posteriors(frames)  # (S, 1 + V)
    path = posteriors.argmax(axis=1)
    order = list(dict.fromkeys([0, *(int(column) for column in path)]))
    order += [int(column) for column in np.argsort(-posteriors.max(axis=0)) if int(column) not in order]
    chosen = order[:shown]
    vocabulary, tokenizer = listener.vocabulary, listener.tokenizer
    names = ["" if column == 0 else tokenizer.decode([vocabulary.ids[column - 1]]) for column in chosen]
    return {
        "step_s": listener.bridge.config.stack / FRAME_RATE_HZ,
        "tokens": names,
        "values": [[round(float(value), 3) for value in posteriors[:, column]] for column in chosen],
    }


def changed_weights(
    base: Mapping[str, np.ndarray], adapter: Mapping[str, np.ndarray], method: str
) -> list[dict[str, Any]]:
    """For each linear layer how many of its weights a personal adapter changes: ``{"layer", "changed", "weights"}``, in the
    order in which speech passes through. A low-rank factor changes every weight of its layer.
    """
    layers = {
        name.removesuffix(".weight"): value.size
        for name, value in base.items()
        if name.endswith(".weight") and value.ndim == 2 and min(value.shape) > 1
    }
    found = []
    for layer in sorted(layers, key=_place):
        values = adapter.get(f"{layer}.values" if method == "shira" else f"{layer}.weight")
        changed = 0 if values is None else int(np.count_nonzero(values))  # fillers of a sparse adapter are zero
        if method == "lora" and f"{layer}.down" in adapter:
            changed = layers[layer]
        found.append({"layer": layer, "changed": changed, "weights": int(layers[layer])})
    return found


_PARTS = ("query", "key", "value", "output", "expand", "contract")


def _place(layer: str) -> tuple[int, str, int]:
    """Frames enter, pass the blocks one after another, and leave as vectors."""
    last = layer.rpartition(".")[2]
    block = layer.split(".")[1] if layer.startswith("blocks.") else ""
    return (
        0 if layer == "enter" else 2 if layer == "leave" else 1,
        block.zfill(4),
        _PARTS.index(last) if last in _PARTS else len(_PARTS),
    )
