"""The LLM chooses between what the adapter is unsure of: the best few readings of the posteriors, weighed by the LLM.

EmbedLink's units are the LLM's own tokens, so a reading needs no translation to be scored by the LLM that is there anyway:
one pass over a handful of readings, behind a context whose keys and values are computed once. The sum of both scores is
shallow fusion over an n-best list (Chorowski and Jaitly, 2017).

The LLM is asked two things. How likely the sentence is; and, where a reading spells letter by letter, how likely the word is
that the letters spell. A small LLM has next to no opinion of ``l i n d o`` against ``l i n d a`` as they stand, and a strong
one of ``Lindo`` against ``Linda``. What is spelled may be a code as well, which no LLM can know: a run of letters is a word
with probability ``word_share`` and letters drawn alike otherwise, so that a code's letters are left as they were heard.

Before that the adapter itself may hear what it is unsure of again, slower and faster (``tempos``): the mean of what it makes
of a reading at each tempo is surer than any of them, as with averages over views of an image (Krizhevsky et al., 2012).

Dimensions: S steps, V rows, N tokens of a reading, H readings, D the LLM's hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from stages.alignment.readings import NEVER, Reading, best_readings, log_add, log_probabilities
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

NAMES = (
    *("Maria", "Oliver", "Boston", "Garcia", "Walnut"),
    *("Greenfield", "Hannahlee", "Thompson", "Riverside", "Novak"),
)
"""What people spell, a line each, the context of a spelled word."""

LEAST_LETTERS = 3
"""Fewer letters in a row are no spelled word: "a", "i" and "o" are words, "o k" is."""
ALPHABET = 26
"""Letters that a code's are drawn from."""


@dataclass(frozen=True)
class RescoringConfig:
    """How much the LLM has to say."""

    weight: float = 0.3  # of the LLM's log probability of a reading, beside the adapter's; 0: never asked
    bonus: float = 3.0  # nats a token, beside the LLM's and weighed with it: the LLM alone prefers what is short
    beam: int = 8  # readings that are kept
    candidates: int = 6  # rows that a step may add
    sure: float = 0.99  # posterior of the best reading among all kept from which the LLM is not asked
    spelled_weight: float = 0.7  # of how much likelier a reading's letters are for spelling a word; 0: never asked
    tempos: tuple[float, ...] = ()  # lengths, of an unsure utterance's own, at which it is heard again
    word_share: float = 0.5  # of what is spelled letter by letter: words, the others are codes


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


class SpelledWords:
    """What the LLM makes of words that were spelled letter by letter."""

    def __init__(self, model: Any, tokenizer: Any, names: Sequence[str] = NAMES) -> None:
        self._tokenizer = tokenizer
        self._rescorer = Rescorer(model, tokenizer, names)

    def scores(self, readings: Sequence[Sequence[int]], word_share: float) -> list[float]:
        """By how much likelier each reading's letters are for spelling what the LLM knows than as letters drawn alike, in nats.

        0 for a reading that spells nothing, and for all of them where all spell the same: the LLM is not asked then.
        """
        spelled = [spelled_words(self._tokenizer.decode(list(reading))) for reading in readings]
        if all(words == spelled[0] for words in spelled):
            return [0.0] * len(readings)
        words = sorted({word for found in spelled for word in found})
        ids = [self._tokenizer(f" {word.capitalize()}", add_special_tokens=False)["input_ids"] for word in words]
        known = {
            word: likelier_word(score, len(word), word_share)
            for word, score in zip(words, self._rescorer.scores(ids), strict=True)
        }
        return [sum(known[word] for word in found) for found in spelled]


def spelled_words(text: str) -> list[str]:
    """The words that a text spells letter by letter, in their order: ``call a n n a`` -> ``["anna"]``."""
    runs = groupby(text.split(), key=lambda word: len(word) == 1 and word.isalpha())
    found = ["".join(run) for letters, run in runs if letters]
    return [word for word in found if len(word) >= LEAST_LETTERS]


def likelier_word(log_probability: float, letters: int, word_share: float) -> float:
    """Log Bayes factor of "a word or a code" against "a code": the word has ``log_probability``, a code's letters are alike.

    It never falls below log(1 - word_share): what the LLM does not know is a code, and costs a reading nothing more.
    """
    if word_share <= 0.0:
        return 0.0
    word = math.log(word_share) + log_probability + letters * math.log(ALPHABET)
    return log_add(word, math.log1p(-word_share) if word_share < 1.0 else NEVER)


class Chooser:
    """Reads an utterance again where the adapter is unsure, with the LLM's opinion."""

    def __init__(
        self,
        rescorer: Rescorer | None,
        ids: Sequence[int],
        config: RescoringConfig = RescoringConfig(),
        spelled: SpelledWords | None = None,
    ) -> None:
        """``rescorer`` judges sentences and ``spelled`` spelled words, where they are given; ``ids``: token id of each row of
        the vocabulary that is read from."""
        self._rescorer, self._ids, self._config, self._spelled = rescorer, ids, config, spelled

    def __call__(
        self, log_posteriors: Tensor, rows: Tensor, heard: ReadOut, again: Callable[[float], Tensor] | None = None
    ) -> ReadOut:
        """(S, 1 + V) log posteriors, (V, D) rows and the read-out of the best path -> the read-out that is preferred.

        ``again`` gives (S', 1 + V) log posteriors of the same utterance stretched to a multiple of its length. Where both
        readings have the same token its soft token stays; another one is its row, as the LLM knows it. Another reading's
        confidence is at most the adapter's own share for it: what the LLM talked it into is not what it heard for certain.
        """
        from rapidfuzz.distance import Levenshtein  # a registered model reads without it

        readings = best_readings(log_posteriors, self._config.beam, self._config.candidates)
        if again is not None and not is_sure(readings, self._config):
            readings = heard_again(readings, [again(tempo) for tempo in self._config.tempos])
        chosen = list(rescore(readings, self._ids, self._rescorer, self._config, self._spelled))
        if chosen == heard.rows:
            return heard
        soft = rows[chosen].clone()
        for operation in Levenshtein.opcodes(heard.rows, chosen):
            if operation.tag == "equal":
                soft[operation.dest_start : operation.dest_end] = heard.soft_tokens[
                    operation.src_start : operation.src_end
                ]
        return ReadOut(chosen, soft, min(heard.confidence, share_of(chosen, readings)))


def is_sure(readings: Sequence[Reading], config: RescoringConfig) -> bool:
    """Whether the best reading has so much of the probability of all that nobody is asked."""
    return share_of(readings[0].rows, readings) >= config.sure


def share_of(rows: Sequence[int], readings: Sequence[Reading]) -> float:
    """Of the probability of all readings, by the adapter: that of the one with these rows."""
    total = reduce(log_add, (reading.score for reading in readings))
    return sum(math.exp(reading.score - total) for reading in readings if reading.rows == tuple(rows))


def heard_again(readings: Sequence[Reading], views: Sequence[Tensor]) -> list[Reading]:
    """The readings with the mean of their scores over the utterance and further (S', 1 + V) log posteriors of it, best first.

    A view that is too short for one of the readings would rule it out, and is left out.
    """
    scores = [[reading.score for reading in readings]]
    for view in views:
        found = log_probabilities(view, [reading.rows for reading in readings])
        if NEVER not in found:
            scores.append(found)
    means = [sum(told) / len(told) for told in zip(*scores, strict=True)]
    pairs = zip(readings, means, strict=True)
    return sorted((Reading(reading.rows, mean) for reading, mean in pairs), key=lambda reading: -reading.score)


def rescore(
    readings: Sequence[Reading],
    ids: Sequence[int],
    rescorer: Rescorer | None,
    config: RescoringConfig,
    spelled: SpelledWords | None = None,
) -> tuple[int, ...]:
    """The rows of the reading that adapter and LLM together like best. ``ids``: token id of each row."""
    if is_sure(readings, config):
        return readings[0].rows
    asked = [reading for reading in readings if reading.score > NEVER]
    tokens = [[ids[row] for row in reading.rows] for reading in asked]
    summed = [reading.score for reading in asked]
    if rescorer is not None and config.weight:
        told = rescorer.scores(tokens)
        for place, (score, reading) in enumerate(zip(told, asked, strict=True)):
            summed[place] += config.weight * (score + config.bonus * len(reading.rows))
    if spelled is not None and config.spelled_weight:
        for place, score in enumerate(spelled.scores(tokens, config.word_share)):
            summed[place] += config.spelled_weight * score
    return asked[max(range(len(asked)), key=summed.__getitem__)].rows
