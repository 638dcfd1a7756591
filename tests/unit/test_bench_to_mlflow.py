"""What MLflow is told of a benchmark: figures, what was asked, pictures, and a run below for each curve."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import to_mlflow
from benchmarks.record import at_least, at_most, plain, write_area
from pipeline.project import Project
from pipeline.runs.common import Context
from pipeline.settings import Settings, Tracking
from pipeline.tracking.record import Record
from pipeline.tracking.tracker import Tracker


class Store:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.taken: list[Record] = []
        self.names: list[str] = []

    def send(self, record: Record) -> str:
        self.taken.append(record)
        self.names += [Path(item.source).name for item in record.artifacts]
        return record.record


def test_a_benchmark_is_a_run_with_its_figures_curves_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = {"embedlink, seed 0": [[1.5, 0.4], [3.0, 0.1]], "projector, seed 0": [[90.0, 0.2]]}
    figures = [at_least("ratio", 200.0, 100.0, "×"), at_most("errors", 0.9, 0.5, ""), plain("seconds", 3.0, "s")]
    path = write_area("methods", figures, {"methods_quality": {"curves": curves}}, tmp_path, tell=False)
    (tmp_path / "methods_quality.png").write_bytes(b"picture")
    monkeypatch.setattr(to_mlflow, "draw", lambda area: [("methods_quality.png", area["area"])])
    store, project = Store(), Project(tmp_path)
    to_mlflow.record_area(path, Context(project, Settings.model_construct(), Tracker(project, Tracking(), store)))
    runs = {record.name: record for record in store.taken}
    whole = {name: value for name, value, *_ in runs["bench methods"].metrics}
    assert whole == {"ratio": 200.0, "errors": 0.9, "seconds": 3.0, "figures_asked": 2, "figures_met": 1}
    assert runs["bench methods"].tags["command"] == "make bench AREA=methods"
    assert "versions.torch" in runs["bench methods"].params
    assert sorted(store.names) == ["methods.json", "methods_quality.png"]
    child = runs["embedlink, seed 0"]
    assert child.tags["method"] == "embedlink"
    at = [(value, moment - child.start_ms, step) for _, value, moment, step in child.metrics]
    assert at == [(0.4, 1500, 1), (0.1, 3000, 2)]
    assert [ancestor.name for ancestor in child.ancestors][-1] == "bench methods"
