"""Tables of recordings: CSV, TSV, JSONL, NeMo manifests and Common Voice."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.cohorts.sources.files import LINE_BYTES, Resolver, read_lines, user_of_name, user_of_path
from pipeline.cohorts.sources.row import Source, SourceRow
from stages.consent import make_consent
from stages.errors import InputError
from stages.shards import Problem

NAMES: dict[str, tuple[str, ...]] = {
    "file": ("file", "path", "audio", "audio_filepath", "filename", "file_name", "wav", "recording"),
    "user": ("user", "speaker", "speaker_id", "client_id", "user_id", "spk"),
    "text": ("text", "sentence", "transcript", "transcription", "normalized_text"),
    "start": ("start", "start_s", "offset"),
    "end": ("end", "end_s"),
    "duration": ("duration", "duration_s"),
    "language": ("language", "lang", "locale"),
    "consent": ("consent",),
    "consent_scope": ("consent_scope", "scope"),
    "consent_date": ("consent_date",),
    "id": ("id", "utterance", "utt_id", "utterance_id"),
}
"""What each column may be called, in the order of preference; case does not matter."""

YES, NO = ("granted", "yes", "true", "1", "y"), ("withheld", "no", "false", "0", "n")


class Columns:
    """Which column of a table is what."""

    def __init__(self, path: Path, header: list[str], chosen: Mapping[str, str]) -> None:
        """Raises InputError where ``chosen`` names what is not there, or where no column names the recording."""
        self.path, self.header = path, header
        by_lower = {name.strip().lower(): name for name in reversed(header)}
        self.of: dict[str, str] = {}
        for what, name in chosen.items():
            if what not in NAMES:
                raise InputError(f"--map {what}={name}: {what} is not known. Known: {', '.join(NAMES)}.")
            if name.strip().lower() not in by_lower:
                raise self._lacks([name])
            self.of[what] = by_lower[name.strip().lower()]
        for what, names in NAMES.items():
            found = [by_lower[name] for name in names if name in by_lower and by_lower[name] not in self.of.values()]
            if what not in self.of and found:
                self.of[what] = found[0]
        if "file" not in self.of:
            raise self._lacks([what for what in ("file", "user", "text") if what not in self.of])

    def _lacks(self, missing: list[str]) -> InputError:
        return InputError(
            f"{self.path}: lacks the column(s) {', '.join(missing)}, has {', '.join(self.header) or 'none'}. "
            "Needed: file,user,text, or say which column is what: --map file=NAME,user=NAME,text=NAME."
        )

    def need_user(self) -> InputError:
        """The error where nobody says who speaks."""
        return InputError(
            f"{self.path}: no column says who speaks (it has {', '.join(self.header)}). Name it with --map user=NAME, or take "
            "the user from the recording's folder (--user-from path) or name (--user-from name)."
        )

    def says(self) -> str:
        """Which column was taken for what, for a person."""
        return "columns: " + ", ".join(f"{what} = {name}" for what, name in self.of.items())

    def get(self, row: Mapping[str, Any], what: str) -> str:
        """A field as stripped text; empty where there is no such column or no value."""
        value = row.get(self.of.get(what, ""))
        return "" if value is None else str(value).strip()


def read_table(
    path: Path, audio: Path, user_from: str | None, chosen: Mapping[str, str], beside: tuple[Path, ...] = ()
) -> Source:
    """A table as a source. Raises InputError where the table as a whole cannot be used."""
    is_json = path.suffix.lower() in (".jsonl", ".json", ".ndjson") or _starts_with_brace(path)
    if is_json:
        first = next((row for _, row in _json_rows(path) if isinstance(row, dict)), None)
        if first is None:
            raise InputError(f"{path}: holds no JSON object. Needed: one a line, with the keys file, user and text.")
        columns = Columns(path, list(first), chosen)
        kind = "NeMo manifest" if "audio_filepath" in first else "JSONL"
    else:
        delimiter = _delimiter(path)
        columns = Columns(path, _header(path, delimiter), chosen)
        kind = {"\t": "TSV", ",": "CSV", ";": "CSV (semicolons)"}[delimiter]
        if {"client_id", "path", "sentence"} <= set(columns.header):
            kind = "Common Voice"
    user_from = user_from or ("column" if "user" in columns.of else "path")
    if user_from == "column" and "user" not in columns.of:
        raise columns.need_user()
    resolver = Resolver(audio, [path.parent, *beside])

    def rows() -> Iterator[tuple[int, Any]]:
        return _json_rows(path) if is_json else _csv_rows(path, delimiter)

    if user_from == "path" and "user" not in columns.of:
        _need_folders(rows(), columns, resolver)
    taken = {"column": f"the column {columns.of.get('user')}", "path": "the recording's folder", "name": "its name"}
    says = (str(path), columns.says(), f"users: {taken[user_from]}")
    return Source(kind, says, _rows(rows(), columns, resolver, user_from))


def _need_folders(rows: Iterator[tuple[int, Any]], columns: Columns, resolver: Resolver) -> None:
    """Raises InputError where recordings lie beside each other, so that their folder tells no users apart."""
    for _, row in rows:
        if isinstance(row, dict):
            try:
                found = resolver.find(columns.get(row, "file"))
            except InputError:
                continue
            if found.rpartition("/")[0] == resolver.root:
                raise columns.need_user()
            return


def _rows(
    rows: Iterator[tuple[int, Any]], columns: Columns, resolver: Resolver, user_from: str
) -> Iterator[SourceRow | Problem]:
    for line, row in rows:
        if isinstance(row, str):
            yield Problem(f"line {line}: (no file)", row)
            continue
        given = columns.get(row, "file")
        item = f"line {line}: {given[:300] or '(no file)'}"
        try:
            yield _row(item, given, row, columns, resolver, user_from)
        except InputError as error:
            yield Problem(item, str(error))


def _row(
    item: str,
    given: str,
    row: Mapping[Any, Any],
    columns: Columns,
    resolver: Resolver,
    user_from: str,
) -> SourceRow:
    if None in row:
        raise InputError("has more fields than the header. Put quotes around text that holds a comma.")
    if not given:
        raise InputError("names no file.")
    user = columns.get(row, "user") if user_from == "column" else ""
    if user_from == "column" and not user:
        raise InputError("names no user.")
    path = resolver.find(given)
    if user_from == "path":
        user = user_of_path(path)
    elif user_from == "name":
        user = user_of_name(path)
    start, end = _number(columns.get(row, "start"), "start"), _number(columns.get(row, "end"), "end")
    duration = _number(columns.get(row, "duration"), "duration")
    if start is not None and end is None and duration is not None:
        end = start + duration  # NeMo
    if start == 0 and end is None:
        start = None
    return SourceRow(
        item=item,
        path=path,
        user=user,
        text=columns.get(row, "text") or None,
        name=columns.get(row, "id") or None,
        start_s=start,
        end_s=end,
        consent=consent_of(*(columns.get(row, f"consent{part}") for part in ("", "_scope", "_date"))),
        language=columns.get(row, "language") or None,
    )


def consent_of(given: str, scope: str, date: str) -> dict[str, Any] | None:
    """A row's own consent; None where it says nothing. Raises InputError where it is not clear."""
    if not (given or scope or date):
        return None
    if given and given.lower() not in YES + NO:
        raise InputError(f"consent: {given!r}, needed granted or withheld.")
    return make_consent(given.lower() not in NO, scope.lower() or "all", date or None)


def _number(text: str, what: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e7:
        raise InputError(f"{what}: {text!r}, needed seconds from the recording's start.")
    return value


def _starts_with_brace(path: Path) -> bool:
    return next(iter(read_lines(path)), "").lstrip().startswith("{")


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, object), or (line number, why it is none)."""
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"not JSON ({error})."
            continue
        yield number, row if isinstance(row, dict) else f"holds {type(row).__name__}, needed an object."


def _delimiter(path: Path) -> str:
    """The one of tab, semicolon and comma that the header holds most."""
    header = next(iter(read_lines(path)), "")
    return max(("\t", ";", ","), key=lambda mark: (header.count(mark), mark == ","))


def _header(path: Path, delimiter: str) -> list[str]:
    rows = _cells(path, delimiter)
    _, first = next(rows, (1, []))
    if isinstance(first, str):
        raise InputError(f"{path}: not readable as a table ({first}) Save it as CSV with UTF-8.")
    if len(set(first)) != len(first):
        raise InputError(f"{path}: two columns have the same name: {', '.join(first)}.")
    return first


def _csv_rows(path: Path, delimiter: str) -> Iterator[tuple[int, Any]]:
    """(line number where it begins, {column: value}), or (line number, why it cannot be read)."""
    rows = _cells(path, delimiter)
    header = next(rows)[1]
    for line, cells in rows:
        if isinstance(cells, str):
            yield line, cells
        elif cells:
            row: dict[Any, Any] = dict(zip(header, cells, strict=False))
            if len(cells) > len(header):
                row[None] = cells[len(header) :]
            yield line, row


def _cells(path: Path, delimiter: str) -> Iterator[tuple[int, Any]]:
    previous = csv.field_size_limit(LINE_BYTES)
    try:
        # Common Voice writes quotes in a TSV as they are: there they may stand alone
        plain = delimiter == "\t" and not _quotes_balance(path)
        reader = csv.reader(
            read_lines(path), delimiter=delimiter, quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
        )
        line = 1
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, f"not readable as a line of the table ({error})."
            else:
                yield line, cells
            line = reader.line_num + 1
    finally:
        csv.field_size_limit(previous)


def _first_lines(path: Path, count: int) -> list[str]:
    found = []
    for line in read_lines(path):
        found.append(line)
        if len(found) == count:
            break
    return found


def _quotes_balance(path: Path) -> bool:
    """Whether fields that begin with a quote end with one, in the first thousand lines of a TSV."""
    cells = [cell.rstrip("\r\n") for line in _first_lines(path, 1000) for cell in line.split("\t")]
    return all(cell.endswith('"') and len(cell) > 1 for cell in cells if cell.startswith('"'))
