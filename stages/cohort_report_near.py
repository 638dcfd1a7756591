"""Transcripts that are almost the same: slips of the pen, other spellings. 100,000 distinct texts take seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stages.cohort_report_texts import WITHOUT_SPACES
from stages.text import language_code

WORD_SIMILARITY = 80.0
"""RapidFuzz's ratio (0 to 100) from which two words may be one word written in two ways: light, lihgt; colour, color."""

TEXT_SIMILARITY = 90.0
"""Ratio of two texts of which one has a word more, from which they are almost the same."""

NEIGHBOURS = 6
"""Texts that are compared with the next ones of their group, in alphabetical order of the word that differs. Command
grammars have thousands of texts with one slot, and comparing each with each would never end."""

ORDER, SPACES = "the order of the words", "the spaces"


@dataclass(frozen=True)
class Pairs:
    """Pairs of almost the same texts, sorted. ``first`` < ``second`` are places of texts, (n_pairs,)."""

    first: np.ndarray
    second: np.ndarray
    words: np.ndarray
    """(n_pairs, 2): the words of the first and of the second text that differ, as places in ``vocabulary``; its last entry
    stands for no word, and -1 for a difference in spaces."""
    vocabulary: list[str]

    def __len__(self) -> int:
        return len(self.first)

    def differs(self, pair: int) -> str:
        """What differs, for people: ``light / lihgt``, ``+ please``, the order of the words, the spaces."""
        one, other = (int(word) for word in self.words[pair])
        if one < 0:
            return SPACES
        if one == other:
            return ORDER
        if len(self.vocabulary) - 1 in (one, other):
            return f"+ {self.vocabulary[min(one, other)]}"
        return f"{self.vocabulary[one]} / {self.vocabulary[other]}"


def near_duplicates(spoken: Sequence[str], language: str = "en") -> Pairs:
    """Pairs of ``spoken`` (distinct texts in spoken form) that are probably meant to be one.

    Found: texts that differ in one word, where the two words are alike (a slip of the pen, another spelling); in one word
    more that is short against the text; in the order of their words; in their spaces alone. Of several with the same words
    or letters, each is told with the first of them. Not found: texts that differ in two words or more. Texts are brought
    together by what is left when one word is taken out, and within such a group compared with their alphabetical
    neighbours, forwards and backwards (the sorted neighbourhood method, Hernández and Stolfo 1995), so the time grows with
    the number of texts and not with its square.
    """
    split = [list(t) for t in spoken] if language_code(language) in WITHOUT_SPACES else [t.split() for t in spoken]
    first, second, words, vocabulary = _one_word(split)
    nothing = len(vocabulary) - 1
    found = [(first, second, words)]
    for mark, keys in (
        (nothing, [" ".join(sorted(words)) for words in split]),
        (-1, [text.replace(" ", "") for text in spoken]),
    ):
        codes, _ = pd.factorize(np.array(keys, dtype=object))
        _, leaders = np.unique(codes, return_index=True)
        second = np.flatnonzero(leaders[codes] != np.arange(len(codes)))
        found.append((leaders[codes[second]], second, np.full((len(second), 2), mark)))
    first, second, words = (np.concatenate([part[column] for part in found]) for column in range(3))
    _, kept = np.unique(
        first * max(len(split), 1) + second, return_index=True
    )  # one that is found twice: the first time
    return Pairs(first[kept], second[kept], words[kept], vocabulary)


def _one_word(split: list[list[str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Pairs that differ in one word: (first, second, words, vocabulary) of ``Pairs``, some twice."""
    from rapidfuzz import fuzz, process

    lengths = np.array([len(words) for words in split], dtype=np.int64)
    words, names = pd.factorize(np.array([word for words in split for word in words], dtype=object))
    vocabulary = [*map(str, names), ""]
    nothing = len(vocabulary) - 1
    text = np.repeat(np.arange(len(split)), lengths)
    keys, whole = _without_each_word(words, text, lengths)
    text = np.concatenate([text, np.arange(len(split))])
    word = np.concatenate([words, np.full(len(split), nothing)])
    a, b = _neighbours(np.concatenate([keys, whole]), word, text, vocabulary)
    a, b = np.where(text[a] < text[b], a, b), np.where(text[a] < text[b], b, a)

    pair = np.stack([word[a], word[b]], axis=1)
    couples, place = np.unique(pair[:, 0] * len(vocabulary) + pair[:, 1], return_inverse=True)
    left, right = ([vocabulary[i] for i in side] for side in np.divmod(couples, len(vocabulary)))
    alike = process.cpdist(left, right, scorer=fuzz.ratio, dtype=np.float32)[place] >= WORD_SIMILARITY
    size = np.array([sum(map(len, words)) + len(words) for words in split], dtype=np.int64)
    short, long = np.minimum(size[text[a]], size[text[b]]), np.maximum(size[text[a]], size[text[b]])
    alike = np.where((pair == nothing).any(axis=1), 200 * short >= TEXT_SIMILARITY * (short + long), alike)
    return text[a[alike]], text[b[alike]], pair[alike], vocabulary


def _neighbours(
    key: np.ndarray, word: np.ndarray, text: np.ndarray, vocabulary: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """(n_pairs,) twice: places of two entries of different texts with the same key and words near in the alphabet."""
    pairs = []
    for spelled in (vocabulary, [entry[::-1] for entry in vocabulary]):
        rank = np.empty(len(vocabulary), dtype=np.int64)
        rank[np.argsort(np.array(spelled, dtype=object), kind="stable")] = np.arange(len(vocabulary))
        order = np.lexsort((rank[word], key))
        for step in range(1, NEIGHBOURS + 1):
            a, b = order[:-step], order[step:]
            together = (key[a] == key[b]) & (text[a] != text[b])
            pairs.append((a[together], b[together]))
    return np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])


def _without_each_word(words: np.ndarray, text: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of each text without each of its words (n_words,), and of each whole text (n_texts,).

    A polynomial over random numbers, one a word, modulo 2^64: the sum before the word and the sum after it, moved up by one.
    """
    random = np.random.default_rng(0)
    value = random.integers(1, 2**64, int(words.max(initial=0)) + 1, dtype=np.uint64)[words]
    base = 0x9E3779B97F4A7C15  # odd, so that it has an inverse
    inverse = np.uint64(pow(base, -1, 2**64))
    powers = np.cumprod(np.full(int(lengths.max(initial=0)) + 1, base, dtype=np.uint64))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    terms = value * powers[np.arange(len(words)) - starts[text]]
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms)])
    before = sums[:-1] - sums[starts[text]]
    after = sums[starts[text + 1]] - sums[1:]
    return before + after * inverse, sums[starts[1:]] - sums[starts[:-1]]
