"""The LLM chooses between what the adapter is unsure of: the best few readings of the posteriors, weighed by the LLM.

EmbedLink's units are the LLM's own tokens, so a reading needs no translation to be scored by the LLM that is there anyway:
one pass over a handful of readings, behind a context whose keys and values are computed once. Readings: CTC prefix beam search
(Graves, 2012; Hannun et al., 2014); the sum of both scores is shallow fusion over an n-best list (Chorowski and Jaitly, 2017).

Dimensions: S steps, V rows, N tokens of a reading, H readings, D the LLM's hidden size. Column 0 is the blank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stages.alignment.embedlink import BLANK
from stages.alignment.soft_tokens import ReadOut

CONTEXT = (
    "turn on the lamp in the hall",
    "turn off the oven",
    "open the garage door",
    "dim the lights to thirty percent",
    "set the heater to nineteen",
    "set a timer for eight minutes",
    "wake me up at six thirty",
    "remind me to feed the cat",
    "add honey to the list",
    "play some blues",
    "send a message to oliver",
    "take me to oslo",
    "what time is it in rome",
)
"""What people say to a device, a line each: the LLM is to expect more of the kind. No benchmark judges by one of them."""

NEVER = -math.inf


@dataclass(frozen=True)
class Reading:
    """One way to read an utterance."""

    rows: tuple[int, ...]  # N row indices
    score: float  # log of the summed probability of its paths


@dataclass(frozen=True)
class RescoringConfig:
    """How much the LLM has to say."""

    weight: float = 0.3  # of the LLM's log probability of a reading, beside the adapter's
    bonus: float = 0.9  # nats for each token: without it the LLM prefers what is short
    beam: int = 8  # readings that are kept
    candidates: int = 6  # rows that a step may add
    sure: float = 0.99  # posterior of the best reading among all kept from which the LLM is not asked


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
            either = _log_add(ends_blank, ends_row)
            _add(grown, prefix, either + blank, NEVER)
            for score, row in zip(row_scores, rows, strict=True):
                if prefix and prefix[-1] == row:
                    _add(grown, prefix, NEVER, ends_row + score)  # the same sound goes on
                    _add(grown, (*prefix, row), NEVER, ends_blank + score)  # said again, after a blank
                else:
                    _add(grown, (*prefix, row), NEVER, either + score)
        kept = sorted(grown.items(), key=lambda item: -_log_add(*item[1]))[:beam]
        beams = dict(kept)
    return [Reading(prefix, _log_add(*ends)) for prefix, ends in beams.items()]


def _add(beams: dict[tuple[int, ...], tuple[float, float]], prefix: tuple[int, ...], blank: float, row: float) -> None:
    if blank == row == NEVER:
        return
    before = beams.get(prefix, (NEVER, NEVER))
    beams[prefix] = (_log_add(before[0], blank), _log_add(before[1], row))


def _log_add(one: float, other: float) -> float:
    if one == NEVER or other == NEVER:
        return max(one, other)
    return max(one, other) + math.log1p(math.exp(-abs(one - other)))


class Rescorer:
    """A frozen LLM behind a context, which tells how likely readings are there."""

    def __init__(self, model: Any, tokenizer: Any, context: Sequence[str] = CONTEXT, end: str = "\n") -> None:
        """``context``: lines that the LLM reads before; ``end``: what follows each, and a whole reading."""
        from transformers import DynamicCache

        self.model = model
        self._end = tokenizer(end, add_special_tokens=False)["input_ids"][0]
        ids = tokenizer("".join(f" {line}{end}" for line in context), add_special_tokens=False)["input_ids"]
        cache = DynamicCache(config=model.config)
        with torch.inference_mode():
            states = model.get_decoder()(input_ids=torch.tensor([ids]), past_key_values=cache).last_hidden_state
            self._first = self._log_probabilities(states[:, -1:])  # (1, 1, V of the LLM)
        self._kept = [(layer.keys, layer.values) for layer in cache.layers]

    def _log_probabilities(self, states: Tensor) -> Tensor:
        return self.model.get_output_embeddings()(states).float().log_softmax(dim=-1)

    @torch.inference_mode()
    def scores(self, readings: Sequence[Sequence[int]]) -> list[float]:
        """Log probability of each reading's token ids, the end behind them included."""
        from transformers import DynamicCache

        longest = max(1, max(len(reading) for reading in readings))
        ids = torch.zeros(len(readings), longest, dtype=torch.long)
        for place, reading in enumerate(readings):
            ids[place, : len(reading)] = torch.tensor(list(reading), dtype=torch.long)
        kept = [
            (keys.expand(len(readings), -1, -1, -1), values.expand(len(readings), -1, -1, -1))
            for keys, values in self._kept
        ]
        # padded on the right: under a causal mask no token sees what stands behind it
        states = self.model.get_decoder()(input_ids=ids, past_key_values=DynamicCache(kept), use_cache=True)
        known = self._log_probabilities(
            states.last_hidden_state
        )  # (H, longest, V of the LLM): of what follows each token
        found = []
        for place, reading in enumerate(readings):
            before = torch.cat([self._first[0], known[place, : len(reading)]])  # (N + 1, V of the LLM)
            told = torch.tensor([*reading, self._end])
            found.append(float(before[torch.arange(len(told)), told].sum()))
        return found


class Chooser:
    """Reads an utterance again where the adapter is unsure, with the LLM's opinion."""

    def __init__(self, rescorer: Rescorer, ids: Sequence[int], config: RescoringConfig = RescoringConfig()) -> None:
        """``ids``: token id of each row of the vocabulary that is read from."""
        self._rescorer, self._ids, self._config = rescorer, ids, config

    def __call__(self, log_posteriors: Tensor, rows: Tensor, heard: ReadOut) -> ReadOut:
        """(S, 1 + V) log posteriors, (V, D) rows and the read-out of the best path -> the read-out that is preferred.

        Where both read the same token its soft token stays; another one is its row, as the LLM knows it.
        """
        from rapidfuzz.distance import Levenshtein  # a registered model reads without it

        readings = best_readings(log_posteriors, self._config.beam, self._config.candidates)
        chosen = list(rescore(readings, self._ids, self._rescorer, self._config))
        if chosen == heard.rows:
            return heard
        soft = rows[chosen].clone()
        for operation in Levenshtein.opcodes(heard.rows, chosen):
            if operation.tag == "equal":
                soft[operation.dest_start : operation.dest_end] = heard.soft_tokens[
                    operation.src_start : operation.src_end
                ]
        return ReadOut(chosen, soft, heard.confidence)


def rescore(
    readings: Sequence[Reading], ids: Sequence[int], rescorer: Rescorer, config: RescoringConfig
) -> tuple[int, ...]:
    """The rows of the reading that adapter and LLM together like best. ``ids``: token id of each row."""
    best = readings[0]
    total = best.score
    for other in readings[1:]:
        total = _log_add(total, other.score)
    if len(readings) == 1 or best.score - total >= math.log(config.sure):
        return best.rows
    asked = [reading for reading in readings if reading.score > NEVER]
    told = rescorer.scores([[ids[row] for row in reading.rows] for reading in asked])
    summed = [
        reading.score + config.weight * score + config.bonus * len(reading.rows)
        for reading, score in zip(asked, told, strict=True)
    ]
    return asked[max(range(len(asked)), key=summed.__getitem__)].rows
