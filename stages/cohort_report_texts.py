"""What a cohort's transcripts look like: signs that its language has not, texts that are almost the same, how much is said.

Everything is computed once a distinct text: 100,000 of them take seconds.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from stages.text import language_code, normalise, problems_of

WITHOUT_SPACES = frozenset({"zh", "ja", "th"})
"""Languages written without spaces between words: each letter counts as a word."""

WORD_SIMILARITY = 80.0
"""RapidFuzz's ratio (0 to 100) from which two words may be one word written in two ways: light, lihgt; colour, color."""

TEXT_SIMILARITY = 90.0
"""Ratio of two texts of which one has a word more, from which they are almost the same."""

NOTHING_WRONG = frozenset("<>\u200c\u200d")
"""Brackets of notes such as <noise>, which ``normalise`` takes out, and the joiners of Arabic and Indian scripts."""

ORDER = "the order of the words"

NEIGHBOURS = 6
"""Texts that are compared with the next ones of their group, in alphabetical order of the word that differs. Command
grammars have thousands of texts with one slot, and comparing each with each would never end."""


def outside_language(texts: Sequence[str], language: str) -> dict[str, str]:
    """The characters of ``texts`` that ``language`` has not, each with the reason; in order of how often they occur.

    A letter of another script, a digit that cannot be spoken, a sign that is neither punctuation nor spoken beside a number
    (an emoji, the mark of a broken encoding, a control character). Accents are folded by ``normalise`` and are none of them.
    """
    seen: Counter[str] = Counter()
    for text in texts:
        seen.update(set(text))
    reasons = {char: _why_outside(char, language) for char, _ in seen.most_common()}
    return {char: reason for char, reason in reasons.items() if reason}


def _why_outside(char: str, language: str) -> str:
    """Why a character does not belong into a transcript of the language; empty where it does."""
    if char.isspace() or char in NOTHING_WRONG:
        return ""
    problem = problems_of(char, language)
    if problem is None:
        return ""
    kind = problem.partition(":")[0]
    if kind != "no words":
        return kind
    if unicodedata.category(char)[0] not in "CS":
        return ""
    places = ((f"{char}5", "5"), (f"5{char}", "5"), (f"a{char}a", "a a"))  # $5, 5%, don't
    spoken = any(normalise(filled, language) != normalise(bare, language) for filled, bare in places)
    return "" if spoken else "not spoken"


def characters(texts: Sequence[str], counts: np.ndarray, language: str) -> tuple[list[dict[str, object]], np.ndarray]:
    """(a row for each character outside the language, bool (n_texts,): which texts hold one).

    ``counts`` (n_texts,) says how many utterances have each text. Rows: char, name, reason, times, utterances, example; the
    one in most utterances first.
    """
    affected = np.zeros(len(texts), dtype=bool)
    rows = []
    column = pa.array(texts, pa.string())
    for char, reason in outside_language(texts, language).items():
        holds = pc.count_substring(column, char).to_numpy(zero_copy_only=False)
        affected |= holds > 0
        rows.append(
            {
                "char": char,
                "name": unicodedata.name(char, f"U+{ord(char):04X}").lower(),
                "reason": reason,
                "times": int((holds * counts).sum()),
                "utterances": int(counts[holds > 0].sum()),
                "example": texts[int(np.argmax(holds > 0))],
            }
        )
    return sorted(rows, key=lambda row: (-int(str(row["utterances"])), str(row["char"]))), affected


def spoken_sizes(spoken: Sequence[str], language: str) -> tuple[np.ndarray, np.ndarray]:
    """(letters, words) of texts in spoken form, (n_texts,) each."""
    column = pa.array(spoken, pa.string())
    letters = pc.utf8_length(pc.replace_substring(column, " ", "")).to_numpy(zero_copy_only=False)
    if language_code(language) in WITHOUT_SPACES:
        return letters, letters
    gaps = pc.count_substring(column, " ").to_numpy(zero_copy_only=False)
    return letters, np.where(letters > 0, gaps + 1, 0)


@dataclass(frozen=True)
class Pair:
    """Two distinct texts that are almost the same: their places, and what differs."""

    first: int
    second: int
    differs: str


def near_duplicates(spoken: Sequence[str], language: str = "en") -> list[Pair]:
    """Pairs of ``spoken`` (distinct texts in spoken form) that are probably meant to be one.

    Found: texts that differ in one word, where the two words are alike (a slip of the pen, another spelling); in one word
    more that is short against the text; in the order of their words; in their spaces alone. Not found: texts that differ in
    two words or more. Texts are brought together by what is left when one word is taken out, and within such a group
    compared with their alphabetical neighbours, forwards and backwards (the sorted neighbourhood method, Hernández and
    Stolfo 1995), so the time grows with the number of texts and not with its square.
    """
    if len(spoken) < 2:
        return []
    rows = pd.Series(spoken, dtype="str")
    split = [list(t) for t in spoken] if language_code(language) in WITHOUT_SPACES else [t.split() for t in spoken]
    pairs = _one_word(split)
    for kind, keys in (
        (ORDER, [" ".join(sorted(words)) for words in split]),
        ("the spaces", [t.replace(" ", "") for t in spoken]),
    ):
        groups = pd.Series(rows.index, index=pd.Index(keys, dtype="str"))
        first = groups.groupby(level=0).transform("first").to_numpy()
        for second in np.flatnonzero(first != np.arange(len(spoken))):
            pairs.setdefault((int(first[second]), int(second)), kind)
    return [Pair(a, b, differs) for (a, b), differs in sorted(pairs.items())]


def _one_word(split: list[list[str]]) -> dict[tuple[int, int], str]:
    """Pairs that differ in one word: {(first text, second text): what differs}."""
    from rapidfuzz import fuzz, process

    lengths = np.array([len(words) for words in split], dtype=np.int64)
    words, names = pd.factorize(np.array([word for words in split for word in words], dtype=object))
    vocabulary = [*map(str, names), ""]  # the last one: no word was taken out
    nothing = len(vocabulary) - 1
    text = np.repeat(np.arange(len(split)), lengths)
    keys, whole = _without_each_word(words, text, lengths)
    text = np.concatenate([text, np.arange(len(split))])
    word = np.concatenate([words, np.full(len(split), nothing)])
    a, b = _neighbours(np.concatenate([keys, whole]), word, text, vocabulary)

    one, other = np.minimum(word[a], word[b]), np.maximum(word[a], word[b])
    couples, place = np.unique(one * len(vocabulary) + other, return_inverse=True)
    left, right = ([vocabulary[i] for i in side] for side in np.divmod(couples, len(vocabulary)))
    alike = process.cpdist(left, right, scorer=fuzz.ratio, dtype=np.float32)[place] >= WORD_SIMILARITY
    size = np.array([sum(map(len, words)) + len(words) for words in split])
    short, long = np.minimum(size[text[a]], size[text[b]]), np.maximum(size[text[a]], size[text[b]])
    alike = np.where(other == nothing, 200 * short >= TEXT_SIMILARITY * (short + long), alike)
    pairs: dict[tuple[int, int], str] = {}
    for i in np.flatnonzero(alike):
        ends = sorted(((int(text[a[i]]), int(word[a[i]])), (int(text[b[i]]), int(word[b[i]]))))
        differs = " / ".join(vocabulary[place] for _, place in ends)
        if other[i] == nothing:
            differs = f"+ {vocabulary[one[i]]}"
        elif one[i] == other[i]:
            differs = ORDER
        pairs.setdefault((ends[0][0], ends[1][0]), differs)
    return pairs


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
