"""What is to become of a source's rows: safe names, usable texts, nothing twice, whatever order the source has."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pipeline.cohorts.sources.row import SourceRow
from stages.atomic import sha256_bytes, sha256_json
from stages.consent import refusal
from stages.errors import InputError
from stages.shards import MAX_ITEMS, Problem
from stages.text import problems_of

MAX_NAME = 120  # an utterance id or user may have 128 characters


@dataclass(frozen=True, slots=True)
class Row:
    """One recording (or a stretch of one) that will be converted. Plain strings and numbers: it may travel to any node."""

    utterance: str
    user: str
    text: str | None
    language: str
    consent: dict[str, Any]
    item: str
    path: str
    start_s: float | None = None
    end_s: float | None = None
    offset: int | None = None
    size: int | None = None


@dataclass
class Plan:
    """The rows in ascending order of their utterance ids, what was set aside, and each user's name in the source."""

    rows: list[Row]
    problems: list[Problem]
    called: dict[str, str]

    def chunks(self) -> Iterator[list[Row]]:
        """The rows in runs that become a shard each (or more, where long recordings are cut up)."""
        rows = iter(self.rows)
        while chunk := list(islice(rows, MAX_ITEMS)):
            yield chunk


@dataclass
class Taken:
    """Names that are in use already in a cohort that grows."""

    utterances: frozenset[str] = frozenset()
    called: Mapping[str, str] = field(default_factory=dict)  # user: name in the source


def plan_rows(
    rows: Iterable[SourceRow | Problem],
    language: str,
    consent: dict[str, Any],
    *,
    root: str = "",
    taken: Taken | None = None,
    advance: Callable[[int], None] | None = None,
) -> Plan:
    """Check and name every row; ``root`` is the folder of recordings, so that names do not depend on where it lies.

    The same rows give the same names in whatever order they come.
    """
    taken = taken or Taken()
    problems: list[Problem] = []
    good: list[SourceRow] = []
    places: set[tuple[str, float | None, int | None]] = set()
    for row in rows:
        if advance:
            advance(1)
        if isinstance(row, Problem):
            problems.append(row)
            continue
        place = (row.path, row.start_s, row.offset)
        reason = _text_problem(row, language)
        if not reason and place in places:
            reason = "the recording is listed twice. Keep one line."
        if reason:
            problems.append(Problem(row.item, reason))
            continue
        places.add(place)
        good.append(row)
    users = _user_names({row.user for row in good}, taken.called)
    named = _utterance_names(good, users, taken.utterances, root)
    made = [
        Row(
            utterance=name,
            user=users[row.user],
            text=row.text,
            language=row.language or language,
            consent=row.consent or consent,
            item=row.item,
            path=row.path,
            start_s=row.start_s,
            end_s=row.end_s,
            offset=row.offset,
            size=row.size,
        )
        for row, name in zip(good, named, strict=True)
    ]
    made.sort(key=lambda row: row.utterance)
    return Plan(made, problems, {slug: name for name, slug in users.items()})


def _text_problem(row: SourceRow, language: str) -> str:
    """Why a transcript cannot be used; empty where it can, or where there is none."""
    if row.text is None:
        return ""
    try:
        reason = problems_of(row.text, row.language or language)
    except ValueError as error:
        return str(error)
    if reason and reason.startswith("too long"):
        return ""  # may be that of a long recording, which is cut up and goes in without it: convert.py decides
    return f"its transcript cannot be used: {reason}" if reason else ""


def _user_names(given: set[str], known: Mapping[str, str]) -> dict[str, str]:
    """A safe name for every user; two people never share one, however alike their names are once cleaned."""
    users = {name: slug for slug, name in known.items()}
    new = sorted(given - set(users))
    wanted = Counter(slug_of(name) for name in new)
    for name in new:
        clean = slug_of(name)
        # of several who clean to the same, only the one who is called exactly that keeps it
        if clean in known or (wanted[clean] > 1 and clean != name):
            clean = f"{clean[:100]}-{sha256_bytes(name.encode())[:8]}"
        users[name] = clean
    return users


def _utterance_names(rows: list[SourceRow], users: Mapping[str, str], taken: frozenset[str], root: str) -> list[str]:
    """An id for every row: the file's own name; with the user's before it where that is not enough, else with a hash."""
    names = [slug_of(row.name or row.path.rpartition("/")[2].rsplit(".", 1)[0]) for row in rows]
    for lengthen in (_with_user, _with_hash):
        counts = Counter(names)
        names = [
            lengthen(row, users[row.user], name, root) if counts[name] > 1 or name in taken else name
            for row, name in zip(rows, names, strict=True)
        ]
    return names


def _with_user(row: SourceRow, user: str, name: str, root: str) -> str:
    return name if name.startswith(user) else f"{user[:60]}-{name[:60]}"


def _with_hash(row: SourceRow, user: str, name: str, root: str) -> str:
    place = [os.path.relpath(row.path, root or "/"), row.start_s, row.name if row.offset is not None else None]
    return f"{name[:100]}-{sha256_json(place)[:8]}"


def slug_of(given: str) -> str:
    """``given`` as a name of letters, digits, _ and -, at most MAX_NAME long; a hash where nothing of it is left."""
    text = unicodedata.normalize("NFKD", given)
    text = re.sub(r"[^A-Za-z0-9_-]+", "-", "".join(mark for mark in text if not unicodedata.combining(mark)))
    text = (
        re.sub(r"--+", "-", text).strip("-_")[:MAX_NAME].rstrip("-")
    )  # "--" is kept for the pieces of a long recording
    return text or f"x{sha256_bytes(given.encode('utf-8', 'surrogateescape'))[:8]}"


def withheld(plan: Plan) -> int:
    """How many of the rows may train nothing."""
    return sum(bool(refusal(row.consent, "personal")) for row in plan.rows)


def check_language(language: str) -> None:
    """Raises InputError for a language that transcripts cannot be checked in."""
    try:
        problems_of("a", language)
    except ValueError as error:
        raise InputError(str(error)) from error
