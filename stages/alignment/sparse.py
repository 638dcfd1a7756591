"""Sparse updates: which weights change, and a compact form of the change for a device.

The compact form of a layer is its sorted flat indices as gaps (uint16) and its values (float16): 4 bytes a weight, a third
of what PEFT's SHiRA file takes. A gap too long for 16 bits is bridged by a value of zero, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

MAX_GAP = 65_535
FLOAT16_MAX = 65_504.0


def linear_weights(module: nn.Module) -> dict[str, Tensor]:
    """Weights of every matrix-shaped ``nn.Linear`` in ``module`` by layer name: what a sparse or low-rank update may change.

    A layer with one output (the blank score) is left out: neither PEFT's SHiRA nor a low rank makes sense there.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    return {name: layer.weight for name, layer in layers.items() if min(layer.weight.shape) > 1}


def weight_scores(
    module: nn.Module, mask: str, losses: Callable[[], Iterable[Tensor]] | None, seed: int
) -> dict[str, Tensor]:
    """How much each linear weight deserves to change; the largest scores are chosen.

    ``gradient``: |dL/dw| on the user's own utterances. ``magnitude``: |w|. ``snip``: |w dL/dw| (Lee et al., ICLR 2019).
    ``random``: uniform, the control. ``losses``: pieces that add up to the loss, for gradient and snip.
    """
    weights = linear_weights(module)
    if mask == "magnitude":
        return {name: weight.detach().abs() for name, weight in weights.items()}
    if mask == "random":
        generator = torch.Generator().manual_seed(seed)
        return {name: torch.rand(weight.shape, generator=generator) for name, weight in weights.items()}
    if mask not in ("gradient", "snip"):
        raise ValueError(f"mask {mask!r} is not known: gradient, magnitude, snip or random")
    if losses is None:
        raise ValueError(f"mask {mask!r} needs the user's loss")
    gradients: tuple[Tensor, ...] = ()
    for loss in losses():
        found = torch.autograd.grad(loss, list(weights.values()))
        gradients = tuple(a + b for a, b in zip(gradients, found, strict=True)) if gradients else found
    pairs = zip(weights.items(), gradients, strict=True)
    if mask == "gradient":
        return {name: gradient.abs() for (name, _), gradient in pairs}
    return {name: (weight * gradient).abs().detach() for (name, weight), gradient in pairs}


def choose_weights(scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """The ``count`` largest scores over all layers together -> sorted flat indices of each layer that has any."""
    flat = torch.cat([score.flatten() for score in scores.values()])
    chosen = torch.topk(flat, min(count, len(flat))).indices.sort().values
    found, start = {}, 0
    for name, score in scores.items():
        inside = chosen[(chosen >= start) & (chosen < start + score.numel())] - start
        if len(inside):
            found[name] = inside
        start += score.numel()
    return found


def encode(indices: Tensor, values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Sorted flat indices (n,) and values (n,) -> gaps uint16 (m,) and values float16 (m,), m >= n."""
    gaps: list[int] = []
    kept: list[float] = []
    position = -1
    for index, value in zip(indices.tolist(), values.tolist(), strict=True):
        gap = index - position
        if gap <= 0:
            raise ValueError(f"indices must be sorted and distinct, got {index} after {position}")
        while gap > MAX_GAP:
            gaps.append(MAX_GAP)
            kept.append(0.0)
            gap -= MAX_GAP
        gaps.append(gap)
        kept.append(min(max(value, -FLOAT16_MAX), FLOAT16_MAX))
        position = index
    return np.asarray(gaps, dtype=np.uint16), np.asarray(kept, dtype=np.float16)


def decode(gaps: np.ndarray, values: np.ndarray) -> tuple[Tensor, Tensor]:
    """The inverse of ``encode``: flat indices (m,) int64 and values (m,) float32, fillers included with value 0."""
    indices = torch.from_numpy(np.cumsum(gaps.astype(np.int64)) - 1)
    return indices, torch.from_numpy(values.astype(np.float32))
