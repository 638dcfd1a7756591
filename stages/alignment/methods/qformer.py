"""``qformer``: learned queries that look at the frames of one window each, before a frozen LLM.

Dimensions: B utterances, T frames (50 Hz), F encoder width, L frames of a window, M = ceil(T / L) windows, Q queries of a
window, W the queries' width, D the LLM's hidden size.

Sources: Li et al., "BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and LLMs", 2023 (a fixed
set of learned queries attends to itself and, by cross-attention, to frozen features). One set for a whole utterance
keeps no order of many words, so speech models give each window its own: Tang et al., "SALMONN: Towards Generic Hearing
Abilities for LLMs", 2024 (windows of 17 frames). Here Q = 4 queries look at each L = 20 frames: 10 Hz, the projector's rate.
Windows do not see each other: the encoder's frames already know their surroundings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WINDOW = 20  # L
QUERIES = 4  # Q
WIDTH = 256
LAYERS = 2
HEADS = 4


class Attention(nn.Module):
    """Multi-head attention of queries over keys, the ones masked out left aside."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, queries: Tensor, seen: Tensor, mask: Tensor | None = None) -> Tensor:
        """(n, q, W) queries, (n, k, W) seen, (n, k) mask, true where a key counts -> (n, q, W)."""

        def split(projected: Tensor) -> Tensor:  # (n, k, W) -> (n, heads, k, W / heads)
            return projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        mixed = functional.scaled_dot_product_attention(
            split(self.query(queries)),
            split(self.key(seen)),
            split(self.value(seen)),
            attn_mask=None if mask is None else mask[:, None, None, :],
        )
        return self.output(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Queries attend to each other, then to their window's frames, then pass a feed-forward layer; norms first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.among_norm, self.across_norm, self.feed_forward_norm = (nn.LayerNorm(width) for _ in range(3))
        self.among = Attention(width, heads)
        self.across = Attention(width, heads)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, queries: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        """(n, Q, W) queries of n windows, (n, L, W) frames and (n, L) mask -> (n, Q, W)."""
        normed = self.among_norm(queries)
        queries = queries + self.among(normed, normed)
        queries = queries + self.across(self.across_norm(queries), frames, mask)
        return queries + self.contract(functional.gelu(self.expand(self.feed_forward_norm(queries))))


class QFormer(nn.Module):
    """Q vectors for each window of L frames; a last, shorter window has Q vectors as well."""

    def __init__(
        self,
        encoder_width: int,
        llm_width: int,
        window: int = WINDOW,
        queries: int = QUERIES,
        width: int = WIDTH,
        layers: int = LAYERS,
        heads: int = HEADS,
    ) -> None:
        super().__init__()
        self.window = window
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.places = nn.Parameter(0.02 * torch.randn(window, width))  # of a frame within its window
        self.norm = nn.LayerNorm(encoder_width)
        self.enter = nn.Linear(encoder_width, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.final_norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, llm_width)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F) zero-padded frames, (B,) frame counts -> (B, M Q, D) vectors, (B,) vector counts."""
        batch, size = len(frames), self.window
        frames = functional.pad(frames, (0, 0, 0, -frames.shape[1] % size))  # T -> M L
        real = torch.arange(frames.shape[1], device=frames.device)[None] < lengths[:, None]  # (B, M L)
        mask = real.reshape(-1, size)  # (B M, L)
        windows = mask.any(dim=1)  # the others lie behind an utterance's end: attention over nothing is not a number
        seen = self.enter(self.norm(frames)).reshape(-1, size, self.queries.shape[1])[windows] + self.places
        queries = self.queries.expand(len(seen), -1, -1)
        for layer in self.layers:
            queries = layer(queries, seen, mask[windows])
        vectors = self.leave(self.final_norm(queries))  # (windows that count, Q, D)
        every = vectors.new_zeros(len(mask), *vectors.shape[1:])
        every[windows] = vectors
        return every.reshape(batch, -1, vectors.shape[-1]), -(-lengths // size) * len(self.queries)
