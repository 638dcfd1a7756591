"""The features stage for one shard: audio to encoder frames, stored as Parquet.

A shard's features depend on the encoder, the shard's bytes and two settings; ``features_key`` covers all of them, so a
shard whose file carries the same key need not be computed again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from stages.atomic import sha256_json
from stages.audio import load_audio
from stages.errors import InputError
from stages.schema import FEATURES, SAMPLE_RATE_HZ, read_metadata, read_table, write_table
from stages.shards import Problem, iter_shard

FEATURES_VERSION = 1
"""Raised whenever this code or the encoder's computes other frames from the same input."""


class Encoder(Protocol):
    """What this stage needs of ``stages.models.encoder.SpeechEncoder``."""

    identity: str

    @property
    def width(self) -> int:
        """Size of a frame."""

    def encode(self, samples: np.ndarray, padding_s: float = ...) -> np.ndarray:
        """Samples (n,) to frames (n_frames, width) in float16."""


def features_key(encoder_identity: str, shard_sha256: str, padding_s: float, max_duration_s: float) -> str:
    """Hex SHA-256 of everything that changes a shard's features."""
    return sha256_json(
        {
            "version": FEATURES_VERSION,
            "encoder": encoder_identity,
            "shard": shard_sha256,
            "padding_s": padding_s,
            "max_duration_s": max_duration_s,
        }
    )


def compute_shard_features(
    shard: Path,
    cohort: str,
    encoder: Encoder,
    padding_s: float,
    max_duration_s: float,
    advance: Callable[[int], None] | None = None,
) -> tuple[pa.Table, list[Problem]]:
    """Frames of every good utterance of a shard (schema FEATURES), and what was wrong with the others.

    ``advance(1)`` is called after each utterance, good or bad. Raises InputError where the shard itself is unreadable.
    """
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for item in iter_shard(shard):
        try:
            if item.problem:
                raise InputError(item.problem)
            if item.duration_s > max_duration_s:  # before decoding: an hour of audio would fill the memory
                raise InputError(
                    f"lasts {item.duration_s:.1f} s, at most {max_duration_s:g} s are encoded. Cut it into utterances, or "
                    "raise features.max_duration_s in params.yaml."
                )
            samples = load_audio(item.audio, f"{shard.name}/{item.utterance}")
            frames = encoder.encode(samples, padding_s)
            if not np.isfinite(frames).all():
                raise InputError("its frames are not finite numbers: the recording or the encoder is broken")
            rows.append(
                {
                    "utterance": item.utterance,
                    "user": item.user,
                    "cohort": cohort,
                    "shard": shard.name,
                    "audio_sha256": item.audio_sha256,
                    "duration_s": len(samples) / SAMPLE_RATE_HZ,
                    "n_frames": frames.shape[0],
                    "width": frames.shape[1],
                    "frames": np.ascontiguousarray(frames, "<f2").tobytes(),
                    "encoder": encoder.identity,
                }
            )
        except InputError as error:
            problems.append(Problem(item.utterance, str(error)))
        if advance:
            advance(1)
    return pa.Table.from_pylist(rows, FEATURES), problems


def features_path(folder: Path, shard: Path) -> Path:
    """The file in ``folder`` that holds a shard's features."""
    return Path(folder) / f"{Path(shard).stem}.parquet"


def write_shard_features(
    table: pa.Table, path: Path, key: str, encoder_identity: str, problems: Sequence[Problem]
) -> None:
    """Write one shard's features whole or not at all, with its key and problems in the file's metadata."""
    metadata = {"key": key, "encoder": encoder_identity, "problems": json.dumps([asdict(item) for item in problems])}
    write_table(table, path, metadata)


def is_current(path: Path, key: str) -> bool:
    """Whether ``path`` holds the features of ``key``; False where it is missing or unreadable."""
    return read_metadata(path).get("key") == key


def read_problems(path: Path) -> list[Problem]:
    """The problems that ``write_shard_features`` recorded."""
    return [Problem(**item) for item in json.loads(read_metadata(path).get("problems", "[]"))]


def read_features(folder: Path, columns: list[str] | None = None) -> pa.Table:
    """All features of a cohort, in the order of the shards' names. Raises InputError where there are none."""
    files = sorted(Path(folder).glob("*.parquet"))
    if not files:
        raise InputError(f"{folder}: holds no features. Run `dvc repro features@{Path(folder).name}`.")
    tables: Iterable[pa.Table] = (read_table(path, FEATURES, columns).replace_schema_metadata() for path in files)
    return pa.concat_tables(tables)


def frames_of(row: Mapping[str, Any]) -> np.ndarray:
    """The frames of one row (a mapping with ``frames``, ``n_frames`` and ``width``): float16, (n_frames, width)."""
    return np.frombuffer(row["frames"], "<f2").reshape(row["n_frames"], row["width"])
