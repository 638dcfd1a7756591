"""The reading of a cascade's transcript that is kindest to the cascade.

A transcriber writes "15213", "W-R-I-G-H-T", "WRIGHT" or "Rub out" where a person said "one five two one three", spelled
a name or said "rubout". None of these is a mishearing, so none may count as one when the cascade is compared with an
adapter. ``fair_cascade`` considers every way to say the transcript aloud and returns the one nearest to the reference:

- the normaliser's own reading, of the whole and of every run of up to three words;
- digits singly ("zero", "oh" or the letter o), in pairs and groups, as a number, an ordinal or a year;
- a word letter by letter, where the reference spells letters; "okay" as o, k;
- neighbours joined ("rub out", "s n o w"), where the reference has that very word.

Words that sound alike ("to" for "two", "see" for "c") stay errors: telling them apart is the transcriber's work.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stages.spoken_form import UNKNOWN, a_to_z, fold, language_code, scoring_form
from stages.spoken_numbers import DIGITS, MAX_CARDINAL_DIGITS, cardinal, ordinal

ATOM = re.compile(r"(\d{1,3}(?:,\d{3})+|\d+)(st|nd|rd|th)?(?![a-z])|\d+|[a-z]+(?:'[a-z]+)*")
MAX_RUN = 3
MAX_JOIN = 24


@dataclass(frozen=True)
class Reading:
    """One way to say a stretch of the transcript, from node to node of the lattice."""

    start: int
    end: int
    words: tuple[str, ...]


def fair_cascade(reference: str, hypothesis: str, language: str = UNKNOWN) -> str:
    """The reading of the raw transcript ``hypothesis`` with the fewest word errors against ``reference``.

    Never worse than ``scoring_form(hypothesis)``, which is what other languages than English get. Where the language is not
    told, a reference in spoken form tells whether it is English.
    """
    code = language_code(language)
    if code == UNKNOWN and a_to_z(reference):
        code = "en"
    plain = scoring_form(hypothesis, code)
    said = scoring_form(reference, code).split()
    if code != "en" or not plain or not said or plain.split() == said:
        return plain
    last, readings = _lattice(hypothesis, plain, said)
    if not last:  # written in another script: there is no English way to say it
        return plain
    # per node and number of reference words covered: errors so far, and the words said as nested pairs
    covered: dict[int, list[tuple[int, Any]]] = {0: [(count, None) for count in range(len(said) + 1)]}
    for node in range(last):
        for reading in readings[node]:
            if node in covered:
                costs = covered[node]
                for word in reading.words:
                    costs = _say(costs, word, said)
                known = covered.get(reading.end)
                covered[reading.end] = [min(pair, key=_errors) for pair in zip(known or costs, costs, strict=True)]
    words = []
    rest = covered[last][-1][1]
    while rest is not None:
        rest, word = rest
        words.append(word)
    return " ".join(reversed(words))


def _errors(state: tuple[int, Any]) -> int:
    return state[0]


def _say(costs: list[tuple[int, Any]], word: str, said: list[str]) -> list[tuple[int, Any]]:
    """One more word of the transcript: a column of the edit distance."""
    column = [(costs[0][0] + 1, (costs[0][1], word))]
    for place, reference in enumerate(said):
        matched = (costs[place][0] + (word != reference), (costs[place][1], word))
        inserted = (costs[place + 1][0] + 1, (costs[place + 1][1], word))
        left_out = (column[-1][0] + 1, column[-1][1])
        column.append(min(matched, inserted, left_out, key=_errors))
    return column


def _lattice(hypothesis: str, plain: str, said: list[str]) -> tuple[int, dict[int, list[Reading]]]:
    """Every reading, by its first node; nodes lie between atoms (words, numbers) and between a number's digits."""
    chunks = fold(hypothesis).split()
    readings: dict[int, list[Reading]] = defaultdict(list)
    atoms: list[tuple[int, int, str, str]] = []  # first node, end node, text, ordinal suffix
    borders = [0]
    node = 0
    for chunk in chunks:
        for match in ATOM.finditer(chunk):
            text = (match[1] or match[0]).replace(",", "")
            size = len(text) if text[0].isdigit() else 1
            atoms.append((node, node + size, text, match[2] or ""))
            node += size
        borders.append(node)
    found = [Reading(0, node, tuple(plain.split()))]
    found += _runs(chunks, borders)
    spells = any(len(word) == 1 for word in said)
    for start, end, text, suffix in atoms:
        found += _number(start, text, suffix) if text[0].isdigit() else _word(start, end, text, spells)
    found += _joined(atoms, set(said))
    for reading in found:
        readings[reading.start].append(reading)
    return node, readings


def _runs(chunks: list[str], borders: list[int]) -> Iterator[Reading]:
    for first in range(len(chunks)):
        for last in range(first + 1, min(first + MAX_RUN, len(chunks)) + 1):
            if borders[last] > borders[first]:
                words = scoring_form(" ".join(chunks[first:last])).split()
                yield Reading(borders[first], borders[last], tuple(words))


def _word(start: int, end: int, text: str, spells: bool) -> Iterator[Reading]:
    yield Reading(start, end, (text,))
    if spells:
        yield Reading(start, end, tuple(text.replace("'", "")))
        if text == "okay":
            yield Reading(start, end, ("o", "k"))


def _number(start: int, digits: str, suffix: str) -> Iterator[Reading]:
    """Every cut of a string of digits into groups, each group in each of its readings."""
    size = len(digits)
    for first in range(size):
        for last in range(first + 1, min(first + 4, size) + 1):
            for words in _group(digits[first:last]):
                yield Reading(start + first, start + last, tuple(words.split()))
    if size <= MAX_CARDINAL_DIGITS:
        ways = [ordinal(int(digits))] if suffix else [cardinal(int(digits)), ordinal(int(digits))]
        for words in ways:
            yield Reading(start, start + size, tuple(words.split()))
            yield Reading(start, start + size, tuple(word for word in words.split() if word != "and"))


def _group(digits: str) -> Iterator[str]:
    if len(digits) == 1:
        yield DIGITS[int(digits)]
        if digits == "0":
            yield "oh"
            yield "o"
    elif digits[0] != "0":
        yield cardinal(int(digits))
        yield cardinal(int(digits)).replace(" and ", " ")
    elif set(digits) == {"0"} and len(digits) in (2, 3):
        yield {2: "hundred", 3: "thousand"}[len(digits)]


def _joined(atoms: list[tuple[int, int, str, str]], said: set[str]) -> Iterator[Reading]:
    for first in range(len(atoms)):
        joined = ""
        for last in range(first, min(first + MAX_JOIN, len(atoms))):
            joined += atoms[last][2]
            if last > first and joined in said:
                yield Reading(atoms[first][0], atoms[last][1], (joined,))
