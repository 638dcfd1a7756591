"""Several teachers, one label: what they agree on is learned from, what they dispute is left alone.

Teachers that fail in different ways (a large decoder writes fluent sentences that nobody said, an adapter the words that it
knows) seldom make the same mistake: agreement says more than the confidence of either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stages.alignment.metrics import word_errors

WHISPER, ADAPTER = "whisper", "adapter"
"""The pipeline's teachers, as rules and reasons call them."""


@dataclass(frozen=True)
class Heard:
    """What one teacher heard in an utterance."""

    teacher: str
    text: str  # in spoken form, as ``stages.text.normalise`` writes it
    score: float  # its confidence, 0 to 1; teachers' scores are not compared with each other


@dataclass(frozen=True)
class AgreementRules:
    """When a text is good enough to learn from."""

    max_distance: float = 0.0
    """Share of words in which the teachers may differ: the word errors of one against the other, the larger way round."""
    min_scores: Mapping[str, float] = field(default_factory=dict)
    """By teacher: below it, that teacher has no say, and one that stands alone convinces nobody."""
    alone: Mapping[str, float] = field(default_factory=dict)
    """By teacher: from this score on its text is taken whatever others heard; absent: never."""


def distance(one: str, other: str) -> float:
    """Word errors of two texts against each other, over the words of the shorter one; 1 where one of them is empty."""
    if not one or not other:
        return float(one != other)
    return max(word_errors([one], [other]).wer, word_errors([other], [one]).wer)


def agreed(heard: Sequence[Heard], rules: AgreementRules) -> tuple[str | None, str]:
    """(the label, "") or (None, why there is none); ``heard`` in the order in which teachers are believed.

    All teachers that have a say must agree with the first of them, and there must be two.
    """
    for one in heard:
        if one.text and one.score >= rules.alone.get(one.teacher, 2.0):
            return one.text, ""
    asked = [one for one in heard if one.text and one.score >= rules.min_scores.get(one.teacher, 0.0)]
    if len(asked) < 2:
        unsure = ", ".join(f"{one.teacher} {one.score:.2f}" for one in heard) or "nobody heard it"
        return None, f"unsure: fewer than two teachers are sure enough ({unsure})"
    first, *others = asked
    for other in others:
        apart = distance(first.text, other.text)
        if apart > rules.max_distance:
            return None, f"disputed: {first.teacher} and {other.teacher} differ in {apart:.2f} of the words"
    return first.text, ""
