"""Bad input to the embedded store: one message each with its remedy, the stage goes on, and the record arrives later."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.project import Project
from pipeline.settings import Tracking
from pipeline.tracking.backup import backup, restore
from pipeline.tracking.tracker import Tracker
from stages.errors import TrackingError
from tests.integration.test_tracking_mlflow import all_runs, client, record_stage

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]


def database_of(tracker: Tracker) -> Path:
    return tracker.project.private / "mlflow" / "mlflow.db"


def again(tracker: Tracker) -> Tracker:
    """As a process that knows nothing of the first attempt."""
    return Tracker(tracker.project, tracker.settings)


def told(tracker: Tracker, caplog: pytest.LogCaptureFixture) -> str:
    """What a stage says whose record waits: one warning."""
    caplog.clear()
    with tracker.run("features"):
        pass
    assert len(tracker.spool.waiting()) == 1
    (warning,) = [record.message for record in caplog.records if record.name == "edgealign.tracking"]
    assert "edgealign tracking replay" in warning and "\n" not in warning
    return warning


def set_revision(database: Path, revision: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))


OLDER = """
import sys
from alembic import command
from mlflow.store.db.utils import _get_alembic_config
command.upgrade(_get_alembic_config(sys.argv[1]), sys.argv[2])
"""


def test_a_database_of_an_older_mlflow_is_left_as_it_is_until_it_is_upgraded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    revisions = [one.revision for one in ScriptDirectory.from_config(_get_alembic_config("")).walk_revisions()]
    tracker = Tracker(Project(tmp_path), Tracking())
    database = database_of(tracker)
    database.parent.mkdir(parents=True)
    program = "import sys, sqlalchemy; from mlflow.store.tracking.dbmodels.initial_models import Base\n" + (
        "Base.metadata.create_all(sqlalchemy.create_engine(sys.argv[1]))\n" + OLDER
    )
    subprocess.run([sys.executable, "-c", program, tracker.uri, revisions[3]], cwd=database.parent, check=True)
    before = database.read_bytes()
    warning = told(tracker, caplog)
    for words in ("older MLflow", revisions[3], "edgealign tracking backup", f"mlflow db upgrade {tracker.uri}"):
        assert words in warning
    assert database.read_bytes() == before  # MLflow itself would have migrated some
    assert backup(tracker, tmp_path / "copy.tar").file.is_file()
    subprocess.run(
        [sys.executable, "-m", "mlflow", "db", "upgrade", tracker.uri], cwd=tmp_path, check=True, capture_output=True
    )
    assert again(tracker).send().sent == 1
    assert "features" in all_runs(tracker.uri)


def test_a_database_of_a_newer_mlflow_is_told_and_left_alone(
    tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(database_of(tracker))) as connection:
        (own,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    set_revision(database_of(tracker), "feedfacecafe")
    warning = told(tracker, caplog)
    assert "newer MLflow" in warning and "feedfacecafe" in warning and "make env" in warning
    set_revision(database_of(tracker), own)
    assert again(tracker).send().sent == 1


def overwritten(database: Path) -> None:
    database.write_bytes(b"not a database at all" * 500)


def torn(database: Path) -> None:
    content = bytearray(database.read_bytes())
    for page in range(2, len(content) // 4096):
        content[page * 4096 : page * 4096 + 200] = b"\xa5" * 200
    database.write_bytes(content)


@pytest.mark.parametrize("damage", [overwritten, torn])
def test_a_damaged_database_is_told_and_a_backup_takes_its_place(
    tracker: Tracker, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    copy = backup(tracker, tmp_path / "copy.tar").file
    damage(database_of(tracker))
    warning = told(tracker, caplog)
    assert "the database is damaged" in warning and "edgealign tracking restore" in warning
    with pytest.raises(TrackingError, match="the database is damaged"):
        backup(tracker, tmp_path / "second.tar")
    assert not (tmp_path / "second.tar").exists()
    restore(tracker, copy, replace=True)
    assert again(tracker).send().sent == 1
    assert "features" in all_runs(tracker.uri)


STAGE = """
import resource, sys
from pathlib import Path
from pipeline.project import Project
from pipeline.settings import Tracking
from pipeline.tracking.tracker import Tracker
tracker = Tracker(Project(Path(sys.argv[1])), Tracking())
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
with tracker.run("features", cohort="x") as run:
    run.curve("loss", [(step, 1.0 / (step + 1)) for step in range(2500)])
print("the stage went on")
"""


@pytest.mark.parametrize(("limit", "kept"), [(300_000, True), (2_000, False)])
def test_a_disk_that_is_full_is_told_and_what_the_spool_holds_arrives_later(
    tracker: Tracker, limit: int, kept: bool
) -> None:
    """No file may grow beyond the limit: with the larger one the spool takes the record and the database does not."""
    done = subprocess.run(
        [sys.executable, "-c", STAGE, str(tracker.project.root), str(limit)],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert "the stage went on" in done.stdout, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("tracking:")]
    assert len(said) == 1, done.stderr
    assert ("edgealign tracking replay" if kept else "NOT recorded") in said[0]
    assert "the disk is full" in said[0] or "File too large" in said[0]
    assert len(tracker.spool.waiting()) == int(kept)
    assert tracker.send().waiting == 0
    runs = all_runs(tracker.uri)
    assert ("features@x" in runs) == kept
    if kept:
        history = client(tracker.uri).get_metric_history(runs["features@x"].info.run_id, "loss")
        assert sorted(point.step for point in history) == list(range(2500))


@pytest.mark.parametrize("deed", ["changed", "gone"])
def test_an_artifact_that_was_tampered_with_in_the_spool_is_not_sent(
    tracker: Tracker, tmp_path: Path, caplog: pytest.LogCaptureFixture, deed: str
) -> None:
    shelf = database_of(tracker).parent.rename(tmp_path / "shelf")
    (tracker.project.private / "mlflow").touch()  # the store is away
    record_stage(tracker, tmp_path)
    (tracker.project.private / "mlflow").unlink()
    shelf.rename(tracker.project.private / "mlflow")
    (file,) = tracker.spool.folder.rglob("adapter.safetensors")
    file.unlink() if deed == "gone" else file.write_bytes(b"WEIGHTS")
    caplog.clear()
    assert again(tracker).send().waiting == 0
    (warning,) = [record.message for record in caplog.records if "adapter.safetensors" in record.message]
    assert "not the one that was recorded" in warning and "dvc repro" in warning
    run = all_runs(tracker.uri)["personalize/u1"]
    names = {item.path for item in client(tracker.uri).list_artifacts(run.info.run_id, "adapter")}
    assert "adapter/adapter.safetensors" not in names
    assert len(run.data.tags["artifact_changed.adapter.safetensors"]) == 64
    assert run.data.metrics["wer"] == 0.25  # the rest arrived


def test_a_parent_that_was_deleted_is_made_again_and_told(tracker: Tracker, caplog: pytest.LogCaptureFixture) -> None:
    with tracker.run("models"):
        pass
    there = client(tracker.uri)
    before = all_runs(tracker.uri)
    parent = before["models"].data.tags["mlflow.parentRunId"]
    there.delete_run(parent)
    caplog.clear()
    with again(tracker).run("features") as run:
        run.metrics({"wer": 0.25})
    (warning,) = [record.message for record in caplog.records if record.name == "edgealign.tracking"]
    assert "was deleted in the store" in warning and f"mlflow runs restore --run-id {parent}" in warning
    after = all_runs(tracker.uri)
    above = there.get_run(after["features"].data.tags["mlflow.parentRunId"])
    assert above.info.lifecycle_stage == "active" and above.info.run_id != parent
    assert after["features"].data.metrics["wer"] == 0.25
    assert not tracker.spool.waiting()


def test_an_experiment_that_was_renamed_is_told_and_not_made_again(
    tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    with tracker.run("models"):
        pass
    there = client(tracker.uri)
    experiment = there.get_experiment_by_name("edgealign").experiment_id
    there.rename_experiment(experiment, "speech")
    warning = told(again(tracker), caplog)
    assert "'edgealign' is called 'speech' there now" in warning and "tracking.experiment: speech" in warning
    assert there.get_experiment_by_name("edgealign") is None
    renamed = Tracker(tracker.project, Tracking(experiment="speech"))
    assert renamed.send().sent == 1
    (only,) = (one for one in there.search_experiments() if one.name != "Default")
    names = {run.info.run_name for run in there.search_runs([only.experiment_id])}
    assert names == {"command", "models", "features"}
    there.rename_experiment(experiment, "edgealign")  # and back
    assert "'speech' is called 'edgealign' there now" in told(Tracker(tracker.project, renamed.settings), caplog)


def test_an_experiments_mark_is_written_once(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    with tracker.run("models"):
        pass
    written: list[tuple[str, str]] = []
    monkeypatch.setattr(MlflowClient, "set_experiment_tag", lambda self, _, key, value: written.append((key, value)))
    with again(tracker).run("features"):
        pass
    assert "features" in all_runs(tracker.uri)
    assert written == []


def test_an_experiment_may_be_called_anything(tracker: Tracker) -> None:
    named = Tracker(tracker.project, Tracking(experiment="ann's [first] 50%, `try`"))
    with named.run("features"):
        pass
    assert named.spool.waiting() == [] and not named.spool.refused_folder.exists()
    assert len(named.latest(10)) == 2


def test_a_store_that_is_whole_again_gets_a_stage_once(tracker: Tracker, tmp_path: Path) -> None:
    """The store vanishes between two records of one stage, as on a disk that drops out."""
    store = tracker.project.private / "mlflow"
    with tracker.run("features"):
        shutil.move(store, tmp_path / "away")
        store.touch()
    store.unlink()
    shutil.move(tmp_path / "away", store)
    (tmp_path / "rest").mkdir()
    record_stage(again(tracker), tmp_path / "rest")
    runs = all_runs(tracker.uri)
    assert {"features", "personalize@x", "personalize/u1"} <= set(runs)
