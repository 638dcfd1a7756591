"""What the stages' drivers share."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.cluster.shipping import ship
from pipeline.cluster.work import Failure
from pipeline.runs.common import pending_shards, tell_failures
from stages.errors import EdgealignError
from stages.schema import write_table


def table(path: Path, key: str) -> None:
    write_table(pa.table({"utterance": ["a"]}), path, {"key": key})


def test_only_what_changed_is_pending_and_nothing_old_stays(tmp_path: Path) -> None:
    for name, key in {"shard-0": "same", "shard-1": "old", "shard-9": "gone"}.items():
        table(tmp_path / f"{name}.parquet", key)
    keys = {Path("shard-0.tar"): "same", Path("shard-1.tar"): "new", Path("shard-2.tar"): "new"}
    assert pending_shards(tmp_path, keys) == [Path("shard-1.tar"), Path("shard-2.tar")]
    assert [path.name for path in tmp_path.iterdir()] == ["shard-0.parquet"]


def test_a_file_that_cannot_be_read_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "shard-0.parquet").write_bytes(b"PAR1 cut off")
    assert pending_shards(tmp_path, {Path("shard-0.tar"): "key"}) == [Path("shard-0.tar")]


def test_some_failures_are_told_and_all_of_them_are_an_error() -> None:
    failure = Failure(0, "shard-0.tar", "broken")
    tell_failures("features", [failure], 2)
    with pytest.raises(EdgealignError, match=r"shard-0\.tar: broken"):
        tell_failures("features", [failure], 1)


def test_what_is_shipped_arrives_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = tmp_path / "model"
    (model / "part").mkdir(parents=True)
    (model / "part" / "weights").write_bytes(b"123")
    (model / "config").write_bytes(b"{}")
    assert ship(model, shared_disk=True).unpack() == model
    there = ship(model, shared_disk=False).unpack()
    assert there != model
    assert (there / "part" / "weights").read_bytes() == b"123"
    assert (there / "config").read_bytes() == b"{}"
    assert ship(model / "config", shared_disk=False).unpack().read_bytes() == b"{}"
