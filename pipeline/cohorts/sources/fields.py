"""What a source says about a recording, field by field, checked and made into a row."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pipeline.cohorts.sources.places import Places, is_text
from pipeline.cohorts.sources.row import SourceRow
from stages.consent import consent_problem, make_consent
from stages.errors import InputError

USER_FROM = ("column", "path", "name")

COLUMNS: dict[str, tuple[str, ...]] = {
    "file": ("file", "path", "audio", "filename", "file_name", "wav", "audio_filepath", "audio_path", "audio_file"),
    "user": ("user", "speaker", "speaker_id", "client_id", "user_id", "spk", "spk_id", "speaker_name"),
    "text": ("text", "sentence", "transcript", "transcription"),
    "id": ("id", "utterance_id", "utt_id"),
    "start": ("start", "start_s", "start_time"),
    "end": ("end", "end_s", "end_time"),
    "language": ("language", "lang", "locale"),
    "consent": ("consent",),
    "consent_scope": ("consent_scope",),
    "consent_date": ("consent_date",),
}
"""What each field is commonly called, the likelier name first. Case does not matter, nor blanks and hyphens for ``_``."""

_GRANTED = {"granted", "yes", "true", "1"}
_WITHHELD = {"withheld", "no", "false", "0"}


def canonical(name: str) -> str:
    """A column's name as it is compared."""
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def match_columns(found: list[str], chosen: Mapping[str, str], known: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Which of the names ``found`` each field is: as ``chosen`` says, else by the names ``known``.

    Raises InputError where ``chosen`` names a field or a column that there is not, or where a column is there twice.
    """
    by_name: dict[str, str] = {}
    twice: set[str] = set()
    for name in found:
        if by_name.setdefault(canonical(name), name) != name or found.count(name) > 1:
            twice.add(canonical(name))
    columns: dict[str, str] = {}
    for field, name in chosen.items():
        if field not in COLUMNS:
            raise InputError(f"--map {field}={name}: {field} is no field. Fields: {', '.join(COLUMNS)}.")
        if canonical(name) not in by_name:
            raise InputError(f"lacks the column(s) {name}, has {shown_names(found)}. Correct --map {field}={name}.")
        columns[field] = by_name[canonical(name)]
    taken = set(columns.values())
    for field, names in known.items():
        if field not in columns:
            match = next((by_name[name] for name in names if name in by_name and by_name[name] not in taken), None)
            if match is not None:
                columns[field] = match
                taken.add(match)
    for field, name in columns.items():
        if canonical(name) in twice:
            raise InputError(f"has the column {name} twice, wanted for the {field}. Rename one.")
    return columns


def shown_names(names: list[str], most: int = 20) -> str:
    """Column names for a message."""
    if not names:
        return "none"
    shown = ", ".join(printable(name, 60) or '""' for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def printable(text: str, most: int = 400) -> str:
    """``text`` as it may stand in a report and on a terminal: no control characters, no surrogates, not endless."""
    if len(text) > most:
        text = f"{text[: most - 1]}…"
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def plain(value: Any, what: str) -> str:
    """A field's value as stripped text; empty where it is None. Raises InputError for what is neither text nor number."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise InputError(f"its {what} is {_json_kind(value)}, needed text.")
    if not isinstance(value, str):
        return str(value)
    if "\0" in value or not (value.isascii() or is_text(value)):
        raise InputError(f"its {what} holds characters that are no text (NUL or half of a UTF-16 pair).")
    return value.strip()


def _json_kind(value: Any) -> str:
    return {bool: "true or false", list: "a list", dict: "an object"}.get(type(value), type(value).__name__)


def seconds(value: Any, what: str) -> float | None:
    """A time in seconds, None where it is empty. Raises InputError for what is no number of 0 or more."""
    given = plain(value, what)
    if not given:
        return None
    try:
        number = float(given.replace(",", "."))
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise InputError(
            f"its {what} is {printable(given, 60)!r}, needed seconds from the recording's beginning, 0 or more."
        )
    return number


def consent_of(value: Any, scope: Any = None, date: Any = None) -> dict[str, Any] | None:
    """A row's own consent; None where it says nothing. Raises InputError where it is not clear what was granted.

    ``value`` is a word, or an object as shards hold it. The dicts are shared between rows: do not change them.
    """
    if isinstance(value, dict):
        return _given_object(value)
    if isinstance(value, bool):
        value = "yes" if value else "no"
    return _consent(plain(value, "consent"), plain(scope, "consent scope"), plain(date, "consent date"))


@lru_cache(maxsize=4096)
def _consent(word: str, scope: str, date: str) -> dict[str, Any] | None:
    if not word:
        if scope or date:
            raise InputError("gives a scope or a date of consent, but not whether it was granted. Fill in its consent.")
        return None
    return _make(_granted(word), scope, date)


def _granted(word: str) -> bool:
    if word.casefold() in _GRANTED:
        return True
    if word.casefold() in _WITHHELD:
        return False
    raise InputError(
        f"its consent is {printable(word, 60)!r}, needed granted, yes, true or 1, or withheld, no, false or 0."
    )


def _make(granted: bool, scope: str, date: str) -> dict[str, Any]:
    try:
        return make_consent(granted, scope.casefold() or "all", date or None)
    except InputError as error:
        raise InputError(f"its {error}.") from error


def _given_object(given: dict[str, Any]) -> dict[str, Any]:
    """A consent as an object; keys that are not ours (who asked, under which terms) are kept."""
    granted = given.get("granted", given.get("status"))
    if not isinstance(granted, bool):
        granted = _granted(plain(granted, "consent"))
    consent = {**given, **_make(granted, plain(given.get("scope"), "scope"), plain(given.get("date"), "date"))}
    problem = consent_problem(consent)
    if problem:
        raise InputError(f"its {problem}.")
    return consent


def user_of_name(path: str) -> str:
    """A recording's user by its name: up to the first ``-`` or ``_``, the whole stem where there is none; may be blank."""
    name = path.rpartition("/")[2]
    stem = name.rpartition(".")[0] or name
    return stem.replace("_", "-").partition("-")[0].strip() or stem.strip()


class RowMaker:
    """Makes rows of what a source says; ``user_from`` is one of USER_FROM."""

    def __init__(self, places: Places, user_from: str) -> None:
        self.places = places
        self.user_from = user_from

    def make(
        self,
        item: str,
        file: str,
        user: str = "",
        text: str = "",
        name: str = "",
        start_s: float | None = None,
        end_s: float | None = None,
        consent: dict[str, Any] | None = None,
        language: str = "",
    ) -> SourceRow:
        """A row of stripped fields; empty ones are absent. Raises InputError with what a person has to do."""
        if not file:
            raise InputError("names no file.")
        if self.user_from == "column" and not user:
            raise InputError("names no user.")
        if end_s is not None and end_s <= (start_s or 0.0):
            raise InputError(f"ends at {end_s:g} s, before it starts (at {start_s or 0.0:g} s).")
        path = self.places.find(file)
        if self.user_from == "path":
            user = self.places.parent_name(file).strip()
        elif self.user_from == "name":
            user = user_of_name(file)
        if not user:
            raise InputError("names no user.")
        return SourceRow(
            item=item,
            path=path,
            user=sys.intern(user),
            text=text or None,
            name=name or None,
            start_s=start_s,
            end_s=end_s,
            consent=consent,
            language=sys.intern(language) if language else None,
        )
