"""BridgeFormer: a small transformer encoder from speech frames into a frozen LLM's embedding space.

Dimensions: B utterances, T encoder frames (50 Hz), F encoder width, K frames stacked to a step, S = ceil(T / K) steps
(50 / K Hz), W BridgeFormer's width, D the LLM's hidden size.

It has no positional encoding: the frames of a Whisper or wav2vec encoder already carry their place, and without one an
utterance of any length is like any other. Every projection is an ``nn.Linear`` of its own (q, k, v and output apart),
since PEFT's SHiRA adapts ``nn.Linear`` only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class BridgeFormerConfig:
    """Sizes of a BridgeFormer; stored in ``adapter.json``."""

    encoder_width: int  # F
    llm_width: int  # D
    stack: int = 4  # K
    width: int = 256  # W
    layers: int = 2
    heads: int = 4
    feed_forward: int = 1024
    dropout: float = 0.1
    scale: float = 10.0  # of the cosine scores, where training begins; it learns

    def to_json(self) -> dict[str, int | float]:
        """The sizes as plain JSON values."""
        return asdict(self)


class SelfAttention(nn.Module):
    """Multi-head self-attention over the steps of an utterance, with separate q, k, v and output layers."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, steps: Tensor, mask: Tensor) -> Tensor:
        """(B, S, W) steps and a (B, 1, 1, S) mask, true where a step is speech -> (B, S, W)."""
        batch, length, width = steps.shape

        def split(projected: Tensor) -> Tensor:  # (B, S, W) -> (B, heads, S, W / heads)
            return projected.view(batch, length, self.heads, width // self.heads).transpose(1, 2)

        mixed = functional.scaled_dot_product_attention(
            split(self.query(steps)),
            split(self.key(steps)),
            split(self.value(steps)),
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.output(mixed.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """A pre-norm transformer encoder layer."""

    def __init__(self, config: BridgeFormerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = SelfAttention(config.width, config.heads, config.dropout)
        self.feed_forward_norm = nn.LayerNorm(config.width)
        self.expand = nn.Linear(config.width, config.feed_forward)
        self.contract = nn.Linear(config.feed_forward, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, steps: Tensor, mask: Tensor) -> Tensor:
        """(B, S, W) -> (B, S, W)."""
        steps = steps + self.dropout(self.attention(self.attention_norm(steps), mask))
        expanded = functional.gelu(self.expand(self.feed_forward_norm(steps)))
        return steps + self.dropout(self.contract(self.dropout(expanded)))


class BridgeFormer(nn.Module):
    """Frames in; unit vectors in the LLM's embedding space and a blank score out, at 50 / K Hz.

    ``frame_shift`` (F,) is added to every frame: zero in a base, and in a personal adapter the difference between
    ``frame_mean`` (F,), the mean frame that the base was trained on, and the user's. It takes away most of what a
    microphone and a voice add to every frame alike (cepstral mean normalisation, in the encoder's space).
    """

    frame_mean: Tensor
    frame_shift: Tensor

    def __init__(self, config: BridgeFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("frame_mean", torch.zeros(config.encoder_width))
        self.register_buffer("frame_shift", torch.zeros(config.encoder_width))
        self.norm = nn.LayerNorm(config.encoder_width * config.stack)
        self.enter = nn.Linear(config.encoder_width * config.stack, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width)
        self.leave = nn.Linear(config.width, config.llm_width)
        self.blank = nn.Linear(config.width, 1)
        # A cosine to one of hundreds of like rows differs by little: with a small scale, hundreds of steps go by until the
        # posteriors say anything. See "The scale of the scores" in docs/notes.md.
        self.log_scale = nn.Parameter(torch.tensor([config.scale]).log())

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, F) frames and (B,) frame counts -> (B, S, D) unit vectors, (B, S) blank scores, (B,) step counts."""
        stack = self.config.stack
        batch, _, width = frames.shape
        frames = functional.pad(self.shifted(frames, lengths), (0, 0, 0, -frames.shape[1] % stack))  # T -> S * K
        steps = frames.reshape(batch, -1, width * stack)  # (B, S, K * F)
        counts = step_counts(lengths, stack)
        mask = torch.arange(steps.shape[1], device=steps.device)[None, :] < counts[:, None]  # (B, S)
        hidden = functional.gelu(self.enter(self.norm(steps)))  # (B, S, W)
        for block in self.blocks:
            hidden = block(hidden, mask[:, None, None, :])
        hidden = self.final_norm(hidden)
        vectors = functional.normalize(self.leave(hidden), dim=-1)  # (B, S, D)
        return vectors, self.blank(hidden).squeeze(-1), counts

    def shifted(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F) frames and (B,) frame counts -> frames with ``frame_shift``, none on what lies behind an utterance's end.

        An utterance's last step may be half empty: it must say the same alone and beside a longer one.
        """
        spoken = torch.arange(frames.shape[1], device=frames.device)[None, :] < lengths[:, None]  # (B, T)
        return frames + self.frame_shift * spoken[..., None]


def step_counts(lengths: Tensor, stack: int) -> Tensor:
    """Steps of utterances of ``lengths`` frames: ceil(T / K). The one place that knows the rate."""
    return (lengths + stack - 1) // stack
