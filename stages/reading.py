"""How held-out utterances were read, over all users: which words for which, errors by length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from stages.words import NOTHING, Pair, align, confusions

SIDES = ("base", "personal")
"""The two adapters that read every utterance."""

NOT_THERE = "∅"
"""How the word that is not there is shown."""

WORDS_TOLD = 15
"""Words that the table of confusions for `dvc plots` holds."""


def read_rows(cohorts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every utterance as evaluate read it, with its cohort and user; users judged by an older edgealign have none."""
    return [
        {**row, "cohort": cohort, "user": user}
        for cohort in sorted(cohorts)
        for user, entry in sorted((cohorts[cohort].get("users") or {}).items())
        for row in entry.get("read") or []
    ]


def count_confusions(rows: Sequence[Mapping[str, Any]], side: str) -> Counter[Pair]:
    """(said, read) pairs that differ, by how often; ``side`` is "base" or "personal"."""
    return confusions(align([row["reference"] for row in rows], [row[side] for row in rows]))


def most_confused(rows: Sequence[Mapping[str, Any]], words: int = WORDS_TOLD) -> list[tuple[str, str, str, str]]:
    """(cohort, user, said, read) each time that one of the words most often misread by personal adapters was said."""
    aligned = align([row["reference"] for row in rows], [row["personal"] for row in rows])
    pairs = [(row["cohort"], row["user"], *pair) for row, found in zip(rows, aligned, strict=True) for pair in found]
    wrong = Counter(said for _, _, said, read in pairs if said not in (NOTHING, read))
    chosen = sorted(wrong, key=lambda word: (-wrong[word], word))[:words]
    return sorted(
        (item for item in pairs if item[2] in chosen), key=lambda item: (chosen.index(item[2]), item[3], item)
    )


def quoted(word: str) -> str:
    """A word as tables and figures show it. In quotes: a word that stands alone in a cell could be taken for a user's name."""
    return f"“{word}”" if word else NOT_THERE


def kind_of(pair: Pair) -> str:
    """What went wrong."""
    return "added" if pair[0] == NOTHING else "missed" if pair[1] == NOTHING else "read as another word"


def by_length(rows: Iterable[Mapping[str, Any]], key: str, edges: Sequence[float]) -> list[dict[str, Any]]:
    """WER of utterances in bins of ``key`` ("words" or "duration_s"); a bin goes from its edge to below the next one.

    ``{"from", "to", "utterances", "words", "base_wer", "personal_wer"}`` of each bin that holds a word.
    """
    found = []
    items = list(rows)
    for low, high in pairwise(edges):
        inside = [row for row in items if low <= row[key] < high]
        words = sum(row["words"] for row in inside)
        if words:
            rates = {f"{side}_wer": sum(row[f"{side}_errors"] for row in inside) / words for side in SIDES}
            found.append({"from": low, "to": high, "utterances": len(inside), "words": words, **rates})
    return found


def bin_edges(values: Iterable[float], most_bins: int, step: float) -> list[float]:
    """Edges of at most ``most_bins`` bins in whole multiples of ``step``, none of them nearly empty.

    A bin is closed once it holds its share of the values; what is too little for a last one of its own joins the one before.
    """
    counts = Counter(round(value // step) for value in values)
    share = sum(counts.values()) / most_bins
    edges, held = [min(counts)], 0
    for number in sorted(counts):
        held += counts[number]
        if held >= share:
            edges.append(number + 1)
            held = 0
    if len(edges) == 1 or held >= share / 2:
        edges.append(max(counts) + 1)
    edges[-1] = max(counts) + 1
    return [round(edge * step, 6) for edge in edges]
