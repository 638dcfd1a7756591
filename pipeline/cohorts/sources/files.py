"""Files of a source: where a recording that a table names really is, and text in the encodings that people have."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from stages.errors import InputError

AUDIO_SUFFIXES = frozenset(
    "wav flac mp3 ogg oga opus m4a aac aiff aif aifc wma webm mp4 caf au w64 amr 3gp mka".split()
)
"""What a folder is searched for. A table may name any file: its content decides."""

LINE_BYTES = 1_000_000  # a longer line is no line of a table


class Resolver:
    """Finds the files that rows name, inside one folder. Quick for a million rows: a folder is resolved once."""

    def __init__(self, audio: Path, beside: Sequence[Path] = ()) -> None:
        """``audio`` is the folder of recordings; a relative path is tried there, then in each folder ``beside``."""
        self.root = os.path.realpath(audio)
        self.audio = audio
        self.bases = list(dict.fromkeys([self.root, *(os.path.realpath(folder) for folder in beside)]))
        self._folders: dict[str, str] = {}

    def find(self, given: str) -> str:
        """The absolute path of the recording that a row calls ``given``.

        Raises InputError where it lies outside the folder, is not there, or is no plain file.
        """
        if "\0" in given:
            raise InputError("its path cannot be used (it holds a NUL byte).")
        outside = False
        for base in self.bases:
            path = os.path.join(base, given)  # noqa: PTH118  (a million times: pathlib takes ten times as long)
            real = self._real(path)
            if not self._is_inside(real):
                outside = True
                continue
            try:
                if stat.S_ISREG(os.stat(real).st_mode):  # noqa: PTH116
                    return real
            except (OSError, ValueError):
                continue
        if outside and not self._is_inside(self._real(os.path.join(self.root, given))):  # noqa: PTH118
            raise InputError(f"its path leaves the folder {self.audio}. Give the folder that holds it with --audio.")
        raise InputError(f"no such file in {self.audio}.")

    def _is_inside(self, real: str) -> bool:
        return real.startswith(self.root + os.sep)

    def _real(self, path: str) -> str:
        """``os.path.realpath`` with the folder's part remembered."""
        folder, _, name = path.rpartition("/")
        real = self._folders.get(folder)
        if real is None:
            real = self._folders[folder] = os.path.realpath(folder or "/")
        if name in ("", ".", ".."):
            return os.path.realpath(path)
        joined = f"{real.rstrip('/')}/{name}"
        try:
            return os.path.realpath(joined) if os.path.islink(joined) else joined  # noqa: PTH114
        except (OSError, ValueError):
            return joined


def open_text(path: Path) -> TextIO:
    """Open a table or list: UTF-8 with or without BOM, or UTF-16 with BOM. Raises InputError for anything else."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
        encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        return io.TextIOWrapper(path.open("rb"), encoding=encoding, newline="")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be opened ({error.strerror}). Give the transcripts with --transcripts."
        ) from error


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text, without their ends, one in memory at a time.

    Raises InputError where it is no text: in another encoding, or with NUL bytes.
    """
    with open_text(path) as file:
        try:
            for line in iter(lambda: file.readline(LINE_BYTES), ""):
                if "\0" in line:
                    raise InputError(f"{path}: holds NUL bytes: no text. Save it with UTF-8.")
                yield line
        except UnicodeError as error:
            encoding = "utf-16" if "utf-16" in (file.encoding or "") else "utf-8"
            raise InputError(f"{path}: not {encoding} text ({error}). Save it with UTF-8.") from error


def recordings_in(folder: Path) -> Iterator[str]:
    """Paths, relative to ``folder`` and sorted, of the recordings below it; hidden files are left out."""
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        inside = os.path.relpath(here, folder)
        for name in sorted(names):
            if not name.startswith(".") and name.rpartition(".")[2].lower() in AUDIO_SUFFIXES:
                yield name if inside == "." else f"{inside}/{name}"


def user_of_path(path: str) -> str:
    """The name of the folder that a recording lies in."""
    return path.rpartition("/")[0].rpartition("/")[2]


def user_of_name(path: str) -> str:
    """A recording's name up to its first - or _."""
    stem = path.rpartition("/")[2].rpartition(".")[0] or path.rpartition("/")[2]
    cut = min((place for place in (stem.find("-"), stem.find("_")) if place > 0), default=len(stem))
    return stem[:cut]
