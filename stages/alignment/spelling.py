"""Words that nobody has taught, letter by letter: the speller, and one reading of its letters and of the words.

The speller is a second small adapter on the same frames, trained in the same way over another choice of rows of the LLM's
table: the few dozen that are a single letter, with a word's leading space or without, or a doubled one. It works at 25 Hz,
since letters come faster than words, and has letters to learn from wherever there is text at all (``words_of_table`` says what
a synthetic voice may read to it). It knows no words, so it invents none; the words' reading knows nothing else.

``joined_words`` puts both together: a word that the letters bear out stays, and where they say something else, what they spell
is taken, corrected to a listed word or to a word of the LLM's own table where one is near. Words and characters as two CTC
readings of one utterance: Li et al., "Advancing acoustic-to-word CTC model", ICASSP 2018.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import extract

LEAST_LETTERS = 3
"""Shorter entries of the LLM's table are mostly fragments."""


def letter_tokens(tokenizer: Any) -> dict[str, int]:
    """Strings of the letter vocabulary with their token ids: ``" a"``, ``"a"``, ``"aa"`` and so on.

    A doubled letter is one row: CTC would need a blank between two equal ones, and fast speech has no time for it.
    """
    found: dict[str, int] = {}
    for token in range(len(tokenizer)):
        text = tokenizer.decode([token])
        letters = text.removeprefix(" ")
        if not (letters.isascii() and letters.isalpha() and letters.islower()):
            continue
        if len(letters) == 1 or (len(letters) == 2 and letters[0] == letters[1] and text == letters):
            found.setdefault(text, token)
    return found


def spelled(word: str, letters: dict[str, int]) -> list[int]:
    """Token ids of a word letter by letter, the first with the leading space. Raises KeyError for a sign that is no letter."""
    found = [letters[f" {word[0]}"]]
    place = 1
    while place < len(word):
        double = word[place : place + 2]
        piece = double if double in letters and len(double) == 2 else word[place]
        found.append(letters[piece])
        place += len(piece)
    return found


def spelled_text(text: str, letters: dict[str, int]) -> list[int]:
    """Token ids of a normalised English text, letter by letter; apostrophes are left out, since nobody says them."""
    return [token for word in text.replace("'", "").split() for token in spelled(word, letters)]


def words_of_table(tokenizer: Any, least: int = LEAST_LETTERS) -> list[str]:
    """Every entry of the LLM's table that looks like a word, in the table's order, which puts common words first."""
    found: dict[str, None] = {}
    for token in range(len(tokenizer)):
        text = tokenizer.decode([token])
        word = text[1:]
        if text[:1] == " " and len(word) >= least and word.isascii() and word.isalpha() and word.islower():
            found.setdefault(word)
    return list(found)


@dataclass(frozen=True)
class SpellingRules:
    """When letters are believed, and when they are corrected."""

    borne_out: float = 0.6
    """The speller must have heard more than this share of a word's letters for it to stay."""
    near: float = 0.34
    """Share of letters by which a word of the table may differ from what was spelled to be taken for it."""
    listed: float = 0.5
    """The same for a word that somebody listed."""
    least: int = 2
    """Letters below which a spelled stretch that no word explains is noise."""


class Lexicon:
    """Words that a spelling may stand for."""

    def __init__(self, words: Iterable[str], listed: Iterable[str] = ()) -> None:
        """``words``: common ones first; ``listed``: those that somebody asked to be listened for."""
        self.words = list(dict.fromkeys(words))
        self.listed = list(dict.fromkeys(listed))
        self._ranks = {word: rank for rank, word in enumerate(self.words)}

    def corrected(self, word: str, rules: SpellingRules) -> str:
        """The nearest listed word, else the nearest known one, the more common of two as near; ``word`` where none is near."""
        return self.listed_for(word, rules) or self._nearest(word, self.words, rules.near) or word

    def listed_for(self, word: str, rules: SpellingRules) -> str | None:
        """The listed word that a spelling stands for, where there is one."""
        return self._nearest(word, self.listed, rules.listed)

    def _nearest(self, word: str, choices: Sequence[str], share: float) -> str | None:
        most = int(share * len(word))
        near = extract(word, choices, scorer=Levenshtein.distance, score_cutoff=most, limit=None) if choices else []
        least = min((distance for _, distance, _ in near), default=0)
        best = [choice for choice, distance, _ in near if distance == least]
        return min(best, key=lambda choice: self._ranks.get(choice, -1)) if best else None


@dataclass(frozen=True)
class JoinedWord:
    """A word of the one reading."""

    word: str
    place: int | None  # of the word that stays, among those read as words; None: it was spelled


def one_reading(words: str, letters: str, lexicon: Lexicon, rules: SpellingRules = SpellingRules()) -> str:
    """One text of what was read as ``words`` and what was read as ``letters``, see ``joined_words``."""
    return " ".join(one.word for one in joined_words(words.split(), letters, lexicon, rules))


def joined_words(
    said: Sequence[str], letters: str, lexicon: Lexicon, rules: SpellingRules = SpellingRules()
) -> list[JoinedWord]:
    """What was read as words and what was read as ``letters`` (spelled words, perhaps cut in wrong places), in one."""
    heard = letters.replace(" ", "")
    if not heard:
        return [JoinedWord(word, place) for place, word in enumerate(said)]
    partners = _partners("".join(said), heard)
    kept: list[tuple[int, int, JoinedWord]] = []  # (first letter heard, one past the last, word)
    place, floor = 0, 0
    for number, word in enumerate(said):
        matched = [partner for partner in partners[place : place + len(word)] if partner is not None]
        place += len(word)
        spread = matched[-1] + 1 - matched[0] if matched else 0  # letters picked from here and there bear nothing out
        if len(matched) > rules.borne_out * max(len(word), spread):
            kept.append((max(floor, matched[0]), matched[-1] + 1, JoinedWord(word, number)))
            floor = matched[-1] + 1
    found: list[JoinedWord] = []
    start = 0
    borders = _borders(letters)
    for first, last, one in [*kept, (len(heard), len(heard), None)]:
        found += [JoinedWord(word, None) for word in _unexplained(heard, start, first, borders, lexicon, rules)]
        found += [one] if one else []
        start = last
    return found


def _partners(said: str, heard: str) -> list[int | None]:
    """For each letter said, the equal letter heard that it is aligned with by the fewest edits."""
    found: list[int | None] = [None] * len(said)
    for operation in Levenshtein.opcodes(said, heard):
        if operation.tag == "equal":
            for offset in range(operation.src_end - operation.src_start):
                found[operation.src_start + offset] = operation.dest_start + offset
    return found


def _borders(letters: str) -> set[int]:
    """Places, counted in letters, where a spelled word begins."""
    found, place = set(), 0
    for word in letters.split():
        found.add(place)
        place += len(word)
    return found


def _unexplained(
    heard: str, start: int, end: int, borders: set[int], lexicon: Lexicon, rules: SpellingRules
) -> list[str]:
    """Words for the letters from ``start`` to ``end``, which no word of the reading accounts for."""
    stretch = heard[start:end]
    if len(stretch) < rules.least:
        return []
    whole = lexicon.listed_for(stretch, rules)  # a name is often cut in wrong places
    if whole:
        return [whole]
    cuts = [start, *sorted(border for border in borders if start < border < end), end]
    pieces = [heard[first:last] for first, last in pairwise(cuts)]
    return [lexicon.corrected(piece, rules) for piece in pieces if len(piece) >= rules.least]
