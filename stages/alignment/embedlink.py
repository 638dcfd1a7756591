"""EmbedLink: CTC over rows of a frozen LLM's embedding table. No LLM runs while it trains.

Dimensions: B utterances, S steps, D the LLM's hidden size, V rows of the vocabulary, N target tokens of an utterance.
Column 0 of every score is the blank; column 1 + i is row i of the vocabulary.

A step's score for a row is the scaled cosine between BridgeFormer's unit vector and the L2-normalised row; the blank has
a score of its own. CTC: Graves et al., ICML 2006. A vocabulary is a choice of rows, so a new word costs no parameter.
"""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional

from stages.alignment.bridgeformer import BridgeFormer

BLANK = 0


class EmbedLink(nn.Module):
    """The frozen rows: scores of BridgeFormer's vectors against them. Holds no parameter."""

    rows: Tensor
    unit_rows: Tensor

    def __init__(self, rows: Tensor) -> None:
        """``rows``: (V, D) float32, unnormalised rows of the LLM's embedding table."""
        super().__init__()
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("unit_rows", functional.normalize(rows, dim=-1), persistent=False)

    def log_posteriors(self, bridge: BridgeFormer, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, F) frames, (B,) frame counts -> (B, S, 1 + V) log posteriors, (B, S, D) unit vectors, (B,) step counts."""
        vectors, blank, counts = bridge(frames, lengths)
        cosine = vectors @ self.unit_rows.T  # (B, S, V)
        scores = torch.cat([blank.unsqueeze(-1), bridge.log_scale.exp() * cosine], dim=-1)
        return scores.log_softmax(dim=-1), vectors, counts


def ctc_loss(log_posteriors: Tensor, counts: Tensor, targets: list[Tensor]) -> Tensor:
    """Mean over utterances of the CTC loss per target token.

    ``log_posteriors`` (B, S, 1 + V), ``counts`` (B,) steps, ``targets`` B tensors (N,) of row indices (0 is the first row,
    not the blank). An utterance with too few steps for its targets counts as zero (``zero_infinity``).
    """
    sizes = torch.tensor([len(target) for target in targets])
    return functional.ctc_loss(
        log_posteriors.transpose(0, 1),  # (S, B, 1 + V)
        torch.cat(targets) + 1,
        counts,
        sizes,
        blank=BLANK,
        zero_infinity=True,
    )


def can_align(target: Tensor, steps: int) -> bool:
    """Whether ``steps`` steps are enough for the tokens of ``target`` (N,) and a blank between equal neighbours."""
    repeats = int((target[1:] == target[:-1]).sum())
    return len(target) > 0 and steps >= len(target) + repeats


@torch.no_grad()
def segments(log_posteriors: Tensor, target: Tensor) -> Tensor | None:
    """Which steps belong to which target token, by forced alignment of one utterance.

    ``log_posteriors`` (S, 1 + V), ``target`` (N,) row indices -> (N, S) weights that sum to 1 over the steps of each token,
    or None where no alignment fits (fewer steps than tokens and repeats).
    """
    if not can_align(target, log_posteriors.shape[0]):
        return None
    path, _ = torchaudio.functional.forced_align(log_posteriors[None], (target + 1)[None].int(), blank=BLANK)
    path = path[0]  # (S,)
    spoken = path != BLANK
    # a new token starts where a step is spoken and differs from the step before (a repeat has a blank between)
    starts = spoken & torch.cat([torch.tensor([True]), path[1:] != path[:-1]])
    owner = starts.cumsum(0) - 1  # (S,) index of the token last started
    weights = torch.zeros(len(target), len(path))
    weights[owner[spoken], torch.arange(len(path))[spoken]] = 1.0
    return weights / weights.sum(dim=1, keepdim=True)


def embedding_loss(
    vectors: Tensor, log_posteriors: Tensor, counts: Tensor, targets: list[Tensor], unit_rows: Tensor
) -> Tensor:
    """One minus the cosine between each token's mean vector over its aligned steps and its row, mean over tokens.

    Pulls the vectors themselves to their rows, where CTC only asks that they win against the other rows. The alignment
    is fixed (no gradient). ``vectors`` (B, S, D); the rest as in ``ctc_loss``; ``unit_rows`` (V, D).
    """
    losses = []
    for index, target in enumerate(targets):
        count = int(counts[index])
        weights = segments(log_posteriors[index, :count], target)
        if weights is not None:
            means = weights @ vectors[index, :count]  # (N, D)
            losses.append(1.0 - functional.cosine_similarity(means, unit_rows[target], dim=-1))
    return torch.cat(losses).mean() if losses else vectors.sum() * 0.0
