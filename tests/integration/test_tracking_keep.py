"""Backups of the embedded store while it is written, restored here and elsewhere; old runs out of it for good."""

from __future__ import annotations

import io
import json
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.project import Project
from pipeline.settings import Tracking
from pipeline.tracking.backup import backup, restore
from pipeline.tracking.prune import apply, plan
from pipeline.tracking.record import now_ms
from pipeline.tracking.tracker import Tracker
from stages.atomic import sha256_file
from stages.errors import InputError, TrackingError
from tests.integration.test_tracking_mlflow import all_runs, check_stage, client, record_stage

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
DAY_MS = 24 * 3600 * 1000


def project_with_store(folder: Path, fresh_store: Path) -> Tracker:
    target = folder / ".edgealign" / "mlflow" / "mlflow.db"
    target.parent.mkdir(parents=True)
    target.write_bytes(fresh_store.read_bytes())
    return Tracker(Project(folder), Tracking())


@pytest.fixture
def tracker(tmp_path: Path, fresh_store: Path) -> Tracker:
    return project_with_store(tmp_path / "project", fresh_store)


def test_a_backup_restored_elsewhere_has_every_run_with_its_files(tracker: Tracker, tmp_path: Path) -> None:
    record_stage(tracker, tmp_path)
    made = backup(tracker, tmp_path / "copy.tar")
    assert (made.runs, made.files) == (3, 2)
    there = Tracker(Project(tmp_path / "elsewhere"), Tracking())
    found, aside = restore(there, tmp_path / "copy.tar", replace=False)
    assert found.runs == 3 and aside is None
    (tracker.project.private / "mlflow").rename(tmp_path / "away")  # nothing is read from where it was
    check_stage(there.uri)
    run = all_runs(there.uri)["personalize/u1"]
    file = client(there.uri).download_artifacts(run.info.run_id, "adapter/adapter.safetensors", str(tmp_path))
    assert Path(file).read_bytes() == b"weights"
    with there.run("base"):  # and it goes on
        pass
    assert "base" in all_runs(there.uri) and there.spool.waiting() == []


WRITER = """
import sys
from pathlib import Path
from pipeline.project import Project
from pipeline.settings import Tracking
from pipeline.tracking.tracker import Tracker
tracker = Tracker(Project(Path(sys.argv[1])), Tracking())
number = 0
while True:
    with tracker.run("features", cohort=f"c{number}") as run:
        run.metrics({"number": number})
        run.artifact(Path(sys.argv[2]))
    print(number, flush=True)
    number += 1
"""


def test_a_backup_taken_while_a_stage_writes_is_of_one_moment(tracker: Tracker, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a,b\n" * 1000)
    command = [sys.executable, "-c", WRITER, str(tracker.project.root), str(table)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        try:
            for number in range(3):
                assert writer.stdout.readline().strip() == str(number)
            backup(tracker, tmp_path / "copy.tar")
            assert writer.stdout.readline().strip()  # it went on
        finally:
            writer.kill()
    there = Tracker(Project(tmp_path / "elsewhere"), Tracking())
    restore(there, tmp_path / "copy.tar", replace=False)
    runs = all_runs(there.uri)
    cohorts = sorted(int(run.data.tags["cohort"][1:]) for name, run in runs.items() if name != "command")
    assert cohorts == list(range(len(cohorts))) and len(cohorts) >= 3
    for name, run in runs.items():
        if name != "command":
            assert run.info.status == "FINISHED" and run.data.metrics
            (file,) = client(there.uri).list_artifacts(run.info.run_id)
            assert file.file_size == table.stat().st_size


def test_restore_leaves_a_store_alone_unless_told_and_then_keeps_it_aside(tracker: Tracker, tmp_path: Path) -> None:
    with tracker.run("models"):
        pass
    backup(tracker, tmp_path / "copy.tar")
    with tracker.run("features"):
        pass
    with pytest.raises(InputError, match="--replace"):
        restore(tracker, tmp_path / "copy.tar", replace=False)
    assert {"models", "features"} <= names(tracker.project.private / "mlflow")
    _, aside = restore(tracker, tmp_path / "copy.tar", replace=True)
    assert aside is not None
    assert names(tracker.project.private / "mlflow") == names(aside) - {"features"}


def names(store: Path) -> set[str]:
    with closing(sqlite3.connect(store / "mlflow.db")) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM runs")}


def test_restore_refuses_while_another_process_has_the_store_open(tracker: Tracker, keep: Path) -> None:
    database = tracker.project.private / "mlflow" / "mlflow.db"
    holder = f"file = open({str(database)!r}); print(flush=True); input()"
    command = [sys.executable, "-c", holder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()  # type: ignore[union-attr]
        with pytest.raises(TrackingError, match=f"process {process.pid} .*has it open"):
            restore(tracker, keep, replace=True)
        process.communicate("\n")
    restore(tracker, keep, replace=True)
    assert len(names(database.parent)) == 3


def damaged(source: Path, target: Path, how: str) -> None:
    if how == "cut off":
        target.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
        return
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for entry in old:
            content = old.extractfile(entry).read()  # type: ignore[union-attr]
            if how == "another file" and entry.name.endswith("adapter.safetensors"):
                content = b"WEIGHTS"
            if how == "a file outside" and entry.name.endswith("adapter.json"):
                entry.name = "../../escaped.json"
            if how == "another version" and entry.name == "manifest.json":
                content = json.dumps({**json.loads(content), "version": 99}).encode()
            if how == "a file less" and entry.name.endswith("adapter.json"):
                continue
            entry.size = len(content)
            new.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("how", ["cut off", "another file", "a file outside", "a file less", "another version"])
def test_a_damaged_backup_is_refused_and_changes_nothing(
    tracker: Tracker, tmp_path: Path, how: str, keep: Path
) -> None:
    damaged(keep, tmp_path / "bad.tar", how)
    before = sha256_file(tracker.project.private / "mlflow" / "mlflow.db")
    with pytest.raises(InputError, match=r"bad\.tar: "):
        restore(tracker, tmp_path / "bad.tar", replace=True)
    assert [path.name for path in tracker.project.private.iterdir() if path.name != "spool"] == ["mlflow"]
    assert sha256_file(tracker.project.private / "mlflow" / "mlflow.db") == before
    assert not list(tmp_path.rglob("escaped.json"))


@pytest.fixture(scope="module")
def keep(tmp_path_factory: pytest.TempPathFactory, fresh_store: Path) -> Path:
    """A good backup."""
    folder = tmp_path_factory.mktemp("keep")
    tracker = project_with_store(folder / "project", fresh_store)
    record_stage(tracker, folder)
    return backup(tracker, folder).file


def test_a_server_is_not_backed_up_from_here(tmp_path: Path) -> None:
    there = Tracker(Project(tmp_path), Tracking(uri="http://me:secret@tracking:5000"))
    with pytest.raises(TrackingError, match=r"mlflow/README\.md") as error:
        backup(there, tmp_path / "copy.tar")
    assert "secret" not in str(error.value)


def add_repro(tracker: Tracker, age_days: float, **tags: str) -> dict[str, str]:
    """One `dvc repro` of that age, a stage and a user below it, with a file each: {name: run id}."""
    there, made = client(tracker.uri), {}
    found = there.get_experiment_by_name("edgealign")
    location = (tracker.project.private / "mlflow" / "artifacts").as_uri()
    experiment = found.experiment_id if found else there.create_experiment("edgealign", location)
    parent = ""
    for name in ("top", "stage", "user"):
        start = now_ms() - int(age_days * DAY_MS)
        own = {**({"mlflow.parentRunId": parent} if parent else {}), **(tags if name == "user" else {})}
        run = there.create_run(experiment, start, own, name)
        parent = made[name] = run.info.run_id
        there.log_text(parent, "x" * 1000, "file.txt")
        there.log_metric(parent, "wer", 0.5)
        there.set_terminated(parent)
    return made


def left(tracker: Tracker) -> set[str]:
    """Ids in the database, deleted ones included."""
    with closing(sqlite3.connect(tracker.project.private / "mlflow" / "mlflow.db")) as connection:
        return {name for (name,) in connection.execute("SELECT run_uuid FROM runs")}


def test_prune_takes_the_old_ones_for_good_and_spares_what_is_needed(tracker: Tracker) -> None:
    old = add_repro(tracker, 40)
    registered = add_repro(tracker, 40, adapter_sha256="a1")
    base = add_repro(tracker, 40, adapter_sha256="b1")
    thrown = add_repro(tracker, 40)
    young = add_repro(tracker, 3)
    there = client(tracker.uri)
    there.delete_run(thrown["user"])
    tags = {"adapter_sha256": "a1", "base_sha256": "b1"}
    there.create_registered_model("m")
    there.create_model_version("m", "x", registered["user"], tags=tags)
    experiment = there.create_experiment("another")  # somebody may want it back
    there.delete_experiment(experiment)

    found = plan(tracker, keep_days=30, keep_last=None)
    expected = {*old.values(), *thrown.values()}
    assert {run.info.run_id for run in found.runs} == expected
    assert found.kept == {"registered": 1, "base of a registered adapter": 1, "above a kept run": 4, "young": 3}
    assert found.bytes == 6000
    assert left(tracker) == {one for made in (old, registered, base, thrown, young) for one in made.values()}

    database = tracker.project.private / "mlflow" / "mlflow.db"
    assert apply(tracker, found) == ""
    assert left(tracker) == {*registered.values(), *base.values(), *young.values()}
    artifacts = tracker.project.private / "mlflow" / "artifacts"
    assert {path.name for path in artifacts.iterdir()} >= left(tracker)
    assert not {path.name for path in artifacts.iterdir()} & expected
    with closing(sqlite3.connect(database)) as connection:
        for table in ("metrics", "tags", "latest_metrics", "params"):
            rows = {name for (name,) in connection.execute(f"SELECT DISTINCT run_uuid FROM {table}")}
            assert rows <= left(tracker), table
    assert client(tracker.uri).get_experiment(experiment).lifecycle_stage == "deleted"
    assert plan(tracker, keep_days=30, keep_last=None).runs == []


def test_keep_last_protects_whole_repros_whatever_their_age(tracker: Tracker) -> None:
    repros = [add_repro(tracker, age) for age in (50, 40, 30)]
    by_number = plan(tracker, keep_days=None, keep_last=2)
    assert {run.info.run_id for run in by_number.runs} == set(repros[0].values())
    both = plan(tracker, keep_days=45, keep_last=1)  # each protects by itself
    assert {run.info.run_id for run in both.runs} == set(repros[0].values())
    for days, last in ((None, None), (-1.0, None)):
        with pytest.raises(InputError, match="prune"):
            plan(tracker, days, last)


def test_runs_of_devices_take_no_repros_place_and_stay_since_the_oldest_kept_one(tracker: Tracker) -> None:
    repros = [add_repro(tracker, age) for age in (50, 40, 30)]
    there, told = client(tracker.uri), {}
    experiment = there.get_experiment_by_name("edgealign").experiment_id
    for age in (45, 35, 3, 2, 1):
        run = there.create_run(experiment, now_ms() - age * DAY_MS, {"source": "device"}, "pull@home/ann")
        there.set_terminated(run.info.run_id)
        told[age] = run.info.run_id
    found = plan(tracker, keep_days=None, keep_last=2)
    assert {run.info.run_id for run in found.runs} == {*repros[0].values(), told[45]}
    assert found.kept == {"of the last": 6, "of a device, no older than the last": 4}
    by_age = plan(tracker, keep_days=10, keep_last=0)
    assert {run.info.run_id for run in by_age.runs}.isdisjoint({told[3], told[2], told[1]})
    assert {told[45], told[35]} <= {run.info.run_id for run in by_age.runs}


def test_a_run_that_has_not_ended_stays_with_all_above_it(tracker: Tracker) -> None:
    made = add_repro(tracker, 40)
    client(tracker.uri).update_run(made["stage"], "RUNNING")
    found = plan(tracker, keep_days=30, keep_last=None)
    assert {run.info.run_id for run in found.runs} == {made["user"]}


def test_the_commands_say_first_and_do_it_when_told(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tracker.project.root
    content: dict[str, Any] = {"cohorts": [], "base_cohorts": [], "personal_cohorts": [], "tracking": {"keep_days": 30}}
    (root / "params.yaml").write_text(json.dumps(content))
    (root / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(root)
    made = add_repro(tracker, 40)
    said = CliRunner().invoke(app, ["tracking", "prune"])
    assert said.exit_code == 0 and "3 run(s), 0.0 MB of files would go" in said.output, said.output
    assert left(tracker) == set(made.values())
    done = CliRunner().invoke(app, ["tracking", "backup", str(tmp_path)])
    assert done.exit_code == 0 and "3 run(s), 3 file(s)" in done.output, done.output
    done = CliRunner().invoke(app, ["tracking", "prune", "--yes"])
    assert done.exit_code == 0 and "Deleted for good" in done.output, done.output
    assert left(tracker) == set()
    (copy,) = tmp_path.glob("mlflow-*.tar")
    done = CliRunner().invoke(app, ["tracking", "restore", str(copy), "--replace"])
    assert done.exit_code == 0 and "Restored: 3 run(s)" in done.output, done.output
    assert left(tracker) == set(made.values())
