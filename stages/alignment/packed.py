"""A BridgeFormer that computes nothing for the padding of a batch: for a user's few utterances of very different lengths.

Dimensions: B utterances, T frames, S steps of the longest, P steps of all together, W BridgeFormer's width, D the LLM's hidden
size.

The base's batches hold utterances of like lengths; a user's ten are a "yes" and a spelled name side by side, and nearly half of
such a batch is padding. Here the steps of all lie in one row of P, and attention is kept within each utterance by a mask.
Attention itself then costs P squared instead of B times S squared, which is little beside the linear layers up to MOST_STEPS; a
batch of more is computed padded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.alignment.bridgeformer import BridgeFormer, step_counts

MOST_STEPS = 1024
"""P above which a batch is padded: 82 s of speech at 12.5 Hz."""


class Packed(BridgeFormer):
    """Another face of ``bridge``: the same weights and modules, and what is put into it later is in both."""

    def __init__(self, bridge: BridgeFormer) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(bridge.__dict__)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As BridgeFormer's; vectors and blank scores of the padding are zero."""
        stack = self.config.stack
        counts = step_counts(lengths, stack)
        if int(counts.sum()) > MOST_STEPS:
            return super().forward(frames, lengths)
        batch, _, width = frames.shape
        frames = functional.pad(self.shifted(frames, lengths), (0, 0, 0, -frames.shape[1] % stack))  # T -> S * K
        steps = frames.reshape(batch, -1, width * stack)  # (B, S, K * F)
        spoken = torch.arange(steps.shape[1], device=steps.device)[None, :] < counts[:, None]  # (B, S)
        owner = spoken.nonzero()[:, 0]  # (P,)
        together = (owner[:, None] == owner[None, :])[None, None]  # (1, 1, P, P)
        hidden = functional.gelu(self.enter(self.norm(steps[spoken])))[None]  # (1, P, W)
        for block in self.blocks:
            hidden = block(hidden, together)
        hidden = self.final_norm(hidden)[0]
        packed = functional.normalize(self.leave(hidden), dim=-1)  # (P, D)
        vectors = packed.new_zeros(*spoken.shape, packed.shape[-1]).masked_scatter(spoken[..., None], packed)
        blank = hidden.new_zeros(spoken.shape).masked_scatter(spoken, self.blank(hidden)[:, 0])
        return vectors, blank, counts
