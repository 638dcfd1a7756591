"""One base in memory, several people's sparse changes: to switch is to rewrite the weights in which two of them differ.

Each change is merged when it is added: the weights that it touches are kept twice, as the base has them and as the person
has them. A switch copies numbers and adds none, so nothing drifts: after any number of switches every weight has the very bits
that a fresh load would give it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.alignment import sparse
from stages.alignment.bridgeformer import BridgeFormer
from stages.errors import InputError


@dataclass(frozen=True)
class _Change:
    """Of one layer: n flat indices, and what stands there in the base and for the person."""

    indices: Tensor  # (n,) int64
    base: Tensor  # (n,)
    own: Tensor  # (n,)


class Switchboard:
    """A base adapter that speaks for one of several people at a time, or for nobody (None: the base alone)."""

    def __init__(self, bridge: BridgeFormer) -> None:
        """``bridge``: a base adapter; it is changed in place from now on, by ``use`` alone."""
        self.bridge = bridge
        self.current: str | None = None
        self._layers = {name: weight.detach().view(-1) for name, weight in sparse.linear_weights(bridge).items()}
        self._changes: dict[str, dict[str, _Change]] = {}
        self._shifts: dict[str | None, Tensor] = {None: bridge.frame_shift.clone()}

    def add(self, user: str, tensors: Mapping[str, np.ndarray]) -> None:
        """Take in a sparse change as ``adapter.read_tensors`` gives it; a user's earlier one is replaced.

        Raises InputError where it is no sparse change of this base; everything stays as it was then.
        """
        changes, shift = {}, self._shifts[None]
        for name, value in tensors.items():
            layer, _, part = name.rpartition(".")
            if name == "frame_shift":
                shift = torch.from_numpy(value.astype(np.float32))
            elif part == "gaps" and layer in self._layers and f"{layer}.values" in tensors:
                indices, values = sparse.decode(value, tensors[f"{layer}.values"])
                if len(indices) and int(indices[-1]) >= len(self._layers[layer]):
                    raise InputError(
                        f"{user}, {layer}: index {int(indices[-1])} lies outside the layer's "
                        f"{len(self._layers[layer])} weights: the adapter was made "
                        "for another base. Run `dvc repro` to train it on this one."
                    )
                changes[layer] = (indices, values)
            elif part != "values":
                raise InputError(
                    f"{user}: {name} is no part of a sparse change of this base. Only adapters of "
                    "personalize.method shira can be switched; load others with adapter.load_personal."
                )
        active = self.current
        self.use(None)  # what a change is added to is the base, whoever is speaking
        merged = {}
        for layer, (indices, values) in changes.items():
            base = self._layers[layer][indices]
            merged[layer] = _Change(indices, base, base + values)
        self._changes[user], self._shifts[user] = merged, shift
        self.use(active)

    def use(self, user: str | None) -> None:
        """Speak for ``user`` from now on, None for the base alone. Raises InputError for somebody who was never added."""
        if user is not None and user not in self._changes:
            raise InputError(f"{user}: not added. There are: {', '.join(sorted(self._changes)) or 'none'}.")
        for layer, change in self._changes.get(self.current or "", {}).items():
            self._layers[layer].index_copy_(0, change.indices, change.base)
        for layer, change in self._changes.get(user or "", {}).items():
            self._layers[layer].index_copy_(0, change.indices, change.own)
        self.bridge.frame_shift.copy_(self._shifts[user])
        self.current = user
