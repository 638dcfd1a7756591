"""What workers of one training send each other: sparse changes of the weights after some local steps, a bit or two an entry.

Sending the gradient of every step repeats what AdamW averages anyway, and a sparse gradient under AdamW is normalised as if
it were whole: at 1 % it does not converge in a short run (notes.md). Here each worker takes H steps of its own optimiser
(local SGD, Stich, ICLR 2019; DiLoCo, Douillard et al., 2023, without its outer momentum), then sends the largest entries of
how its weights moved. What it did not send is not lost but added to the next change (error feedback, Karimireddy et al., ICML
2019). The head makes one change of all that it gets, keeps what that one leaves out in the same way, and sends it back
(DoubleSqueeze, Tang et al., ICML 2019): a worker receives as little as it sends, however many take part.

P parameters at density k and b bits cost P (1 + k b) / 8 bytes each way every H steps, against 4 P a step for dense gradients.
``stages.alignment.packing`` says how an update is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.alignment.packing import Packing, pack, unpack


@dataclass(frozen=True)
class ExchangeConfig(Packing):
    """How often and how much is sent."""

    local_steps: int = 5  # between two exchanges


class Unsent:
    """Packs changes and keeps what does not go along for the next one."""

    def __init__(self, like: Mapping[str, Tensor], config: Packing) -> None:
        self._config = config
        self._left = {name: torch.zeros_like(value) for name, value in like.items()}

    def pack(self, change: Mapping[str, Tensor]) -> bytes:
        """The largest entries of ``change`` and of what was left before, together."""
        whole = {name: value + self._left[name] for name, value in change.items()}
        content = pack(whole, self._config)
        sent = unpack(content, whole)
        self._left = {name: value - sent[name] for name, value in whole.items()}
        return content


class Agreed:
    """The weights that all workers agree on: the same bits everywhere after the same updates."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = {name: value.detach().clone() for name, value in weights.items()}

    def receive(self, update: bytes) -> None:
        """Add what ``Head.merge`` made of a round. Raises InputError where it is not readable: nothing is changed then."""
        for name, value in unpack(update, self.weights).items():
            self.weights[name] += value


class Head:
    """The side that makes one update of all workers' updates, and knows what all agree on."""

    def __init__(self, weights: Mapping[str, Tensor], config: ExchangeConfig) -> None:
        """``weights``: what all workers begin with."""
        self._agreed = Agreed(weights)
        self._unsent = Unsent(self._agreed.weights, config)

    @property
    def weights(self) -> dict[str, Tensor]:
        """What all agree on."""
        return self._agreed.weights

    def merge(self, updates: Sequence[bytes], shares: Sequence[float] | None = None) -> bytes:
        """The one update that all workers are to receive; ``weights`` have received it already.

        ``shares``: the weight of each worker's update, e.g. by its steps where a slow one took fewer; all the same without.
        Raises InputError where one of them is not readable: nothing is changed then.
        """
        weights = [1.0 / len(updates)] * len(updates) if shares is None else [share / sum(shares) for share in shares]
        changes = [unpack(content, self.weights) for content in updates]
        mean = {
            name: sum((weight * change[name] for change, weight in zip(changes, weights, strict=True)), torch.zeros(()))
            for name in self.weights
        }
        content = self._unsent.pack(mean)
        self._agreed.receive(content)
        return content


class Participant:
    """One worker's side of the exchange: what all agree on, and what this one has not sent yet."""

    def __init__(self, module: nn.Module, config: ExchangeConfig) -> None:
        """``module`` must hold the same weights on every worker."""
        self._parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self._agreed = Agreed(self._parameters)
        self._unsent = Unsent(self._agreed.weights, config)

    def send(self) -> bytes:
        """What this worker's steps since the last exchange changed; what does not go along is kept for the next one."""
        agreed = self._agreed.weights
        return self._unsent.pack({name: value.detach() - agreed[name] for name, value in self._parameters.items()})

    def receive(self, update: bytes) -> None:
        """Go on from what all agree on with this update, see ``Head.merge``; the module's own steps were sent."""
        self._agreed.receive(update)
        with torch.no_grad():
            for name, value in self._parameters.items():
                value.copy_(self._agreed.weights[name])
