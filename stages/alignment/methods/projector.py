"""``projector``: a stacked MLP before a frozen LLM, the SLAM-ASR way, and ``projector-kl``, the Ultravox way.

Dimensions: B utterances, T frames (50 Hz), F encoder width, K frames stacked, S = ceil(T / K) vectors, H the hidden layer,
D the LLM's hidden size, R reply tokens, V the LLM's vocabulary.

Sources: Ma et al., "An Embarrassingly Simple Approach for LLM with Strong ASR Capacity" (SLAM-ASR), 2024: K = 5 frames
stacked, two linear layers between a frozen encoder and a frozen LLM, next-token loss on the transcript alone. Fixie AI,
Ultravox (github.com/fixie-ai/ultravox, ``ultravox_model.py``): the same kind of projector, learning from the
distribution that the LLM itself gives each reply token after reading the transcript.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.alignment.bridgeformer import step_counts
from stages.alignment.methods.frozen_llm import FrozenLlm
from stages.alignment.methods.in_the_loop import InTheLoop
from stages.alignment.methods.protocol import Schedule
from stages.alignment.trainer import Example
from stages.alignment.vocabulary import token_ids

STACK = 5  # 10 Hz
HIDDEN = 1024
KL_TEMPERATURE = 2.0  # Ultravox's own


class Projector(nn.Module):
    """K stacked frames -> LayerNorm -> Linear(K F, H) -> GELU -> Linear(H, D)."""

    def __init__(self, encoder_width: int, llm_width: int, stack: int = STACK, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.stack = stack
        self.norm = nn.LayerNorm(encoder_width * stack)
        self.enter = nn.Linear(encoder_width * stack, hidden)
        self.leave = nn.Linear(hidden, llm_width)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F) zero-padded frames, (B,) frame counts -> (B, S, D) vectors at 50 / K Hz, (B,) vector counts."""
        frames = functional.pad(frames, (0, 0, 0, -frames.shape[1] % self.stack))  # T -> S K
        stacked = frames.reshape(len(frames), -1, frames.shape[2] * self.stack)  # (B, S, K F)
        return self.leave(functional.gelu(self.enter(self.norm(stacked)))), step_counts(lengths, self.stack)


def kl_loss(scores: Tensor, teacher: Tensor, temperature: float = KL_TEMPERATURE) -> Tensor:
    """Mean over n tokens of KL(teacher || scores) in nats, both (n, V) logits softened by ``temperature``.

    Not scaled by the temperature squared, as Ultravox does not; AdamW does not mind the scale.
    """
    student = functional.log_softmax(scores / temperature, dim=-1)
    target = functional.log_softmax(teacher / temperature, dim=-1)
    return functional.kl_div(student, target, reduction="batchmean", log_target=True)


class ProjectorKl(InTheLoop):
    """The LLM that has read the transcript teaches the LLM that hears it.

    Both are forced along the transcript, which is the reply to the request to repeat: sparing the baseline the words that
    a small LLM gets wrong in a reply of its own. What the teacher knows of an utterance, (R, D) last hidden states, is
    computed when it is first met, inside the step and so within its seconds, and kept: later epochs run the student
    alone.
    """

    def __init__(self, bridge: nn.Module, llm: FrozenLlm, schedule: Schedule, examples: int) -> None:
        super().__init__("projector-kl", bridge, llm, schedule, examples)
        self._taught: dict[str, Tensor] = {}

    @torch.no_grad()
    def teacher_states(self, batch: Sequence[Example]) -> Tensor:
        """(sum of R, D) states of the LLM after the written transcripts."""
        missing = [example for example in batch if example.utterance not in self._taught]
        if missing:
            replies = [self.llm.reply_ids(example.text) for example in missing]
            written = [self.llm.rows(token_ids(self.llm.tokenizer, example.text)) for example in missing]
            states = self.llm.reply_states(written, replies).split([len(reply) for reply in replies])
            self._taught.update((example.utterance, state) for example, state in zip(missing, states, strict=True))
        return torch.cat([self._taught[example.utterance] for example in batch])

    def reply_loss(self, batch: Sequence[Example], states: Tensor, replies: Sequence[Sequence[int]]) -> Tensor:
        with torch.no_grad():
            teacher = self.llm.scores(self.teacher_states(batch))
        return kl_loss(self.llm.scores(states), teacher)
