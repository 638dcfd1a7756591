"""Training with the LLM in the loop: a bridge from frames to speech vectors learns from the loss of the LLM's reply.

Dimensions: T frames, F encoder width, N speech vectors, D the LLM's hidden size, R reply tokens, V the LLM's vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from stages.alignment.methods.frozen_llm import FrozenLlm
from stages.alignment.methods.protocol import Learner, Schedule
from stages.alignment.trainer import Example

READ_BATCH = 32


class Bridge(Protocol):
    """A module from frames to speech vectors; a long utterance in the batch changes nothing for a short one."""

    def __call__(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F) zero-padded frames and (B,) frame counts -> (B, N, D) vectors and (B,) vector counts."""


class InTheLoop(Learner):
    """A bridge and a frozen LLM; next-token loss of the transcript as the reply to the speech."""

    needs_llm = True

    def __init__(
        self,
        name: str,
        bridge: nn.Module,
        llm: FrozenLlm,
        schedule: Schedule,
        examples: int,
        more: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """``more``: further modules that learn beside the bridge."""
        super().__init__({"bridge": bridge, **(more or {})}, schedule, examples)
        self.name = name
        self.bridge = bridge
        self.llm = llm

    def hear(self, batch: Sequence[Example]) -> list[Tensor]:
        """(N, D) speech vectors of each utterance."""
        frames = pad_sequence([example.frames for example in batch], batch_first=True)
        vectors, counts = self.bridge(frames, torch.tensor([len(example.frames) for example in batch]))
        return [heard[:count] for heard, count in zip(vectors, counts.tolist(), strict=True)]

    def reply_loss(self, batch: Sequence[Example], states: Tensor, replies: Sequence[Sequence[int]]) -> Tensor:
        """From the (sum of R, D) states that predict the replies' tokens: mean cross-entropy in nats a token."""
        return functional.cross_entropy(self.llm.scores(states), torch.tensor([i for reply in replies for i in reply]))

    def loss(self, batch: Sequence[Example]) -> Tensor:
        replies = [self.llm.reply_ids(example.text) for example in batch]
        return self.reply_loss(batch, self.llm.reply_states(self.hear(batch), replies), replies)

    @torch.no_grad()
    def read(self, heard: Sequence[Example]) -> list[str]:
        """The LLM's greedy replies under the prompt of the training."""
        self.train(False)
        order = sorted(range(len(heard)), key=lambda index: len(heard[index].frames))
        speech: list[Tensor] = [torch.empty(0)] * len(heard)
        for start in range(0, len(order), READ_BATCH):
            chosen = order[start : start + READ_BATCH]
            for index, vectors in zip(chosen, self.hear([heard[index] for index in chosen]), strict=True):
                speech[index] = vectors
        return self.llm.read(speech)
