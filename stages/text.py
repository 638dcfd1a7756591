"""Text as every stage sees it: spoken form, why a transcript cannot be used, and fair scoring. One place to import from."""

from __future__ import annotations

from stages.cascade import fair_cascade
from stages.spoken_form import (
    TEXT_VERSION,
    UNKNOWN,
    as_said,
    from_transcriber,
    language_code,
    normalise,
    problems_of,
    scoring_form,
)

__all__ = [
    "TEXT_VERSION",
    "UNKNOWN",
    "as_said",
    "fair_cascade",
    "from_transcriber",
    "language_code",
    "normalise",
    "problems_of",
    "scoring_form",
]
