"""What a base training keeps after each epoch, so that one that was stopped goes on from there."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.atomic import atomic_path

Curve = dict[str, list[list[Any]]]
"""loss: [epoch, loss]; dev_wer: [epoch, seconds of training, WER or None where nothing was judged]."""

log = logging.getLogger("edgealign")


@dataclass
class Best:
    """The best epoch so far."""

    wer: float | None = None
    epoch: int = 0
    state: dict[str, np.ndarray] | None = None


def save_checkpoint(path: Path, state: dict[str, np.ndarray], curve: Curve, best: Best) -> None:
    """Keep the state after an epoch, the curves so far and the best epoch's weights, whole or not at all."""
    from safetensors.numpy import save_file

    tensors = {f"state.{name}": value for name, value in state.items()}
    if best.epoch != len(curve["loss"]) and best.state is not None:
        tensors |= {f"best.{name}": value for name, value in best.state.items() if name.startswith("bridge.")}
    note = json.dumps({"curve": curve, "wer": best.wer, "epoch": best.epoch})
    with atomic_path(path) as temporary:
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, temporary, {"note": note})


def resume(path: Path, curve: Curve, best: Best) -> dict[str, np.ndarray] | None:
    """The last checkpoint's state; fills ``curve`` and ``best``. None where there is none that can be read."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as file:
            note = json.loads(file.metadata()["note"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping: keys() is its API)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        log.warning("base: %s cannot be read (%s): starting over", path, error)
        return None
    state = {name[6:]: value for name, value in tensors.items() if name.startswith("state.")}
    kept = {name[5:]: value for name, value in tensors.items() if name.startswith("best.")}
    curve.update(note["curve"])
    best.wer, best.epoch, best.state = note["wer"], note["epoch"], kept or state
    log.info("base: going on after epoch %d", len(curve["loss"]))
    return state
