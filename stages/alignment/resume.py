"""A training that goes on where it was cut off: optimiser state as flat tensors, and a checkpoint file that is whole or absent.

Flat tensors because safetensors holds no pickles: a checkpoint that somebody put there can be wrong, but runs nothing.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.atomic import write_private

logger = logging.getLogger(__name__)

EVERY_S = 3.0
"""Seconds of work between two checkpoints: what a power cut costs at most, beside the step under way."""


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of each parameter as ``optimizer.INDEX.SLOT``."""
    return {
        f"optimizer.{index}.{name}": torch.as_tensor(value).clone()
        for index, slots in optimizer.state_dict()["state"].items()
        for name, value in slots.items()
    }


def schedule_position(optimizer: torch.optim.Optimizer, scheduler: Any) -> list[float]:
    """The steps done, the rate, and the momenta, which the one-cycle schedule moves as well."""
    group = optimizer.param_groups[0]
    return [scheduler.last_epoch, group["lr"], *group["betas"]]


def load_optimizer(
    optimizer: torch.optim.Optimizer, scheduler: Any, flat: Mapping[str, Tensor], position: list[float]
) -> None:
    """Go on from ``optimizer_tensors`` and ``schedule_position`` of the same parameters."""
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            slots.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})
    done, rate, *betas = position
    scheduler.last_epoch = int(done)
    optimizer.param_groups[0].update(lr=rate, betas=tuple(betas))


class Checkpoint:
    """One file that a training writes now and then and reads when it begins again."""

    def __init__(self, path: Path, key: str, every_s: float | None = None) -> None:
        """``key`` says what is trained on what: a checkpoint of anything else is not read. ``every_s``: EVERY_S."""
        self.path, self.key, self._every_s = path, key, EVERY_S if every_s is None else every_s
        self._written = time.monotonic()

    def due(self) -> bool:
        """Whether ``every_s`` have passed since the last one was written, or since the training began."""
        return time.monotonic() - self._written >= self._every_s

    def save(self, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
        """Write it. A disk that is full costs the checkpoint, not the training."""
        from safetensors.torch import save

        try:
            write_private(
                self.path,
                save(
                    {name: value.contiguous() for name, value in tensors.items()},
                    {"key": self.key, "told": json.dumps(told)},
                ),
            )
        except OSError as error:
            logger.warning("%s: no checkpoint could be written (%s); the training goes on", self.path, error)
        self._written = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was saved under this key; None where there is nothing, or something else."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "pt") as file:
                told = file.metadata() or {}
                if told.get("key") != self.key:
                    return None
                # a copy: the file is replaced while the tensors are in use
                return {name: file.get_tensor(name).clone() for name in file.keys()}, json.loads(told["told"])  # noqa: SIM118 - no mapping
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            logger.warning("%s: not readable (%s); the training begins anew", self.path, error)
            return None

    def clear(self) -> None:
        """Delete it: what it was for is done."""
        self.path.unlink(missing_ok=True)
