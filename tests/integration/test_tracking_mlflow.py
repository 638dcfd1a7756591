"""Tracking against MLflow itself: the embedded SQLite store and a real server process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.project import Project
from pipeline.settings import Tracking
from pipeline.tracking.store import MlflowStore
from pipeline.tracking.tracker import Tracker
from stages.atomic import sha256_file
from stages.registered import RECORD_TAG
from tests.helpers_server import free_port, server

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def all_runs(uri: str) -> dict[str, Any]:
    """Runs of the experiment by name; fails where a name appears twice."""
    there = client(uri)
    experiment = there.get_experiment_by_name("edgealign")
    runs = there.search_runs([experiment.experiment_id]) if experiment else []
    names = [run.info.run_name for run in runs]
    assert len(names) == len(set(names)), f"a run is there twice: {names}"
    return {run.info.run_name: run for run in runs}


def record_stage(tracker: Tracker, folder: Path) -> None:
    """A stage with all that a run can hold, and one user."""
    adapter = folder / "adapter"
    adapter.mkdir(exist_ok=True)
    (adapter / "adapter.safetensors").write_bytes(b"weights")
    (adapter / "adapter.json").write_text("{}")
    with tracker.run("personalize", cohort="x", method="shira", device="jetson-0", device_kind="virtual") as run:
        run.params({"personalize": {"steps": 40}})
        run.dataset("x", "a" * 32 + ".dir", "data/cohorts/x")
        with run.child("personalize", user="u1") as child:
            child.metrics({"wer": 0.25})
            child.curve("loss", [(step, 1.0 / (step + 1)) for step in range(2500)])
            child.adapter(adapter, "x/u1")


def check_stage(uri: str) -> None:
    runs = all_runs(uri)
    assert set(runs) == {"command", "personalize@x", "personalize/u1"}
    top, stage, user = (runs[name] for name in ("command", "personalize@x", "personalize/u1"))
    assert stage.data.tags["mlflow.parentRunId"] == top.info.run_id
    assert user.data.tags["mlflow.parentRunId"] == stage.info.run_id
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert stage.data.params == {"personalize.steps": "40"}
    assert stage.inputs.dataset_inputs[0].dataset.digest == "a" * 32 + ".dir"
    tags = user.data.tags
    assert (tags["user"], tags["method"], tags["device"], tags["device_kind"]) == ("u1", "shira", "jetson-0", "virtual")
    assert user.data.metrics["wer"] == 0.25
    there = client(uri)
    assert len(there.get_metric_history(user.info.run_id, "loss")) == 2500
    names = {item.path for item in there.list_artifacts(user.info.run_id, "adapter")}
    assert names == {"adapter/adapter.json", "adapter/adapter.safetensors"}


def test_a_stage_in_the_embedded_store(tracker: Tracker, tmp_path: Path) -> None:
    record_stage(tracker, tmp_path)
    check_stage(tracker.uri)
    assert tracker.spool.waiting() == []
    found = list((tmp_path / ".edgealign" / "mlflow" / "artifacts").rglob("adapter.safetensors"))
    assert [sha256_file(path) for path in found] == [sha256_file(tmp_path / "adapter" / "adapter.safetensors")]


def test_the_store_is_opened_while_the_stage_works(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = threading.Event()
    plain = MlflowStore.__init__

    def observed(*arguments: Any) -> None:
        plain(*arguments)
        opened.set()

    monkeypatch.setattr(MlflowStore, "__init__", observed)
    with tracker.run("models"):
        assert opened.wait(100)
    assert "models" in all_runs(tracker.uri)


def test_recording_leaves_mlflows_own_address_alone(tracker: Tracker) -> None:
    import mlflow

    before = mlflow.get_tracking_uri()
    with tracker.run("features"):
        pass
    assert mlflow.get_tracking_uri() == before
    assert mlflow.active_run() is None


def test_a_failed_stage_is_a_failed_run_below_a_failed_parent(tracker: Tracker) -> None:
    with pytest.raises(ValueError, match="broken"), tracker.run("features", cohort="x"):
        raise ValueError("broken shard")
    with tracker.run("base"):  # a later success does not hide it
        pass
    runs = all_runs(tracker.uri)
    assert runs["features@x"].data.tags["error"] == "ValueError: broken shard"
    assert {name: run.info.status for name, run in runs.items()} == {
        "command": "FAILED",
        "features@x": "FAILED",
        "base": "FINISHED",
    }


def test_the_same_key_updates_its_run(tracker: Tracker) -> None:
    for steps in (40, 80):
        with tracker.run("personalize", cohort="x", key="content") as run:
            run.params({"steps": steps})
            run.metrics({"wer": 1.0 / steps})
    stage = all_runs(tracker.uri)["personalize@x"]
    assert stage.data.metrics["wer"] == 1.0 / 80
    assert stage.data.params["steps"] == "40"  # MLflow's parameters never change
    assert stage.data.tags["changed.steps"] == "80"


@pytest.mark.parametrize("step", ["create_run", "log_inputs", "log_artifact", "log_batch", "set_terminated"])
def test_a_crash_while_sending_neither_loses_nor_doubles_a_run(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    from mlflow import MlflowClient

    plain = getattr(MlflowClient, step)

    def crash_after(*arguments: Any, **named: Any) -> None:
        plain(*arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(MlflowClient, step, crash_after)
    with pytest.raises(KeyboardInterrupt):
        record_stage(tracker, tmp_path)
    assert tracker.spool.waiting()
    monkeypatch.undo()
    # as a process that knows nothing of the first attempt
    assert Tracker(tracker.project, tracker.settings).send().waiting == 0
    check_stage(tracker.uri)


def test_a_crash_between_acknowledgement_and_removal_sends_nothing_twice(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tracker.spool, "remove", crash)
    with pytest.raises(KeyboardInterrupt):
        record_stage(tracker, tmp_path)
    assert Tracker(tracker.project, tracker.settings).send().waiting == 0
    check_stage(tracker.uri)


WRITER = """
import sys
from pathlib import Path
from pipeline.project import Project
from pipeline.settings import Tracking
from pipeline.tracking.tracker import Tracker
tracker = Tracker(Project(Path(sys.argv[1])), Tracking())
for number in range(3):
    with tracker.run("features", cohort=f"c{sys.argv[2]}-{number}") as run:
        run.metrics({"utterances": number})
"""


def test_processes_that_race_to_a_missing_store_lose_nothing(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(number)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(4)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in writers]
    assert [process.returncode for process in writers] == [0] * 4, outputs
    tracker = Tracker(Project(tmp_path), Tracking())
    tracker.send()
    there = client(tracker.uri)
    experiment = there.get_experiment_by_name("edgealign")
    runs = there.search_runs([experiment.experiment_id], "tags.stage = 'features'")
    assert sorted(run.data.tags["cohort"] for run in runs) == sorted(f"c{w}-{n}" for w in range(4) for n in range(3))
    assert len({run.data.tags[RECORD_TAG] for run in runs}) == 12


def test_processes_that_race_to_create_the_store_make_one_that_is_whole(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from pipeline.tracking.store import create_embedded\n"
        "create_embedded(Path(sys.argv[1]) / 'mlflow.db', Path(sys.argv[1]) / 'artifacts')"
    )
    makers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT) for _ in range(3)]
    assert [process.wait(240) for process in makers] == [0, 0, 0]
    assert client(f"sqlite:///{tmp_path / 'mlflow.db'}").get_experiment("0").name == "Default"


def test_runs_made_while_the_server_is_away_arrive_once_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    tracker = Tracker(Project(tmp_path), Tracking(uri=f"http://127.0.0.1:{port}"))
    record_stage(tracker, tmp_path)
    assert len(tracker.spool.waiting()) == 2
    assert "edgealign tracking replay" in caplog.text
    with server(tmp_path, port) as uri:
        (tmp_path / "params.yaml").write_text(
            f"cohorts: []\nbase_cohorts: []\npersonal_cohorts: []\ntracking: {{uri: '{uri}'}}\n"
        )
        (tmp_path / "dvc.yaml").write_text("stages: {}\n")
        replay = subprocess.run(
            [sys.executable, "-c", "from pipeline.tracking.cli import app; app()", "replay"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert replay.returncode == 0, replay.stdout + replay.stderr
        assert "2 run(s) sent, 0 still waiting" in replay.stdout
        check_stage(uri)
        assert tracker.send().sent == 0
        latest = MlflowStore(uri, "edgealign", None).latest(10)
        assert len(latest) == 3


def test_an_experiment_that_was_deleted_is_told_with_the_remedy(
    tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    with tracker.run("features"):
        pass
    there = client(tracker.uri)
    there.delete_experiment(there.get_experiment_by_name("edgealign").experiment_id)
    again = Tracker(tracker.project, tracker.settings)
    with again.run("base"):
        pass
    assert len(again.spool.waiting()) == 1
    assert "mlflow experiments restore" in caplog.text
