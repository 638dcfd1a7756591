"""Where a recording that a source names lies: inside the folder of recordings, and there; or why it cannot be used.

Paths are plain strings here: a million rows go through, and a Path costs more than the look at the disk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stages.errors import InputError

AUDIO_SUFFIXES = frozenset(
    "wav flac mp3 ogg oga opus m4a aac aiff aif aifc wma webm mp4 caf au w64 amr 3gp mka".split()
)
"""What a folder is searched for. A table may name any file: its content decides."""

MAX_PATH = 4096  # the kernel's own limit
MAX_FOLDERS = 100_000  # folders that are remembered: about 30 MB


@dataclass(frozen=True, slots=True)
class _Folder:
    """The folder part of what rows name, resolved."""

    reals: tuple[str, ...]  # the folders inside the folder of recordings that it may be, the likeliest first
    leaves: bool  # taken from the folder of recordings, it leads out of it
    name: str  # what it is called, which is not what a link's target is called


class Places:
    """Finds the files that rows name. A row's folder is resolved once, its file is looked at once."""

    def __init__(self, audio: Path, beside: Iterable[Path] = ()) -> None:
        """Relative paths are tried in ``audio``, then in each folder ``beside``; what is found must lie in ``audio``."""
        self.audio = str(audio)
        self._missing = f"no such file in {audio}."
        self.root = os.path.realpath(audio)
        self._within = self.root.rstrip("/") + "/"
        self._bases = list(dict.fromkeys([self.root, *(os.path.realpath(folder) for folder in beside)]))
        self._folders: dict[str, _Folder] = {}
        self._seen: dict[str, set[str]] = {}

    def contains(self, real: str) -> bool:
        """Whether a resolved path lies in the folder of recordings, or is it."""
        return real.startswith(self._within) or real == self.root

    def find(self, given: str) -> str:
        """The real, absolute path of the recording ``given``.

        Raises InputError where it leaves the folder of recordings, is not there, or is no plain file.
        """
        if len(given) > MAX_PATH:
            raise InputError(f"its path cannot be used ({len(given)} characters; at most {MAX_PATH} can be opened).")
        if "\0" in given or not (given.isascii() or is_text(given)):
            raise InputError("its path cannot be used (it holds characters that are no text).")
        inner, slash, name = given.rpartition("/")
        if name in ("", ".", ".."):
            inside = self.contains(os.path.realpath(given if slash and not inner else f"{self.root}/{given}"))
            raise InputError("is a folder, no file.") if inside else self._leaves(given)
        folder = self._folder(inner + slash)
        leaves = folder.leaves
        for real in folder.reals:
            found, outside = self._look(f"{real}/{name}")
            if found:
                return found
            leaves = leaves or outside
        if leaves:
            raise self._leaves(given)
        other = self._other_spelling(given, folder, name)
        if other:
            return other
        raise InputError(self._missing)

    def parent_name(self, given: str) -> str:
        """The name of the folder that ``given`` says it lies in; empty where it is not inside the folder of recordings."""
        inner, slash, _ = given.rpartition("/")
        return self._folder(inner + slash).name

    def in_subfolder(self, given: str) -> bool:
        """Whether ``given`` lies in a folder below the folder of recordings (also where that cannot be known)."""
        inner, slash, _ = given.rpartition("/")
        return self._folder(inner + slash).reals[:1] != (self.root,)

    def _folder(self, inner: str) -> _Folder:
        """The folder part ``inner``, with its last slash; empty for none."""
        known = self._folders.get(inner)
        if known is None:
            if len(self._folders) >= MAX_FOLDERS:
                self._folders.clear()
            known = self._folders[inner] = self._resolve(inner)
        return known

    def _resolve(self, inner: str) -> _Folder:
        paths = [inner] if inner.startswith("/") else [f"{base}/{inner}" for base in self._bases]
        reals = [os.path.realpath(path) for path in paths]
        inside = [
            (path, real)
            for path, real in zip(paths, reals, strict=True)
            if self.contains(real) and os.path.isdir(real)  # noqa: PTH112
        ]
        name = os.path.basename(os.path.normpath(inside[0][0])) if inside else ""  # noqa: PTH119
        return _Folder(tuple(real for _, real in inside), not self.contains(reals[0]) and not inside, name)

    def _look(self, full: str) -> tuple[str, bool]:
        """(the file's real path, or nothing where it is not there; whether it is a link that leads out)."""
        try:
            mode = os.lstat(full).st_mode
            if stat.S_ISLNK(mode):
                full = os.path.realpath(full)
                if not self.contains(full):
                    return "", True
                mode = os.lstat(full).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return "", False
        except OSError as error:
            raise InputError(f"its path cannot be used ({error.strerror}).") from error
        if not stat.S_ISREG(mode):
            raise InputError("is a folder, a device or a queue, no file.")
        return full, False

    def _other_spelling(self, given: str, folder: _Folder, name: str) -> str:
        """``A.WAV`` for ``A.wav`` and the like, and ``ann/1.wav`` for Windows' ``ann\\1.wav``; empty where neither is there."""
        stem, dot, suffix = name.rpartition(".")
        other = suffix.lower() if suffix != suffix.lower() else suffix.upper()
        if dot and folder.reals and other in self._suffixes(folder.reals[0]):
            found, outside = self._look(f"{folder.reals[0]}/{stem}.{other}")
            if outside:
                raise self._leaves(given)
            if found:
                return found
        return self.find(given.replace("\\", "/")) if "\\" in given else ""

    def _suffixes(self, real: str) -> set[str]:
        """The suffixes of a folder's recordings: a million files that are missing there need no second look each."""
        known = self._seen.get(real)
        if known is None:
            if len(self._seen) >= MAX_FOLDERS:
                self._seen.clear()
            try:
                with os.scandir(real) as entries:
                    known = {
                        suffix
                        for suffix in (entry.name.rpartition(".")[2] for entry in entries)
                        if suffix.lower() in AUDIO_SUFFIXES
                    }
            except OSError:
                known = set()
            self._seen[real] = known
        return known

    def _leaves(self, given: str) -> InputError:
        remedy = ""
        if given.startswith("/"):
            above = given.rpartition("/")[0][:200] or "/"
            remedy = f" Give a folder that holds all recordings with --audio ({above}, or one above it)."
        return InputError(f"its path leaves the folder {self.audio}.{remedy}")


def is_text(given: str) -> bool:
    """Whether ``given`` can be written as UTF-8: a file name in another encoding has surrogates in it."""
    try:
        given.encode()
    except UnicodeEncodeError:
        return False
    return True
