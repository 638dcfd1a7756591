"""Several teachers, one label: what they agree on is learned from, what they dispute is left alone.

Teachers that fail in different ways (a large decoder writes fluent sentences that nobody said, an adapter the words that it
knows) seldom make the same mistake: agreement says more than the confidence of either.

A transcriber writes "HPGL 77" or "1-5-01-5": how it was said is open, so the reading that is nearest to what the other
teacher heard counts. And an adapter can only write words that it was taught: where many users say a word that it cannot
spell, the transcriber's word stands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from stages.alignment.metrics import word_errors
from stages.text import UNKNOWN, fair_cascade
from stages.words import align

WHISPER, ADAPTER = "whisper", "adapter"
"""The pipeline's teachers, as rules and reasons call them."""


@dataclass(frozen=True)
class Heard:
    """What one teacher heard in an utterance."""

    teacher: str
    text: str  # in spoken form, as ``stages.text.normalise`` writes it
    score: float  # its confidence, 0 to 1; teachers' scores are not compared with each other
    written: str = ""  # as the teacher wrote it, where that can be read aloud in several ways; empty: as in ``text``
    language: str = UNKNOWN  # of what was said: it tells how a number that was written is read aloud

    def read_like(self, other: Heard) -> str:
        """The reading of what was written that is nearest to what another teacher heard."""
        return fair_cascade(other.text, self.written, self.language) if self.written and self.text else self.text


@dataclass(frozen=True)
class AgreementRules:
    """When a text is good enough to learn from."""

    max_distance: float = 0.0
    """Share of words in which the teachers may differ: the word errors of one against the other, the larger way round."""
    min_scores: Mapping[str, float] = field(default_factory=dict)
    """By teacher: below it, that teacher has no say, and one that stands alone convinces nobody."""
    alone: Mapping[str, float] = field(default_factory=dict)
    """By teacher: from this score on its text is taken where the teachers do not agree; absent: never."""
    unknown: Collection[str] = frozenset()
    """Words that only the first teacher knows. A stretch half of which they are is no dispute, where the other one heard no
    more words there; see ``unknown_words``."""


def distance(one: str, other: str) -> float:
    """Word errors of two texts against each other, over the words of the shorter one; 1 where one of them is empty."""
    if not one or not other:
        return float(one != other)
    return max(word_errors([one], [other]).wer, word_errors([other], [one]).wer)


def agreed(heard: Sequence[Heard], rules: AgreementRules) -> tuple[str | None, str]:
    """(the label, "") or (None, why there is none); ``heard`` in the order in which teachers are believed.

    All teachers that have a say must agree with the first of them, and there must be two; else one that may is believed alone.
    """
    asked = [one for one in heard if one.text and one.score >= rules.min_scores.get(one.teacher, 0.0)]
    if len(asked) > 1:
        label, why = _together(asked[0], asked[1:], rules)
    else:
        unsure = ", ".join(f"{one.teacher} {one.score:.2f}" for one in heard) or "nobody heard it"
        label, why = None, f"unsure: fewer than two teachers are sure enough ({unsure})"
    for one in heard:
        if label is None and one.text and one.score >= rules.alone.get(one.teacher, 2.0):
            return one.text, ""
    return label, why


def _together(first: Heard, others: Sequence[Heard], rules: AgreementRules) -> tuple[str | None, str]:
    for other in others:
        reading = first.read_like(other)
        apart = distance(reading, other.text)
        if apart > rules.max_distance and any(_disputed(said, rules) for said in disputes(reading, other.text)):
            return None, f"disputed: {first.teacher} and {other.teacher} differ in {apart:.2f} of the words"
    reading = first.read_like(others[0])
    return (reading if distance(first.text, reading) else first.text), ""


def _disputed(stretch: tuple[Sequence[str], Sequence[str]], rules: AgreementRules) -> bool:
    said, heard = stretch
    # half: "rub out" stands although "out" is known, and another number that follows it at once does not. And one word that
    # nobody taught the adapter makes it write another one, not a sentence
    return len(heard) > len(said) or 2 * sum(word in rules.unknown for word in said) < len(said)


def disputes(one: str, other: str) -> list[tuple[list[str], list[str]]]:
    """The stretches in which two texts differ: the words of each there, none where only the other one has words."""
    [pairs] = align([one], [other])
    found: list[tuple[list[str], list[str]]] = []
    differed = False
    for said, heard in pairs:
        if said != heard:
            if not differed:
                found.append(([], []))
            found[-1][0].extend([said] if said else [])
            found[-1][1].extend([heard] if heard else [])
        differed = said != heard
    return found


def unknown_words(
    pairs: Iterable[tuple[str, Heard, Heard]], known: Callable[[str], bool], users: int
) -> frozenset[str]:
    """Words that the first teacher heard from at least so many users where the second, which does not know them, heard others.

    ``pairs``: (user, first, second) of each utterance. One user's mishearing is of that voice; many users' is a word. A word
    that stands in the reading alone, as "tv" for "t v", is none: no label has it in that form.
    """
    by_word: dict[str, set[str]] = defaultdict(set)
    for user, first, second in pairs:
        if first.text and second.text:
            own = first.text.split()
            for said, _ in disputes(first.read_like(second), second.text):
                for word in said:
                    if word in own:
                        by_word[word].add(user)
    return frozenset(word for word, heard in by_word.items() if len(heard) >= users and not known(word))
