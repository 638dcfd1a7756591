"""The best few readings of an utterance's posteriors: CTC prefix beam search (Graves, 2012; Hannun et al., 2014).

Dimensions: S steps, V rows, N tokens of a reading. Column 0 of the posteriors is the blank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from stages.alignment.embedlink import BLANK

NEVER = -math.inf


@dataclass(frozen=True)
class Reading:
    """One way to read an utterance."""

    rows: tuple[int, ...]  # N row indices
    score: float  # log of the summed probability of its paths


def best_readings(log_posteriors: Tensor, beam: int, candidates: int) -> list[Reading]:
    """(S, 1 + V) log posteriors -> at most ``beam`` readings, best first, by prefix beam search.

    A step may add the ``candidates`` likeliest rows alone, the blank beside them.
    """
    blanks = log_posteriors[:, BLANK].tolist()
    values, places = log_posteriors[:, 1:].topk(min(candidates, log_posteriors.shape[1] - 1), dim=-1)
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, NEVER)}  # ends in blank, ends in its last row
    for blank, row_scores, rows in zip(blanks, values.tolist(), places.tolist(), strict=True):
        grown: dict[tuple[int, ...], tuple[float, float]] = {}
        for prefix, (ends_blank, ends_row) in beams.items():
            either = log_add(ends_blank, ends_row)
            _add(grown, prefix, either + blank, NEVER)
            for score, row in zip(row_scores, rows, strict=True):
                if prefix and prefix[-1] == row:
                    _add(grown, prefix, NEVER, ends_row + score)  # the same sound goes on
                    _add(grown, (*prefix, row), NEVER, ends_blank + score)  # said again, after a blank
                else:
                    _add(grown, (*prefix, row), NEVER, either + score)
        kept = sorted(grown.items(), key=lambda item: -log_add(*item[1]))[:beam]
        beams = dict(kept)
    return [Reading(prefix, log_add(*ends)) for prefix, ends in beams.items()]


def log_probabilities(log_posteriors: Tensor, readings: Sequence[Sequence[int]]) -> list[float]:
    """(S, 1 + V) log posteriors -> log of the summed probability of all paths of each reading; NEVER where S is too short."""
    sizes = torch.tensor([len(rows) for rows in readings])
    targets = torch.tensor([row + 1 for rows in readings for row in rows], dtype=torch.long)
    steps = torch.full((len(readings),), len(log_posteriors))
    each = log_posteriors[:, None].expand(-1, len(readings), -1).contiguous()  # (S, R, 1 + V)
    losses = functional.ctc_loss(each, targets, steps, sizes, blank=BLANK, reduction="none")
    return [-loss for loss in losses.tolist()]


def _add(beams: dict[tuple[int, ...], tuple[float, float]], prefix: tuple[int, ...], blank: float, row: float) -> None:
    if blank == row == NEVER:
        return
    before = beams.get(prefix, (NEVER, NEVER))
    beams[prefix] = (log_add(before[0], blank), log_add(before[1], row))


def log_add(one: float, other: float) -> float:
    """log(exp(one) + exp(other))."""
    if one == NEVER or other == NEVER:
        return max(one, other)
    return max(one, other) + math.log1p(math.exp(-abs(one - other)))
