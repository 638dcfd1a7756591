"""The benchmark's store of many runs is one that MLflow itself reads, and a list of adapters needs no MLflow for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tracking_store import fill
from pipeline.project import Project
from pipeline.settings import Tracking
from pipeline.tracking.champions import embedded_champions
from pipeline.tracking.registry import Registry
from pipeline.tracking.store import create_embedded
from pipeline.tracking.tracker import Tracker
from tests.helpers_adapters import build

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    project = Project(tmp_path_factory.mktemp("many"))
    database = project.private / "mlflow" / "mlflow.db"
    create_embedded(database, database.parent / "artifacts")
    fill(database, runs=300, models=20)
    return Tracker(project, Tracking())


def test_mlflow_reads_what_was_filled_in(tracker: Tracker) -> None:
    registry = Registry(tracker)
    runs = tracker.latest(1000)
    assert len(runs) == 300
    assert runs[0].data.metrics["wer"] > 0
    assert runs[0].data.params["personalize.method"] == "shira"
    by_id = {run.info.run_id: run for run in runs}
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId")]
    assert len(children) == 294
    assert {by_id[run.data.tags["mlflow.parentRunId"]].data.tags["stage"] for run in children} == {"personalize"}
    assert len(registry.champions("many")) == 20
    versions = registry.versions("many", "user-00007")
    assert [(item.version, item.aliases) for item in versions] == [
        ("1", ("previous",)),
        ("2", ("champion",)),
        ("3", ("challenger",)),
    ]


def test_the_champions_read_from_the_file_are_mlflows_own(tracker: Tracker, tmp_path: Path) -> None:
    database = tracker.project.private / "mlflow" / "mlflow.db"
    client: Any = Registry(tracker)._client
    client.set_model_version_tag("edgealign.many.user-00003", "2", "retrain", "erasure e-1")
    client.delete_registered_model_alias("edgealign.many.user-00004", "champion")
    found = embedded_champions(database, "edgealign.many.")
    assert found == Registry(tracker).champions("many")
    assert found is not None
    assert found["user-00003"].retrain == "erasure e-1"
    assert "user-00004" not in found
    assert embedded_champions(database, "edgealign.man_.") == {}  # no pattern
    (tmp_path / "other.db").write_bytes(b"no database")
    assert embedded_champions(tmp_path / "other.db", "edgealign.many.") is None


def test_a_list_imports_neither_mlflow_nor_torch(tmp_path: Path) -> None:
    project = build(tmp_path / "project")
    create_embedded(project.private / "mlflow" / "mlflow.db", project.private / "mlflow" / "artifacts")
    program = (
        "import sys; from pipeline.runs.common import Context; from pipeline.tracking.registry import standings\n"
        "context = Context.open(); print(len(standings(context.tracker, context.settings.personal_cohorts)))\n"
        "print([name for name in ('mlflow', 'torch', 'ray') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=project.root, capture_output=True, text=True, check=False
    )
    assert done.stdout.split("\n")[:2] == ["3", "[]"], done.stderr
