"""Small folders of recordings for tests of cohorts."""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

from pipeline.project import Project

ROOT = Path(__file__).resolve().parents[1]


def voice_like(seconds: float, seed: int, rate_hz: int = 16_000, level: float = 0.3) -> np.ndarray:
    """A few harmonics with a slow envelope and noise of its own: no two seeds give the same sound."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(int(seconds * rate_hz)) / rate_hz
    pitch = rng.uniform(90, 240)
    voice = sum(np.sin(2 * np.pi * pitch * n * time_s) / n for n in range(1, 6))
    envelope = 0.6 + 0.4 * np.sin(2 * np.pi * 3 * time_s)
    return level * voice / np.abs(voice).max() * envelope + rng.normal(0, 1e-3, time_s.size)


def make_recordings(folder: Path, users: Iterable[str], each: int, seconds: float = 0.4, first: int = 0) -> Path:
    """``each`` WAV files of every user and their transcripts.csv; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for place, user in enumerate(users):
        for number in range(first, first + each):
            name = f"{user}/{user}-{number:04d}.wav"
            (folder / user).mkdir(exist_ok=True)
            soundfile.write(folder / name, voice_like(seconds, 10_000 * place + number), 16_000)
            rows.append((name, user, f"take number {'one two three four five six seven'.split()[number % 7]}"))
    with (folder / "transcripts.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("file", "user", "text"), *rows])
    return folder


def make_project(folder: Path) -> Project:
    """A project without cohorts and without DVC."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copy(ROOT / "dvc.yaml", folder)
    return Project(folder)


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below ``folder``, by relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
