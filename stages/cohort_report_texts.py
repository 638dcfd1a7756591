"""What a cohort's transcripts are made of: characters that their language has not, letters and words that are said."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.text import language_code, normalise, problems_of

WITHOUT_SPACES = frozenset({"zh", "ja", "th"})
"""Languages written without spaces between words: each letter counts as a word."""

NOTHING_WRONG = frozenset("<>\u200c\u200d")
"""Brackets of notes such as <noise>, which ``normalise`` takes out, and the joiners of Arabic and Indian scripts."""


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
