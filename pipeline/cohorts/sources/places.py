"""Where a recording that a source names lies: inside the folder of recordings, and there; or why it cannot be used.

Paths are plain strings here: a million rows go through, and a Path costs more than the look at the disk.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from stages.errors import InputError

MAX_PATH = 4096  # the kernel's own limit
MAX_FOLDERS = 100_000  # folders that are remembered: about 30 MB

_INSIDE, _OUTSIDE, _MISSING = range(3)


class Places:
    """Finds the files that rows name. A row's folder is resolved once, its file is looked at once."""

    def __init__(self, audio: Path, beside: Iterable[Path] = ()) -> None:
        """Relative paths are tried in ``audio``, then in each folder ``beside``; what is found must lie in ``audio``."""
        self.audio = audio
        self.root = os.path.realpath(audio)
        self._within = self.root.rstrip("/") + "/"
        bases = [self.root, *(os.path.realpath(folder) for folder in beside)]
        self._bases = list(dict.fromkeys(bases))
        self._folders: dict[str, tuple[int, str]] = {}
        self._parents: dict[str, tuple[str, str]] = {}

    def contains(self, real: str) -> bool:
        """Whether a resolved path lies in the folder of recordings, or is it."""
        return real.startswith(self._within) or real == self.root

    def find(self, given: str) -> str:
        """The real, absolute path of the recording ``given``.

        Raises InputError where it leaves the folder of recordings, is not there, or is no plain file.
        """
        if len(given) > MAX_PATH:
            raise InputError(f"its path cannot be used ({len(given)} characters; at most {MAX_PATH} can be opened).")
        if "\0" in given or not is_text(given):
            raise InputError("its path cannot be used (it holds characters that are no text).")
        left = False
        for base in self._bases:
            path = f"{base}/{given}" if given[:1] != "/" else given
            found, outside = self._look(path)
            if found:
                return found
            left = left or (outside and base == self.root)
        if left:
            raise self._leaves(given)
        other = self._other_spelling(given)
        if other:
            return other
        raise InputError(f"no such file in {self.audio}.")

    def parent_name(self, given: str) -> str:
        """The name of the folder that ``given`` says it lies in: its own, not that of a link's target."""
        return self._parent(given)[1]

    def in_subfolder(self, given: str) -> bool:
        """Whether ``given`` lies in a folder below the folder of recordings (also where that cannot be known)."""
        return self._parent(given)[0] != self.root

    def _parent(self, given: str) -> tuple[str, str]:
        """(real path, name) of the folder of ``given``; ("", "") where there is none inside the folder of recordings."""
        inner = given.rpartition("/")[0]
        known = self._parents.get(inner)
        if known is None:
            if len(self._parents) >= MAX_FOLDERS:
                self._parents.clear()
            known = ("", "")
            for base in self._bases:
                folder = inner or "/" if given[:1] == "/" else f"{base}/{inner}"
                state, real = self._folder(folder.rstrip("/"))
                if state == _INSIDE:
                    known = (real, os.path.basename(os.path.normpath(folder)))  # noqa: PTH119
                    break
            self._parents[inner] = known
        return known

    def _leaves(self, given: str) -> InputError:
        remedy = ""
        if given.startswith("/"):
            remedy = f" Give the folder that holds all recordings, above {os.path.dirname(given)[:200]}, with --audio."  # noqa: PTH120
        return InputError(f"its path leaves the folder {self.audio}.{remedy}")

    def _look(self, path: str) -> tuple[str, bool]:
        """(the file's real path, or nothing where it is not there; whether it is outside)."""
        folder, _, name = path.rpartition("/")
        state, real = self._folder(folder)
        if state == _OUTSIDE and name not in ("..", "."):
            return "", True
        if name in ("", ".", ".."):
            return "", not self.contains(os.path.realpath(path))
        if state == _MISSING:
            return "", False
        full = f"{real}/{name}"
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

    def _folder(self, folder: str) -> tuple[int, str]:
        known = self._folders.get(folder)
        if known is None:
            if len(self._folders) >= MAX_FOLDERS:
                self._folders.clear()
            real = os.path.realpath(folder or "/")
            if not self.contains(real):
                known = (_OUTSIDE, "")
            elif os.path.isdir(real):  # noqa: PTH112
                known = (_INSIDE, real)
            else:
                known = (_MISSING, "")
            self._folders[folder] = known
        return known

    def _other_spelling(self, given: str) -> str:
        """``A.WAV`` for ``A.wav`` and the like, and ``ann/1.wav`` for Windows' ``ann\\1.wav``; empty where neither is there."""
        stem, dot, suffix = given.rpartition(".")
        wanted = [f"{stem}.{other}" for other in {suffix.lower(), suffix.upper()} - {suffix}] if dot else []
        if "\\" in given:
            wanted.append(given.replace("\\", "/"))
        for other in wanted:
            path = f"{self.root}/{other}" if other[:1] != "/" else other
            folder, _, name = path.rpartition("/")
            state, real = self._folder(folder)
            if state == _OUTSIDE:
                raise self._leaves(given)
            if state == _INSIDE and os.access(f"{real}/{name}", os.F_OK):  # without the cost of an exception
                found, outside = self._look(path)
                if outside:
                    raise self._leaves(given)
                return found
        return ""


def is_text(given: str) -> bool:
    """Whether ``given`` can be written as UTF-8: a file name in another encoding has surrogates in it."""
    if given.isascii():
        return True
    try:
        given.encode()
    except UnicodeEncodeError:
        return False
    return True
