"""Which word was read as which: word errors one by one, where ``stages.alignment.metrics`` only counts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from stages.text import UNKNOWN, scoring_form

NOTHING = ""
"""Stands for the word that is not there: nothing was said (an insertion) or nothing was read (a deletion)."""

Pair = tuple[str, str]
"""(said, read); equal where the word was read as it was said."""


def align(references: Sequence[str], texts: Sequence[str]) -> list[list[Pair]]:
    """For each utterance its (said, read) words in order, both sides in ``scoring_form``, by the fewest word errors.

    Both sides are in spoken form already, of whatever language: it need not be told. Raises ValueError where the lengths
    differ.
    """
    import jiwer

    if len(references) != len(texts):
        raise ValueError(f"{len(texts)} texts for {len(references)} references; needed as many")
    said = [scoring_form(text, UNKNOWN) for text in references]
    read = [scoring_form(text, UNKNOWN) for text in texts]
    found: list[list[Pair]] = [[(NOTHING, word) for word in text.split()] for text in read]
    spoken = [index for index, text in enumerate(said) if text]  # jiwer refuses an empty reference
    if not spoken:
        return found
    done = jiwer.process_words([said[index] for index in spoken], [read[index] for index in spoken])
    for place, index in enumerate(spoken):
        pairs: list[Pair] = []
        before, after = done.references[place], done.hypotheses[place]
        for chunk in done.alignments[place]:
            mine = before[chunk.ref_start_idx : chunk.ref_end_idx]
            theirs = after[chunk.hyp_start_idx : chunk.hyp_end_idx]
            longer = max(len(mine), len(theirs))
            pairs += zip(
                [*mine, *[NOTHING] * (longer - len(mine))], [*theirs, *[NOTHING] * (longer - len(theirs))], strict=True
            )
        found[index] = pairs
    return found


def confusions(aligned: Iterable[Sequence[Pair]]) -> Counter[Pair]:
    """How often each word was read as another one, was missed or was added."""
    return Counter(pair for pairs in aligned for pair in pairs if pair[0] != pair[1])


def most(counts: Counter[Pair], number: int) -> list[tuple[Pair, int]]:
    """The ``number`` largest counts, always in the same order; of equal ones, words that were read as others first."""
    return sorted(counts.items(), key=lambda item: (-item[1], NOTHING in item[0], item[0]))[:number]
