"""What the stages' drivers share."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from pipeline.cluster.nodes import NodeInfo
from pipeline.cluster.shipping import ship
from pipeline.cluster.work import Failure, Result
from pipeline.runs.common import Costs, pending_shards, tell_failures
from pipeline.runs.recorded import timed_curve
from pipeline.tracking.record import Record
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


def test_a_curve_lies_at_the_seconds_of_training() -> None:
    """MLflow's axis of relative time shows when a step was, not when it was recorded."""
    run = SimpleNamespace(record=Record("r", "e", "base", start_ms=1_000_000))
    timed_curve(run, "dev_wer", [(1, 10.5, 0.9), (2, 21.0, None), (3, 31.0, 0.4)])  # type: ignore[arg-type]
    assert run.record.metrics == [("dev_wer", 0.9, 1_010_500, 1), ("dev_wer", 0.4, 1_031_000, 3)]


def test_where_work_was_done_is_told_and_nothing_where_there_was_none() -> None:
    costs = Costs()
    assert costs.tags() == {}
    for name, kind in (("jetson-1", "virtual"), ("jetson-0", "virtual")):
        costs.add(Result(None, NodeInfo(name, kind, "orin"), 1, 0.1))
    assert costs.tags() == {"device": "jetson-0,jetson-1", "device_kind": "virtual"}
