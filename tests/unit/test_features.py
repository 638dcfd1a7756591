"""The features stage over real shards, with a small encoder that counts samples instead of a network."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from stages.audio import encode_flac
from stages.errors import InputError
from stages.features import (
    compute_shard_features,
    features_key,
    features_path,
    frames_of,
    is_current,
    read_features,
    read_problems,
    write_shard_features,
)
from stages.schema import FEATURES
from stages.shards import Problem, ShardItem, write_shards


class RampEncoder:
    """Frames that number themselves: enough to see where each one goes."""

    identity = "ramp@0123456789abcdef"
    width = 3

    def encode(self, samples: np.ndarray, padding_s: float = 0.5) -> np.ndarray:
        n_frames = -(-(len(samples) + round(padding_s * 16_000)) // 320)
        return np.arange(n_frames * self.width, dtype=np.float16).reshape(n_frames, self.width)


class BrokenEncoder(RampEncoder):
    """An encoder that gives what is no number."""

    def encode(self, samples: np.ndarray, padding_s: float = 0.5) -> np.ndarray:
        return super().encode(samples, padding_s) * np.float16(np.nan)


def make_item(utterance: str, seconds: float) -> ShardItem:
    audio = encode_flac(0.1 * np.sin(np.arange(round(seconds * 16_000)) / 20))
    return ShardItem(utterance, "ann", "hello", "en", {}, "0" * 64, seconds, audio, "")


def make_shard(folder: Path, lengths_s: list[float]) -> Path:
    return write_shards([make_item(f"u{index}", length) for index, length in enumerate(lengths_s)], folder)[0]


def compute(shard: Path, max_duration_s: float = 30.0) -> tuple[pa.Table, list[Problem]]:
    return compute_shard_features(shard, "kitchen", RampEncoder(), 0.5, max_duration_s)


def test_each_utterance_becomes_a_row_of_the_schema(tmp_path: Path) -> None:
    table, problems = compute(make_shard(tmp_path, [1.0, 2.0]))
    assert table.schema.equals(FEATURES)
    assert problems == []
    row = table.to_pylist()[1]
    assert (row["utterance"], row["cohort"], row["shard"]) == ("u1", "kitchen", "shard-00000.tar")
    assert (row["duration_s"], row["n_frames"], row["width"]) == (2.0, 125, 3)
    assert len(row["audio_sha256"]) == 64


def test_frames_come_back_as_they_were(tmp_path: Path) -> None:
    row = compute(make_shard(tmp_path, [1.0]))[0].to_pylist()[0]
    np.testing.assert_array_equal(frames_of(row), RampEncoder().encode(np.zeros(16_000, np.float32)))


def test_a_long_utterance_is_refused_and_the_others_stay(tmp_path: Path) -> None:
    table, problems = compute(make_shard(tmp_path, [1.0, 3.0, 1.0]), max_duration_s=2.0)
    assert table.column("utterance").to_pylist() == ["u0", "u2"]
    assert [problem.item for problem in problems] == ["u1"]
    assert "3.0 s" in problems[0].reason and "max_duration_s" in problems[0].reason


def test_broken_audio_is_refused_and_the_others_stay(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, [1.0, 1.0])
    broken = tmp_path / "shard-00001.tar"
    with tarfile.open(shard) as source, tarfile.open(broken, "w") as target:
        for member in source:
            content = source.extractfile(member).read()  # type: ignore[union-attr]  # all members are plain files
            if member.name == "u0.flac":
                content = content[: len(content) // 2]
            member.size = len(content)
            target.addfile(member, io.BytesIO(content))
    table, problems = compute(broken)
    assert table.column("utterance").to_pylist() == ["u1"]
    assert [problem.item for problem in problems] == ["u0"]


def test_frames_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    table, problems = compute_shard_features(make_shard(tmp_path, [1.0]), "kitchen", BrokenEncoder(), 0.5, 30.0)
    assert table.num_rows == 0
    assert "not finite" in problems[0].reason


def test_progress_counts_good_and_bad_utterances(tmp_path: Path) -> None:
    steps: list[int] = []
    compute_shard_features(make_shard(tmp_path, [1.0, 3.0]), "kitchen", RampEncoder(), 0.5, 2.0, steps.append)
    assert steps == [1, 1]


def test_an_unreadable_shard_is_named(tmp_path: Path) -> None:
    shard = tmp_path / "shard-00000.tar"
    shard.write_bytes(b"no tar" * 200)
    with pytest.raises(InputError, match="shard-00000"):
        compute(shard)


@pytest.mark.parametrize(
    "change", [("other", "s", 0.5, 30.0), ("e", "t", 0.5, 30.0), ("e", "s", 0.4, 30.0), ("e", "s", 0.5, 29.0)]
)
def test_the_key_covers_every_input(change: tuple[str, str, float, float]) -> None:
    assert features_key("e", "s", 0.5, 30.0) != features_key(*change)


def test_a_written_shard_is_current_for_its_key_alone(tmp_path: Path) -> None:
    shard = make_shard(tmp_path, [1.0])
    path = features_path(tmp_path, shard)
    table, _ = compute(shard)
    assert not is_current(path, "key")
    write_shard_features(table, path, "key", RampEncoder.identity, [Problem("u9", "too long")])
    assert is_current(path, "key") and not is_current(path, "another")
    assert read_problems(path) == [Problem("u9", "too long")]


def test_shards_are_read_back_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("shard-00001", "shard-00000"):
        table = compute(make_shard(tmp_path / name, [1.0]))[0]
        renamed = table.set_column(3, "shard", pa.array([name]))
        write_shard_features(renamed, tmp_path / "features" / f"{name}.parquet", name, "e", [])
    assert read_features(tmp_path / "features").column("shard").to_pylist() == ["shard-00000", "shard-00001"]
    assert read_features(tmp_path / "features", ["user"]).column_names == ["user"]


def test_no_features_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dvc repro features@"):
        read_features(tmp_path)
