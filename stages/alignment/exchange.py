"""What workers of one training send each other: sparse, quantised changes of the weights after some local steps.

Sending the gradient of every step repeats what AdamW averages anyway, and a sparse gradient under AdamW is normalised as if
it were whole: at 1 % it does not converge in a short run (notes.md). Here each worker takes H steps of its own optimiser
(local SGD, Stich, ICLR 2019; DiLoCo, Douillard et al., 2023), then sends the largest entries of how its weights moved. What
it did not send is not lost but added to the next change (error feedback, Karimireddy et al., ICML 2019).

P parameters at density k and 8 bits cost P (1/8 + k) bytes every H steps, against 4 P a step for dense gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from stages.atomic import sha256_json
from stages.errors import InputError

LEVELS = 127
"""Of a value's size, in the 8 bits that it gets."""
FINGERPRINT_BYTES = 8


@dataclass(frozen=True)
class ExchangeConfig:
    """How often and how much is sent."""

    local_steps: int = 8  # between two exchanges
    density: float = 0.1  # share of the weights that an update changes
    whole_below: int = 2048  # entries up to which a parameter is always sent whole: norms and biases


def pack(change: Mapping[str, Tensor], config: ExchangeConfig) -> bytes:
    """The largest entries of a change, over all parameters together: a bit for each weight, a byte for each chosen one.

    Values are rounded to 127 levels of each parameter's largest one. Order and shapes are known to both sides and not sent.
    """
    large = {name: value for name, value in change.items() if value.numel() > config.whole_below}
    sizes = torch.cat([value.abs().flatten() for value in large.values()]) if large else torch.zeros(1)
    count = max(1, round(config.density * len(sizes)))
    bar = float(torch.topk(sizes, min(count, len(sizes))).values[-1])
    bits, scales, levels = [], [], []
    for name, value in change.items():
        flat = value.flatten().numpy()
        chosen = (np.abs(flat) >= (bar if name in large else 0.0)) & (flat != 0.0)
        scale = np.float32(np.abs(flat[chosen]).max(initial=0.0) / LEVELS)
        chosen &= bool(scale > 0.0)  # what is smaller than a float can say stays with its worker
        bits.append(chosen)
        scales.append(scale)
        levels.append(np.rint(flat[chosen] / scale).astype(np.int8))
    if not any(len(one) for one in levels):
        return _fingerprint(change)
    parts = (np.packbits(np.concatenate(bits)), np.array(scales, dtype="<f4"), np.concatenate(levels))
    return _fingerprint(change) + b"".join(part.tobytes() for part in parts)


def unpack(content: bytes, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The change that ``pack`` wrote, dense, for parameters ``like`` those. Raises InputError where it is not for them."""
    if not content.startswith(_fingerprint(like)):
        raise InputError(
            f"an update of {len(content)} bytes is not of this training: it is of another model, or damaged"
        )
    total = sum(value.numel() for value in like.values())
    body = np.frombuffer(content, dtype=np.uint8)[FINGERPRINT_BYTES:]
    if not len(body):
        return {name: torch.zeros(value.shape) for name, value in like.items()}
    head, scales_end = -(-total // 8), -(-total // 8) + 4 * len(like)
    bits = np.unpackbits(body[:head])[:total].astype(bool)
    if len(bits) < total or len(body) != scales_end + int(bits.sum()):
        raise InputError(f"an update of {len(content)} bytes is cut off, or damaged")
    scales = np.frombuffer(body[head:scales_end].tobytes(), dtype="<f4")
    dense = np.zeros(total, dtype=np.float32)
    dense[bits] = body[scales_end:].view(np.int8)
    found, start = {}, 0
    for scale, (name, value) in zip(scales, like.items(), strict=True):
        part = dense[start : start + value.numel()] * scale
        found[name] = torch.from_numpy(part).view(value.shape)
        start += value.numel()
    return found


def _fingerprint(parameters: Mapping[str, Tensor]) -> bytes:
    """What an update is for: names, shapes and their order."""
    told = sha256_json([[name, list(value.shape)] for name, value in parameters.items()])
    return bytes.fromhex(told)[:FINGERPRINT_BYTES]


class Agreed:
    """The weights that all workers agree on: the same bits everywhere after the same rounds."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = {name: value.detach().clone() for name, value in weights.items()}

    def receive(self, updates: Sequence[bytes], shares: Sequence[float] | None = None) -> None:
        """Add the mean of all workers' ``updates``, which must come in the same order everywhere.

        ``shares``: the weight of each, e.g. by its steps where a slow worker took fewer; all the same without. Raises
        InputError where one of them is not readable: nothing is changed then.
        """
        weights = [1.0 / len(updates)] * len(updates) if shares is None else [share / sum(shares) for share in shares]
        changes = [unpack(content, self.weights) for content in updates]
        for change, weight in zip(changes, weights, strict=True):
            for name, value in change.items():
                self.weights[name] += weight * value


class Participant:
    """One worker's side of the exchange: what all agree on, and what this one has not sent yet."""

    def __init__(self, module: nn.Module, config: ExchangeConfig) -> None:
        """``module`` must hold the same weights on every worker."""
        self._parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self._config = config
        self._agreed = Agreed(self._parameters)
        self._unsent = {name: torch.zeros_like(value) for name, value in self._agreed.weights.items()}

    def send(self) -> bytes:
        """What this worker's steps since the last exchange changed; what does not go along is kept for the next one."""
        agreed = self._agreed.weights
        change = {name: value.detach() - agreed[name] + self._unsent[name] for name, value in self._parameters.items()}
        content = pack(change, self._config)
        sent = unpack(content, agreed)
        self._unsent = {name: value - sent[name] for name, value in change.items()}
        return content

    def receive(self, updates: Sequence[bytes], shares: Sequence[float] | None = None) -> None:
        """Go on from what all agree on with these updates, see ``Agreed.receive``; the module's own steps were sent."""
        self._agreed.receive(updates, shares)
        with torch.no_grad():
            for name, value in self._parameters.items():
                value.copy_(self._agreed.weights[name])
