"""What the demo's base voices read to a speller: words of the LLM's own table, in no order, each as often as any other."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from pipeline.cohorts.demo import BASE_NOISE_DB, SPOKEN, DemoUser, Speech, base_voices
from pipeline.cohorts.espeak import Voice
from pipeline.cohorts.grammar import Sentence

WORDS = 9_000
"""Of the table, the most common first: rarer ones are more and more fragments."""
UTTERANCES_EACH = 60
WORDS_EACH = 5


def id_width(utterances: int) -> int:
    """Digits in an utterance's id: ids must sort as the utterances follow each other, also beyond a thousand."""
    return max(3, len(str(utterances - 1)))


def lexicon_users(
    words: Sequence[str],
    utterances_each: int = UTTERANCES_EACH,
    words_each: int = WORDS_EACH,
    voices: Mapping[str, Voice] | None = None,
) -> list[DemoUser]:
    """Speakers of ``words``, which are dealt out like cards and shuffled again when all have been said.

    ``voices``: the demo's base voices where none are given.
    """
    width = id_width(utterances_each)
    draw, deck, users = random.Random("lexicon"), list[str](), []
    for name, voice in (voices or base_voices()).items():
        speeches = []
        for index in range(utterances_each):
            said = []
            for _ in range(words_each):
                if not deck:
                    deck = list(words)
                    draw.shuffle(deck)
                said.append(deck.pop())
            speeches.append(
                Speech(f"{SPOKEN}{name}-{index:0{width}d}", Sentence(" ".join(said), "lexicon", False), True)
            )
        users.append(DemoUser(f"{SPOKEN}{name}", voice, tuple(speeches), BASE_NOISE_DB))
    return users
