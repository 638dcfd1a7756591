"""``ctc-only``: CTC posteriors over the LLM's tokens from an ordinary output layer, the LegoSLM way.

Dimensions: B utterances, T frames (50 Hz), F encoder width, K frames stacked, S = ceil(T / K) steps, H the hidden layer, V
rows of the vocabulary.

Source: Ma et al., "LegoSLM: Connecting LLM with Speech Encoder using CTC Posteriors", 2025: CTC posteriors over the LLM's
vocabulary weight the rows of its embedding table into what the LLM hears. There the speech encoder itself learns; here it
is frozen for all methods, so a two-layer head over K stacked frames learns in its place. What sets it apart from
``embedlink``: no attention between steps, and each token has output weights of its own instead of a cosine to its row, so
a word that was never trained cannot be heard, whatever rows are added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from stages.alignment.embedlink import ctc_loss
from stages.alignment.methods.projector import Projector
from stages.alignment.methods.protocol import Learner, Schedule
from stages.alignment.soft_tokens import collapse
from stages.alignment.trainer import Example, collate

STACK = 4  # 12.5 Hz, as BridgeFormer
HIDDEN = 1024


class CtcOnly(Learner):
    """A CTC head on the frozen encoder; the LLM's embedding rows are not needed until it listens."""

    def __init__(
        self, encoder_width: int, tokens: int, text_of: Callable[[list[int]], str], schedule: Schedule, examples: int
    ) -> None:
        """``tokens``: V; ``text_of``: the text that row indices spell."""
        self.head = Projector(encoder_width, 1 + tokens, STACK, HIDDEN)
        super().__init__({"head": self.head}, schedule, examples)
        self.name = "ctc-only"
        self.text_of = text_of

    def log_posteriors(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F) frames, (B,) frame counts -> (B, S, 1 + V) log posteriors, the blank first; (B,) step counts."""
        scores, counts = self.head(frames, lengths)
        return scores.log_softmax(dim=-1), counts

    def loss(self, batch: Sequence[Example]) -> Tensor:
        frames, lengths, targets = collate(batch)
        return ctc_loss(*self.log_posteriors(frames, lengths), targets)

    @torch.inference_mode()
    def read(self, heard: Sequence[Example]) -> list[str]:
        self.train(False)
        frames = pad_sequence([example.frames for example in heard], batch_first=True)
        posteriors, counts = self.log_posteriors(frames, torch.tensor([len(example.frames) for example in heard]))
        best = posteriors.argmax(dim=-1)  # (B, S)
        paths = [path[:count] for path, count in zip(best, counts.tolist(), strict=True)]
        return [self.text_of([row for row, _, _ in collapse(path)]) for path in paths]
