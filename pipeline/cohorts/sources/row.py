"""One recording as a source lists it, before anything was decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from stages.shards import Problem


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A recording, or a stretch of one. Plain strings: a million of them fit into memory."""

    item: str
    """What a person finds it by in the source: ``line 7: ann/1.wav``."""
    path: str
    """Absolute path of the file that holds the audio: it is inside the folder of recordings and is there."""
    user: str
    """Who speaks, as the source has it."""
    text: str | None = None
    name: str | None = None
    """The source's own id of the utterance; None: the file's name is used."""
    start_s: float | None = None
    end_s: float | None = None
    offset: int | None = None
    """Where in ``path`` the audio file's bytes begin (a member of a tar), with ``size`` bytes; None: the whole file."""
    size: int | None = None
    consent: dict[str, Any] | None = None
    """This row's own consent (see stages.consent); None: the cohort's."""
    language: str | None = None


@dataclass(frozen=True)
class Source:
    """A readable source: what it is, and its rows in its own order; bad ones come as Problem and the others go on."""

    kind: str
    """In a person's words: ``Kaldi data folder``, ``CSV``, ``folder of recordings without transcripts``."""
    says: tuple[str, ...]
    """What was found and taken for what, a line each: columns, where users come from, how many recordings."""
    rows: Iterator[SourceRow | Problem] = field(compare=False)
