"""Words cut into short pieces of the LLM's own vocabulary, so that a read-out can spell what it was never taught.

A tokenizer writes a common word as one token; a base that has learned those alone cannot write any other word. Taught some
words in pieces of one or two letters as well, it has a row for nearly every sound, and an unseen word is spelled from them:
the idea of BPE-dropout (Provilkov et al., ACL 2020), with cuts that follow from a seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from stages.alignment.spotting import BOOST, ListedWords, listed_words
from stages.alignment.vocabulary import Vocabulary, token_ids

MAX_LETTERS = 2
CUTS = 4
"""Cuts of each text; an epoch learns from one of them."""


def piece_text(tokenizer: Any, token: int) -> str:
    """The string of a token, with its leading space where it has one."""
    return tokenizer.decode([token])


def short_pieces(tokenizer: Any, max_letters: int = MAX_LETTERS) -> dict[str, int]:
    """Every token of one to ``max_letters`` letters a to z, with or without a leading space: string to token id."""
    found: dict[str, int] = {}
    for token in range(len(tokenizer)):
        text = piece_text(tokenizer, token)
        letters = text.removeprefix(" ")
        if 0 < len(letters) <= max_letters and letters.isascii() and letters.isalpha() and letters.islower():
            found.setdefault(text, token)
    return found


def cut_word(word: str, pieces: Mapping[str, int], generator: np.random.Generator) -> list[int] | None:
    """Token ids of a random cut of a word and its leading space; None where the pieces cannot spell it."""
    text, start, found = f" {word}", 0, []
    while start < len(text):
        least = start + 2 if start == 0 else start + 1  # the leading space comes with a letter
        ends = [end for end in range(least, len(text) + 1) if text[start:end] in pieces]
        if not ends:
            return None
        end = int(generator.choice(ends))
        found.append(pieces[text[start:end]])
        start = end
    return found


def cut_text(
    tokenizer: Any, text: str, pieces: Mapping[str, int], share: float, generator: np.random.Generator
) -> list[int]:
    """Token ids of a text in which about ``share`` of the words are cut and the others are the tokenizer's own tokens.

    A letter that somebody names is no word to cut: it stays as it is.
    """
    found: list[int] = []
    for word in text.split():
        cut = cut_word(word, pieces, generator) if len(word) > 1 and generator.random() < share else None
        found += cut or token_ids(tokenizer, word)
    return found


def cuts_of(
    tokenizer: Any,
    vocabulary: Vocabulary,
    text: str,
    pieces: Mapping[str, int],
    share: float,
    generator: np.random.Generator,
) -> list[list[int]]:
    """Row indices of CUTS cuts of a text; raises KeyError for a piece outside the vocabulary."""
    return [rows_of(vocabulary, cut_text(tokenizer, text, pieces, share, generator)) for _ in range(CUTS)]


def with_short_pieces(vocabulary: Vocabulary, pieces: Mapping[str, int]) -> Vocabulary:
    """The vocabulary and every short piece: more rows, no more parameters."""
    return Vocabulary(tuple(sorted({*vocabulary.ids, *pieces.values()})))


def rows_of(vocabulary: Vocabulary, tokens: Iterable[int]) -> list[int]:
    """Row indices of token ids; raises KeyError for one outside the vocabulary."""
    return [vocabulary.place_of(token) for token in tokens]


def listen_for(
    vocabulary: Vocabulary, tokenizer: Any, words: Iterable[str], boost: float = BOOST
) -> tuple[Vocabulary, ListedWords | None]:
    """The vocabulary grown by the tokens of normalised ``words``, and the words ready to be spotted in its posteriors."""
    words = list(words)
    grown = vocabulary.grown(tokenizer, words)
    pieces = [piece_text(tokenizer, token) for token in grown.ids] if words else []
    return grown, listed_words({word: rows_of(grown, token_ids(tokenizer, word)) for word in words}, pieces, boost)
