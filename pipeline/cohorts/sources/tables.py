"""Tables of recordings: CSV, TSV and Common Voice, JSONL and NeMo manifests. Each is read line by line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from pipeline.cohorts.sources.fields import (
    COLUMNS,
    RowMaker,
    consent_of,
    match_columns,
    plain,
    printable,
    seconds,
    shown_names,
)
from pipeline.cohorts.sources.places import Places
from pipeline.cohorts.sources.row import Source, SourceRow
from pipeline.cohorts.sources.texts import Text, iter_lines, iter_records, read_text
from stages.errors import InputError
from stages.shards import Problem

KEYS_FROM = 1000  # lines of a JSONL file that are looked at for its keys
JSON_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})
DELIMITERS = {"\t": "tab", ";": "semicolon", ",": "comma"}

Values = tuple[int, "Sequence[Any] | str"]
"""(line, one value a wanted column, or why the line cannot be read)."""


@dataclass(frozen=True)
class Table:
    """A table whose header was read: which column is what."""

    text: Text
    kind: str
    header: list[str]
    columns: dict[str, str]
    delimiter: str = ""  # empty: JSONL
    quoted: bool = True

    @property
    def is_nemo(self) -> bool:
        """Whether it is a NeMo manifest: the stretch is then given by ``offset`` and ``duration``."""
        return self.kind == "NeMo manifest"

    def values(self, names: Sequence[str]) -> Iterator[Values]:
        """Each line's values of the columns ``names``."""
        return self._json_values(names) if not self.delimiter else self._cell_values(names)

    def _cell_values(self, names: Sequence[str]) -> Iterator[Values]:
        places = [self.header.index(name) for name in names]
        pick = itemgetter(*places) if len(places) > 1 else lambda fields: (fields[places[0]],)
        width = len(self.header)
        records = iter_records(self.text, self.delimiter, self.quoted)
        next(records)  # the header
        for line, fields in records:
            if isinstance(fields, str):
                yield line, fields
            elif len(fields) != width:
                more = "more" if len(fields) > width else "fewer"
                remedy = "Put quotes around text that holds a " + DELIMITERS[self.delimiter]
                yield (
                    line,
                    f"has {more} fields than the header ({len(fields)}, needed {width}). "
                    + (
                        f"{remedy}."
                        if more == "more"
                        else "Is the line cut off? Empty fields need their delimiter too."
                    ),
                )
            else:
                yield line, pick(fields)

    def _json_values(self, names: Sequence[str]) -> Iterator[Values]:
        for line, value in _objects(self.text):
            yield line, value if isinstance(value, str) else [value.get(name) for name in names]


def _objects(text: Text) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """A JSONL file's objects, or why a line holds none."""
    for line, content in iter_lines(text):
        if content is None:
            yield line, "is longer than a million characters. Is it JSON Lines, one object a line?"
            continue
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            yield line, f"is not JSON ({error}). Needed one object a line."
            continue
        yield line, value if isinstance(value, dict) else f"holds a {type(value).__name__}, needed one object a line."


def read_table(path: Path, columns: Mapping[str, str], name: str = "") -> Table:
    """Read a table's header. Raises InputError where it cannot be read, or no column names the recordings."""
    if path.suffix.lower() in JSON_SUFFIXES:
        return _json_table(read_text(path, "JSON Lines"), columns)
    text = read_text(path)
    first = next((content for _, content in iter_lines(text)), "") or ""
    if first.lstrip().startswith("{"):
        return _json_table(text, columns)
    return _cell_table(text, first, columns)


def _json_table(text: Text, columns: Mapping[str, str]) -> Table:
    objects = [value for _, value in islice(_objects(text), KEYS_FROM) if isinstance(value, dict)]
    if not objects:
        raise InputError(f"{text.path}: holds no JSON object in its first lines. Needed one a line, as in JSON Lines.")
    keys = list(dict.fromkeys(key for value in objects for key in value))
    nemo = "audio_filepath" in keys and "duration" in keys
    known = {**COLUMNS, "file": ("audio_filepath",), "start": ("offset",), "end": ()} if nemo else COLUMNS
    return Table(text, "NeMo manifest" if nemo else "JSON Lines", keys, _match(text.path, keys, columns, known))


def _cell_table(text: Text, first: str, columns: Mapping[str, str]) -> Table:
    headers = {delimiter: _header(first, delimiter) for delimiter in DELIMITERS}
    delimiter = max(DELIMITERS, key=lambda delimiter: (len(headers[delimiter]), delimiter == ","))
    header = headers[delimiter]
    voice = delimiter == "\t" and {"client_id", "path", "sentence"} <= set(header)
    kind = "Common Voice table" if voice else "TSV" if delimiter == "\t" else "CSV"
    # Common Voice writes a quote as it is: one that opens a sentence would swallow the lines after it
    return Table(text, kind, header, _match(text.path, header, columns, COLUMNS), delimiter, quoted=not voice)


def _header(first: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
    except csv.Error:
        return []


def _match(
    path: Path, found: list[str], columns: Mapping[str, str], known: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    try:
        matched = match_columns(found, columns, known)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if "file" not in matched:
        missing = [field for field in ("file", "user", "text") if field not in matched]
        raise InputError(
            f"{path}: lacks the column(s) {', '.join(missing)}, has {shown_names(found)}. Needed: file, and user and text "
            "where they are known. Say which is which with --map file=NAME,user=NAME,text=NAME."
        )
    return matched


def table_source(table: Table, audio: Path, user_from: str | None) -> Source:
    """The rows of a table. Raises InputError where it does not say who speaks and the folders do not either."""
    folder = table.text.path.parent
    places = Places(audio, [path for path in (audio / "clips", folder, folder / "clips") if path.is_dir()])
    users, told = _users(table, places, user_from)
    return Source(table.kind, _says(table, told), _rows(table, RowMaker(places, users)))


def _users(table: Table, places: Places, user_from: str | None) -> tuple[str, str]:
    """Where users come from, and that in words."""
    column = table.columns.get("user")
    if user_from is None and column is None and _all_in_subfolders(table, places):
        return "path", "users: no column names them, so each recording's folder does"
    if (user_from or "column") == "column":
        if column is None:
            raise InputError(
                f"{table.text.path}: lacks the column(s) user, has {shown_names(table.header)}. Say which it is with "
                "--map user=NAME, or take users from the recordings' folders (--user-from path) or from their names up to "
                "the first - or _ (--user-from name)."
            )
        return "column", f"users: column {printable(column, 60)}"
    return str(user_from), _user_words(str(user_from))


def _user_words(user_from: str) -> str:
    return (
        "users: the name of each recording's folder"
        if user_from == "path"
        else "users: each recording's name up to its first - or _"
    )


def _all_in_subfolders(table: Table, places: Places) -> bool:
    """Whether every recording of the table lies in a folder of its own below ``audio``."""
    any_file = False
    for _, values in table.values([table.columns["file"]]):
        file = values[0] if not isinstance(values, str) else ""
        if isinstance(file, str) and file.strip():
            any_file = True
            if not places.in_subfolder(file.strip()):
                return False
    return any_file


def _says(table: Table, users: str) -> tuple[str, ...]:
    delimiter = f", separated by {DELIMITERS[table.delimiter]}s" if table.delimiter else ""
    taken = ", ".join(
        f"{field.replace('_', ' ')} from {printable(name, 60)}"
        for field, name in table.columns.items()
        if field != "user"
    )
    spare = [name for name in table.header if name not in table.columns.values()]
    lines = [f"{table.text.path}: {table.text.lines} lines{delimiter}", f"columns: {taken}", users]
    if "text" not in table.columns:
        lines.append("no column holds a transcript (--map text=NAME names one): the recordings go in without")
    if spare:
        lines.append(f"not used: {shown_names(spare)}")
    return tuple(lines)


def _rows(table: Table, maker: RowMaker) -> Iterator[SourceRow | Problem]:
    fields = [field for field in table.columns if field != "user" or maker.user_from == "column"]
    names = [table.columns[field] for field in fields]
    file = fields.index("file")
    if table.is_nemo and "duration" not in names and "start" in fields:
        fields.append("duration")
        names.append("duration")
    consents = any(field.startswith("consent") for field in fields)
    # cells are text, and checked already; what JSON holds may be anything
    cell = table.delimiter != ""
    readers = [str.strip if cell and field in _TEXTS else _READERS[field] for field in fields]
    for line, values in table.values(names):
        if isinstance(values, str):
            yield Problem(f"line {line}: (no file)", values)
            continue
        item = f"line {line}: {_shown_file(values[file])}"
        try:
            # only the columns that are there: a million rows times ten fields count
            given = {field: read(value) for field, read, value in zip(fields, readers, values, strict=True)}
            own = _consent(given) if consents else None
            yield _row(item, given, own, maker)
        except InputError as error:
            yield Problem(item, str(error))


def _shown_file(value: Any) -> str:
    return printable(value.strip()) or "(no file)" if isinstance(value, str) else "(no file)"


_TEXTS = ("file", "user", "text", "id", "language")
_READERS: dict[str, Callable[[Any], Any]] = {
    **{field: partial(plain, what=field) for field in _TEXTS},
    **{field: partial(seconds, what=field) for field in ("start", "end", "duration")},
    **dict.fromkeys(("consent", "consent_scope", "consent_date"), lambda value: value),
}


def _consent(given: dict[str, Any]) -> dict[str, Any] | None:
    return consent_of(given.get("consent"), given.get("consent_scope"), given.get("consent_date"))


def _row(item: str, given: dict[str, Any], consent: dict[str, Any] | None, maker: RowMaker) -> SourceRow:
    get = given.get
    start, end, duration = get("start"), get("end"), get("duration")
    if start is not None and duration is not None:
        end = start + duration
    return maker.make(
        item, given["file"], get("user", ""), get("text", ""), get("id", ""), start, end, consent, get("language", "")
    )
