"""One base in memory, several people's sparse changes: to switch is to rewrite the weights in which two of them differ.

Each change is merged when it is added: the weights that it touches are kept twice, as the base has them and as the person
has them. A switch copies numbers and adds none, so nothing drifts: after any number of switches every weight has the very bits
that a fresh load would give it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from stages.alignment import sparse
from stages.alignment.adapter import apply_update
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
        active = self.current
        self.use(None)  # what a change is added to is the base, whoever is speaking
        before = {layer: weights.clone() for layer, weights in self._layers.items()}
        try:
            apply_update(self.bridge, dict(tensors), "shira")
            merged = {}
            for layer, weights in self._layers.items():
                if f"{layer}.gaps" in tensors:
                    indices, _ = sparse.decode(tensors[f"{layer}.gaps"], tensors[f"{layer}.values"])
                    merged[layer] = _Change(indices, before[layer][indices], weights[indices])
            self._changes[user], self._shifts[user] = merged, self.bridge.frame_shift.clone()
        finally:
            for layer, weights in self._layers.items():
                weights.copy_(before[layer])
            self.bridge.frame_shift.copy_(self._shifts[None])
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
