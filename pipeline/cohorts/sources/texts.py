"""Text files that people have: their encoding, their lines, and the records of CSV and TSV, one in memory at a time."""

from __future__ import annotations

import codecs
import csv
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from stages.errors import InputError

MAX_RECORD = 1_000_000
"""Characters of a line, or of a CSV record over several lines; more is damage (csv's own limit of a field is 131,072)."""

REREAD = 64_000_000
"""Characters that are read a second time, in all, to save the lines that an unclosed quote has swallowed."""

Record = tuple[int, "list[str] | str"]
"""(number of the line it begins on, its fields, or the reason why it cannot be read)."""

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_NO_TEXT = {
    b"PK\x03\x04": "an Excel or ZIP file",
    b"\xd0\xcf\x11\xe0": "an Excel file",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "a gzip file",
    b"SQLite format 3": "a SQLite file",
}


@dataclass(frozen=True)
class Text:
    """A text file that was read through once: it can be decoded and holds no NUL."""

    path: Path
    encoding: str
    lines: int

    @contextmanager
    def open(self) -> Iterator[TextIO]:
        """The text, line ends as they are. Raises InputError where the file has gone or changed meanwhile."""
        try:
            with self.path.open(encoding=self.encoding, newline="") as file:
                yield file
        except (OSError, UnicodeError) as error:
            raise InputError(f"{self.path}: cannot be read any more ({error}). Leave it alone meanwhile.") from error


def read_text(path: Path, what: str = "CSV") -> Text:
    """Check a text file's encoding: UTF-8 with or without BOM, or UTF-16 with one.

    Raises InputError where it cannot be opened, is in another encoding, or holds NUL bytes. Its content is not kept.
    """
    advice = f"Save it as {what} with UTF-8."
    try:
        with path.open("rb") as file:
            start = file.read(16)
            for mark, kind in _NO_TEXT.items():
                if start.startswith(mark):
                    raise InputError(f"{path}: is {kind}, no text. {advice}")
            encoding = next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")
            if encoding == "utf-32":
                raise InputError(f"{path}: UTF-32 text. {advice}")
            decoder = codecs.getincrementaldecoder(encoding)()
            file.seek(0)
            lines, last = 0, "\n"
            while piece := file.read(1 << 20):
                text = decoder.decode(piece)
                if "\0" in text:
                    raise InputError(f"{path}: holds NUL bytes: no {what}. {advice}")
                lines += text.count("\n")
                last = text[-1:] or last
            decoder.decode(b"", final=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}). Give the {what} with --transcripts.") from error
    except UnicodeError as error:
        raise InputError(f"{path}: not {encoding} text ({error}). {advice}") from error
    return Text(path, encoding, lines + (last != "\n"))


def iter_lines(text: Text) -> Iterator[tuple[int, str | None]]:
    """(number from 1, line without its end); None for a line of more than MAX_RECORD characters. Blank lines are left out."""
    with text.open() as file:
        number = 0
        while line := file.readline(MAX_RECORD + 1):
            number += 1
            if len(line) > MAX_RECORD:
                _skip_rest(file, line)
                yield number, None
            elif not line.isspace():
                yield number, line.rstrip("\r\n")


def iter_records(text: Text, delimiter: str, quoted: bool = True) -> Iterator[Record]:
    """The records of a CSV or TSV. One that cannot be read comes with its reason; the lines after it are read again."""
    with text.open() as file:
        feed = _Feed(file)
        csv.field_size_limit(2 * MAX_RECORD)  # of the whole process; the feed's own limit is what counts
        reader = csv.reader(
            feed, delimiter=delimiter, strict=quoted, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
        )
        while True:
            feed.begin()
            line = feed.number + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except (csv.Error, _TooLongError) as error:
                first, swallowed = feed.taken[0], len(feed.taken) - 1
                if feed.give_back():
                    swallowed = 0
                alone = _unquoted(first, delimiter) if delimiter == "\t" and not swallowed else None
                yield line, alone or _reason(error, swallowed)
                continue
            if (
                len(feed.taken) > 1
                and delimiter == "\t"
                and any("\t" in field for field in fields)
                and feed.give_back()
            ):
                # a tab and a line end in one field of a TSV: its quote was meant as a quote
                fields = _unquoted(feed.taken[0], delimiter) or fields
            if fields:
                yield line, fields


class _TooLongError(Exception):
    """A line or a record is longer than MAX_RECORD."""


class _Feed:
    """Hands lines to csv.reader, remembers those of the record at hand, and can take all but its first back."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._held: deque[str] = deque()
        self._size = 0
        self._budget = REREAD
        self.taken: list[str] = []
        self.number = 0  # lines handed out

    def begin(self) -> None:
        self.taken = []
        self._size = 0

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = self._held.popleft() if self._held else self._file.readline(MAX_RECORD + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.taken.append(line)
        self._size += len(line)
        if self._size > MAX_RECORD:
            if len(line) > MAX_RECORD:
                _skip_rest(self._file, line)
                del self.taken[1:]  # cannot be given back: it is not all there
            raise _TooLongError(f"longer than {MAX_RECORD} characters")
        return line

    def give_back(self) -> bool:
        """Take back what came after the record's first line; False where that was done too often already."""
        rest = self.taken[1:]
        size = sum(map(len, rest))
        if size > self._budget:
            return False
        self._budget -= size
        self._held.extendleft(reversed(rest))
        self.number -= len(rest)
        return True


def _skip_rest(file: TextIO, line: str) -> None:
    while line and line[-1] not in "\r\n":
        line = file.readline(MAX_RECORD)


def _unquoted(line: str, delimiter: str) -> list[str]:
    return line.rstrip("\r\n").split(delimiter)


def _reason(error: Exception, swallowed: int) -> str:
    lost = f" The {swallowed} line(s) after it are lost with it." if swallowed else ""
    return (
        f"cannot be read ({error}). Put quotes around text that holds the delimiter or a line end, and double the quotes "
        f"inside it.{lost}"
    )
