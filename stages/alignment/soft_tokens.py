"""Read-out and soft tokens from CTC posteriors.

Dimensions: S steps, V rows, D the LLM's hidden size, N collapsed segments. Column 0 of the posteriors is the blank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.alignment.embedlink import BLANK

SHARPNESS = 8
"""Power of the posterior in a soft token. With the posterior itself (1), the many small doubts of an unsure segment add up
to a vector that is no word, and the LLM rambles; at 3 the small doubts of a sure one still turn a reply. What is left at 8
is a doubt between rows that are nearly as likely; see "Soft tokens" in docs/notes.md for the measurement."""


@dataclass(frozen=True)
class ReadOut:
    """What the adapter heard in one utterance."""

    rows: list[int]  # N row indices, best path collapsed; from V on, they count on into ``beyond``
    soft_tokens: Tensor  # (N, D): what goes into the LLM
    confidence: float  # mean posterior of the chosen rows over their segments; 0 where nothing was heard
    beyond: tuple[int, ...] = ()  # token ids outside the vocabulary, of words that a speller put in


def collapse(path: Tensor) -> list[tuple[int, int, int]]:
    """(S,) best columns -> (row, first step, one past the last step) of each segment: repeats merged, blanks removed."""
    found: list[tuple[int, int, int]] = []
    start = 0
    columns = path.tolist()
    for step in range(1, len(columns) + 1):
        if step == len(columns) or columns[step] != columns[start]:
            if columns[start] != BLANK:
                found.append((columns[start] - 1, start, step))
            start = step
    return found


def read_out(log_posteriors: Tensor, rows: Tensor) -> ReadOut:
    """One utterance's (S, 1 + V) log posteriors and the (V, D) unnormalised rows -> its read-out.

    A segment's soft token is the mean of the rows, weighted by the segment's posterior (blank left out) to the power of
    SHARPNESS, so that an unsure segment speaks for the few rows in question and a sure one lies on its row, where the LLM
    expects its tokens.
    """
    posteriors = log_posteriors.exp()
    chosen, tokens, sure = [], [], []
    for row, first, last in collapse(log_posteriors.argmax(dim=-1)):
        weights = posteriors[first:last, 1:].sum(dim=0)  # (V,)
        weights = (weights / weights.max()) ** SHARPNESS
        tokens.append((weights / weights.sum()) @ rows)
        chosen.append(row)
        sure.append(posteriors[first:last, row + 1].mean())
    soft = torch.stack(tokens) if tokens else rows.new_zeros(0, rows.shape[1])
    return ReadOut(chosen, soft, float(torch.stack(sure).mean()) if sure else 0.0)
