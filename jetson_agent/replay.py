"""What a device keeps of its user's speech to learn from: a bounded buffer on disk, one file an utterance.

A file is whole or absent (temporary name, fsync, rename) and readable by its owner alone. What a person corrected
goes last: the oldest utterance that nobody corrected makes room first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stages.atomic import sha256_bytes, write_private

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Remembered:
    """One utterance of the user."""

    utterance: str
    samples: np.ndarray | None  # (n,) float32, 16 kHz
    frames: np.ndarray  # (T, F) float16, 50 Hz
    heard: str
    text: str
    source: Literal["correction", "confident"]
    confidence: float


def name_of(samples: np.ndarray) -> str:
    """A name for (n,) float32 samples: the same recording is the same utterance, whichever way it came in."""
    return sha256_bytes(samples.tobytes())[:16]


class ReplayBuffer:
    """A folder of utterances, in the order in which they came."""

    def __init__(self, folder: Path, items: int, size_bytes: int) -> None:
        self.folder, self.most, self.most_bytes = folder, items, size_bytes

    def add(self, item: Remembered) -> None:
        """Keep ``item``, in place of one of the same name; it is on the disk when this returns. Raises OSError."""
        with self._lock():
            self._put(item)

    def add_if_new(self, item: Remembered) -> None:
        """Keep ``item`` unless one of the same name is there. Raises OSError."""
        with self._lock():
            if self._find(item.utterance) is None:
                self._put(item)

    def items(self) -> list[Remembered]:
        """Every utterance that is kept, oldest first."""
        found = []
        for path in self.paths():
            try:
                found.append(_read(path))
            except FileNotFoundError:
                continue  # made room meanwhile
        return found

    def corrections_since(self, when: float) -> int:
        """How many corrections came after ``when``, in seconds since 1970."""
        found = 0
        for path in self.paths():
            try:
                found += path.stat().st_mtime > when and _source(path) == "correction"
            except FileNotFoundError:
                continue  # made room meanwhile
        return found

    def _put(self, item: Remembered) -> None:
        for leftover in self.folder.glob(".*.part"):  # of a process that was killed; the lock is ours
            leftover.unlink()
        known = self._find(item.utterance)
        last = max((int(path.name[:10]) for path in self.paths()), default=0)
        target = known or self.folder / f"{last + 1:010d}-{_key(item.utterance)}{SUFFIX}"
        write_private(target, _bytes(item))
        self._bound(target)

    def _bound(self, newest: Path) -> None:
        sizes = {path: path.stat().st_size for path in self.paths()}
        if len(sizes) <= self.most and sum(sizes.values()) <= self.most_bytes:
            return
        order = sorted(
            (path for path in sizes if path != newest), key=lambda path: (_source(path) == "correction", path)
        )
        while order and (len(sizes) > self.most or sum(sizes.values()) > self.most_bytes):
            gone = order.pop(0)
            gone.unlink()
            del sizes[gone]

    def paths(self) -> list[Path]:
        """The utterances' files, oldest first."""
        return sorted(self.folder.glob(f"[0-9]*{SUFFIX}"))

    def _find(self, utterance: str) -> Path | None:
        return next(iter(self.folder.glob(f"[0-9]*-{_key(utterance)}{SUFFIX}")), None)

    def _lock(self) -> Any:
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return FileLock(str(self.folder / ".lock"))


def _key(utterance: str) -> str:
    return sha256_bytes(utterance.encode())[:24]


def _bytes(item: Remembered) -> bytes:
    from safetensors.numpy import save

    tensors = {"frames": np.ascontiguousarray(item.frames, dtype=np.float16)}
    if item.samples is not None:
        tensors["samples"] = np.ascontiguousarray(item.samples, dtype=np.float32)
    told = {name: str(getattr(item, name)) for name in ("utterance", "heard", "text", "source")}
    return save(tensors, {**told, "confidence": repr(float(item.confidence))})


def _source(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        return str(file.metadata()["source"])


def _read(path: Path) -> Remembered:
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        told = file.metadata()
        samples = file.get_tensor("samples") if "samples" in file.keys() else None  # noqa: SIM118 - no mapping
        return Remembered(
            told["utterance"],
            samples,
            file.get_tensor("frames"),
            told["heard"],
            told["text"],
            "correction" if told["source"] == "correction" else "confident",
            float(told["confidence"]),
        )
