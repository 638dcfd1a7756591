"""Records, spool and sending, with a store that lives in memory."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.project import Project
from pipeline.settings import Tracking
from pipeline.tracking.record import Record
from pipeline.tracking.spool import Spool
from pipeline.tracking.store import PATIENCE, RecordRefused, check_reachable, patience, redacted
from pipeline.tracking.tracker import Tracker
from stages.errors import TrackingError

ROOT = Path(__file__).resolve().parents[2]


class MemoryStore:
    """Takes records unless told to be away or to refuse; keeps the artifacts' content as it was when sent."""

    def __init__(self) -> None:
        self.taken: list[Record] = []
        self.files: dict[str, str] = {}
        self.away = False
        self.refused_stage = ""

    def send(self, record: Record) -> str:
        if self.away:
            raise TrackingError("http://store: nobody answers")
        if self.refused_stage and record.tags["stage"] == self.refused_stage:
            raise RecordRefused("http://store: no such thing")
        self.taken.append(record)
        self.files.update({Path(item.source).name: Path(item.source).read_text() for item in record.artifacts})
        return record.record


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def tracker(tmp_path: Path, store: MemoryStore) -> Tracker:
    return Tracker(Project(tmp_path), Tracking(), store)


def test_a_run_arrives_with_what_was_recorded(tracker: Tracker, store: MemoryStore) -> None:
    with tracker.run("features", cohort="x", device="jetson-0", device_kind="virtual") as run:
        run.params({"features": {"workers": 2}})
        run.metrics({"utterances": 3})
        run.curve("loss", [(0, 2.0), (1, 1.0)])
    (record,) = store.taken
    assert record.params == {"features.workers": "2"}
    assert [(key, value, step) for key, value, _, step in record.metrics] == [
        ("utterances", 3.0, 0),
        ("loss", 2.0, 0),
        ("loss", 1.0, 1),
    ]
    wanted = {"stage": "features", "cohort": "x", "device": "jetson-0", "device_kind": "virtual"}
    assert wanted.items() <= record.tags.items()
    assert record.status == "FINISHED"


def test_unknown_figures_are_left_out(tracker: Tracker, store: MemoryStore) -> None:
    with tracker.run("evaluate") as run:
        run.metrics({"wer": None, "cer": float("nan"), "llm_wer": float("inf"), "utterances": 1})
    assert [item[0] for item in store.taken[0].metrics] == ["utterances"]


def test_names_become_what_mlflow_takes(tracker: Tracker, store: MemoryStore) -> None:
    with tracker.run("evaluate") as run:
        run.metrics({"wer/Zoë (2)": 0.5})
    assert store.taken[0].metrics[0][0] == "wer/Zo_ _2_"


def test_a_failing_stage_is_recorded_and_its_error_goes_on(tracker: Tracker, store: MemoryStore) -> None:
    with pytest.raises(ValueError, match="broken"), tracker.run("features"):
        raise ValueError("broken shard")
    assert store.taken[0].status == "FAILED"
    assert store.taken[0].tags["error"] == "ValueError: broken shard"


def test_one_failed_user_does_not_fail_the_stage(tracker: Tracker, store: MemoryStore) -> None:
    with tracker.run("personalize", cohort="x") as run, run.child("personalize", user="u1") as child:
        child.failed("two utterances")
    statuses = {record.name: record.status for record in store.taken}
    assert statuses == {"personalize/u1": "FAILED", "personalize@x": "FINISHED"}


def test_a_child_takes_over_its_stages_place(tracker: Tracker, store: MemoryStore) -> None:
    place = {"device": "jetson-0", "device_kind": "virtual"}
    with (
        tracker.run("personalize", cohort="x", **place) as run,
        run.child("personalize", user="u1", device="jetson-1") as child,
    ):
        pass
    tags = child.record.tags
    assert (tags["cohort"], tags["user"], tags["device"], tags["device_kind"]) == ("x", "u1", "jetson-1", "virtual")
    assert [item.record for item in child.record.ancestors][1:] == [run.record.record]


def test_stages_of_one_process_share_the_run_above(tracker: Tracker, store: MemoryStore) -> None:
    for stage in ("features", "base"):
        with tracker.run(stage):
            pass
    first, second = (record.ancestors[0].record for record in store.taken)
    assert first == second
    assert store.taken[0].record != store.taken[1].record


def test_the_same_key_names_the_same_run(tracker: Tracker, store: MemoryStore) -> None:
    for key in ("a", "a", "b"):
        with tracker.run("features", cohort="x", key=key):
            pass
    first, again, other = (record.record for record in store.taken)
    assert first == again != other


def test_an_artifact_is_kept_as_it_was(tracker: Tracker, store: MemoryStore, tmp_path: Path) -> None:
    file = tmp_path / "table.md"
    file.write_text("before")
    with tracker.run("report") as run:
        run.artifact(file)
        file.write_text("after")
    assert store.files == {"table.md": "before"}


def test_a_missing_artifact_costs_only_itself(tracker: Tracker, store: MemoryStore, tmp_path: Path) -> None:
    with tracker.run("report") as run:
        run.artifact(tmp_path / "gone.png")
        run.metrics({"wer": 0.1})
    assert store.taken[0].artifacts == []
    assert "missing.gone.png" in store.taken[0].tags
    assert store.taken[0].metrics


def test_a_large_artifact_is_linked_with_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tracking.spool.COPY_LIMIT_BYTES", 3)
    large = tmp_path / "weights"
    large.write_text("large")
    spool = Spool(tmp_path / "spool")
    record = Record("r", "e", "n", 0)
    record.artifacts.append(spool.keep(record, large, ""))
    (kept,) = spool.read(spool.put(record)).artifacts
    assert Path(kept.source).samefile(large)
    assert len(kept.sha256) == 64


def test_what_cannot_be_sent_waits_and_one_warning_says_so(
    tracker: Tracker, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.away = True
    with tracker.run("features") as run, run.child("shard", user="u1"):
        pass
    assert len(tracker.spool.waiting()) == 2
    assert [record.message.count("edgealign tracking replay") for record in caplog.records] == [1]


def test_replay_sends_each_once_in_order(tracker: Tracker, store: MemoryStore) -> None:
    store.away = True
    for stage in ("models", "features", "base"):
        with tracker.run(stage):
            pass
    store.away = False
    assert tracker.send().sent == 3
    assert tracker.send().sent == 0
    assert [record.tags["stage"] for record in store.taken] == ["models", "features", "base"]


def test_another_process_can_send_what_this_one_spooled(tracker: Tracker, store: MemoryStore, tmp_path: Path) -> None:
    store.away = True
    with tracker.run("features", cohort="x") as run:
        run.metrics({"utterances": 3})
        run.dataset("x", "a" * 40, "data/cohorts/x")
    later = MemoryStore()
    assert Tracker(Project(tmp_path), Tracking(), later).send().sent == 1
    assert later.taken[0].as_json() == run.record.as_json()
    assert len(later.taken[0].datasets[0].digest) == 36


def test_a_refused_record_lets_the_others_pass(tracker: Tracker, store: MemoryStore) -> None:
    store.away = True
    for stage in ("models", "features"):
        with tracker.run(stage):
            pass
    store.away, store.refused_stage = False, "models"
    done = tracker.send()
    assert (done.sent, done.refused, done.waiting) == (1, 1, 0)
    (aside,) = tracker.spool.refused_folder.iterdir()
    assert "no such thing" in json.loads((aside / "reason.json").read_text())["reason"]


def test_a_broken_record_lets_the_others_pass(tracker: Tracker, store: MemoryStore) -> None:
    store.away = True
    for stage in ("models", "features"):
        with tracker.run(stage):
            pass
    (tracker.spool.waiting()[0] / "record.json").write_text("{")
    store.away = False
    done = tracker.send()
    assert (done.sent, done.refused) == (1, 1)


def test_an_unforeseen_error_of_the_store_does_not_reach_the_stage(tracker: Tracker) -> None:
    class Broken:
        def send(self, record: Record) -> str:
            raise RuntimeError("surprise")

    tracker._store = Broken()
    with tracker.run("features"):
        pass
    assert len(tracker.spool.waiting()) == 1


def full(record: Record) -> Path:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_the_spool_cannot_keep_is_sent_at_once(
    tracker: Tracker, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "table.md").write_text("content")
    monkeypatch.setattr(tracker.spool, "put", full)
    with tracker.run("report") as run:
        run.artifact(tmp_path / "table.md")
    assert [record.tags["stage"] for record in store.taken] == ["report"]
    assert store.files == {"table.md": "content"}


def test_a_run_that_can_go_nowhere_is_told_and_the_stage_goes_on(
    tracker: Tracker, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracker.spool, "put", full)
    store.away = True
    with tracker.run("report"):
        pass
    (warning,) = [record.message for record in caplog.records]
    for words in ("report is NOT recorded", "No space left on device", "nobody answers", "dvc repro"):
        assert words in warning


def test_refused_records_go_out_again_when_asked(tracker: Tracker, store: MemoryStore) -> None:
    store.refused_stage = "models"
    with tracker.run("models"):
        pass
    store.refused_stage = ""
    assert tracker.send().sent == 0
    assert tracker.spool.readmit() == 1
    assert tracker.send().sent == 1
    assert list(tracker.spool.refused_folder.iterdir()) == []


def test_patience_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    before = dict(os.environ)
    with patience():
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == PATIENCE["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
    assert dict(os.environ) == before


@pytest.mark.parametrize("uri", ["http://", "http://127.0.0.1:notaport", "http://127.0.0.1:1"])
def test_an_address_where_nobody_answers_is_told_at_once(uri: str) -> None:
    with pytest.raises(TrackingError):
        check_reachable(uri)


def test_messages_hold_no_password() -> None:
    assert redacted("http://me:secret@host:5000/x") == "http://host:5000/x"


def test_importing_the_tracker_does_not_import_mlflow() -> None:
    program = "import sys, pipeline.tracking.cli, pipeline.tracking; sys.exit('mlflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


SHOW = "import mlflow; print(mlflow.__file__, mlflow.MlflowClient.__name__)"


@pytest.mark.parametrize("how", ["-c", "script", "-m"])
def test_mlflow_is_the_library_from_the_projects_root(tmp_path: Path, how: str) -> None:
    assert (ROOT / "mlflow").is_dir()
    assert not (ROOT / "mlflow" / "__init__.py").exists()
    (tmp_path / "script.py").write_text(SHOW)
    command = {"-c": ["-c", SHOW], "script": [str(tmp_path / "script.py")], "-m": ["-m", "mlflow", "--version"]}[how]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "version" in done.stdout if how == "-m" else "MlflowClient" in done.stdout
    assert str(ROOT / "mlflow") not in done.stdout


def test_mlflow_is_the_library_in_pytest() -> None:
    import mlflow

    assert Path(mlflow.__file__).name == "__init__.py"
    assert ROOT / "mlflow" not in Path(mlflow.__file__).parents
