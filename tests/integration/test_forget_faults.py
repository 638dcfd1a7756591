"""`edgealign cohort forget` that is asked less, refused, killed, or cannot clean a place; and on a tracking server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.helpers_erasure import SLUG, World, append
from tests.helpers_forget import check_forgotten, forget, others, pending, runs_of
from tests.helpers_traces import Traces, search
from tests.integration.test_tracking_mlflow import free_port, server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def test_a_dry_run_and_a_refusal_change_nothing(world: World) -> None:
    from tests.helpers_cohorts import hashes

    def state() -> dict[str, str]:
        skip = ("db-wal", "db-shm", ".lock")
        folders = (world.project.root, world.folder / "remote")
        found = {f"{folder.name}/{name}": digest for folder in folders for name, digest in hashes(folder).items()}
        return {name: digest for name, digest in found.items() if not name.endswith(skip) and "/.dvc/tmp/" not in name}

    before = state()
    planned = forget(world, dry_run=True)
    assert planned.erasure is None
    assert any("remote" in place for place in planned.found)
    assert "nothing was erased" in forget(world, SLUG, answer="no").said
    assert state() == before


def test_one_cohort_can_be_meant(world: World) -> None:
    from stages.shards import iter_shard, list_shards

    def users(cohort: str) -> set[str]:
        return {item.user for shard in list_shards(world.project.cohort(cohort)) for item in iter_shard(shard)}

    result = forget(world, cohort="far")
    assert result.left == []
    assert users("far") == {"carol"}
    assert SLUG in users("home")
    assert (world.project.adapters("home") / SLUG / "adapter.json").is_file()
    assert not (world.project.adapters("far") / SLUG).exists()
    world.dvc("push", "--quiet")
    assert world.dvc("status", "--cloud").strip().endswith("in sync.")


def test_a_name_that_nobody_has_is_told(world: World) -> None:
    with pytest.raises(AssertionError, match=r"nobody-here.*in no cohort"):
        forget(world, "nobody-here")


SERVED = """
import sys
from pathlib import Path
from pipeline.settings import Tracking
from pipeline.tracking.tracker import Tracker
from tests.helpers_erasure import SLUG, World

world, uri = World(Path(sys.argv[1])), sys.argv[2]
tracker = Tracker(world.project, Tracking(uri=uri))
with tracker.run("personalize", cohort="home") as run:
    for user in (SLUG, "ann"):
        with run.child("personalize", user=user, key=user) as child:
            child.dataset(f"home/{user}", "0" * 32, "home")
            child.adapter(world.project.adapters("home") / user, f"home/{user}")
with tracker.run("evaluate", cohort="home") as run:
    run.artifact(world.project.evaluation("home"), "metrics")
assert not tracker.spool.waiting()
"""


def test_a_server_is_cleaned_as_far_as_that_goes_and_its_operator_is_told(world: World, traces: Traces) -> None:
    project, port = world.project, free_port()
    for name in ("mlflow", "spool"):
        shutil.rmtree(project.private / name)
    (world.folder / "operator").mkdir()
    with server(world.folder / "operator", port) as uri:
        world.run(sys.executable, "-c", SERVED, str(world.folder), uri)
        path = project.root / "params.yaml"
        path.write_text(path.read_text(encoding="utf-8").replace("uri: ''", f"uri: {uri}"), encoding="utf-8")
        result = forget(world)
        assert result.left == []
        found = runs_of(world, uri)
        assert [run["tags"]["user"] for run in found["runs"] if run["tags"].get("user")] == ["ann"]
        [told] = [line for line in result.said if "mlflow gc" in line]
        files = world.folder / "operator" / "server"
        assert search(files / "artifacts", traces) == []
        assert search(files, traces)  # until its operator does what was told
        command = told.split("`")[1].replace("<the server's store>", f"sqlite:///{files}/mlflow.db")
        environment = {"MLFLOW_TRACKING_URI": uri}
        subprocess.run([sys.executable, "-m", *command.split()], env={**os.environ, **environment}, cwd="/", check=True)
    program = (
        "import sys; from pathlib import Path; from pipeline.tracking.sweep import scrub; scrub(Path(sys.argv[1]))"
    )
    world.run(sys.executable, "-c", program, str(files / "mlflow.db"))
    assert "the server's log of requests" in told
    (world.folder / "operator" / "server.log").unlink()
    assert search(world.folder, traces) == []


def test_what_was_never_computed_does_not_pass_for_done(world: World, traces: Traces) -> None:
    """A cohort that got more recordings, and was not computed since: its new shard is computed by the next `dvc repro`."""
    append(world.project, "far", "carol")
    world.dvc("add", "--quiet", "data")
    assert forget(world).left == []
    assert search(world.folder, traces) == []
    behind = {name for name in json.loads(world.dvc("status", "--json")) if name.endswith("@far")}
    assert behind >= {"features@far", "pseudo_labels@far"}
    assert {shard.name for shard in pending(world)} == {"shard-00003.tar"}


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.cohorts.erasure import forget, versions, tracking, artifacts, data, private, proof
from pipeline.project import Project
import stages.atomic

module, name, count, when = sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]
owner = sys.modules[f"pipeline.cohorts.erasure.{module}"]
plain = getattr(owner, name)
calls = 0

def deadly(*arguments, **named):
    global calls
    calls += 1
    if calls == count and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = plain(*arguments, **named)
    if calls == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, name, deadly)
forget.forget_user(Project(Path(sys.argv[1])), "Zebulon Quux", confirm=lambda question: True)
"""


MOMENTS = [
    ("data", "write_bytes", 2, "after"),  # in the middle of a cohort's shards
    ("versions", "record", 1, "before"),  # all files rewritten, DVC knows nothing yet
    ("versions", "unlock_broken", 1, "before"),  # the objects are deleted
    ("tracking", "collect", 1, "after"),  # runs are deleted, their inputs and free pages are not
    ("proof", "git_mentions", 1, "before"),  # everything is erased, nothing verified
]


def test_killed_again_and_again_it_goes_on(world: World, traces: Traces) -> None:
    """Each run is killed somewhat later than the one before; the last one finishes what all of them began."""
    before = others(world)
    for module, name, count, when in MOMENTS:
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, str(world.project.root), module, name, str(count), when],
            env={**os.environ, **world.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL, f"{name}: {killed.stdout[-2000:]}{killed.stderr[-3000:]}"
        assert search(world.folder, traces), name  # or there would be nothing left to go on with
    assert forget(world).left == []
    check_forgotten(world, traces, before)
    assert set(json.loads(world.dvc("status", "--json"))) == {"base_inputs", "report"}


def test_a_place_that_cannot_be_cleaned_is_told_and_not_passed_over(world: World, traces: Traces) -> None:
    """Without VACUUM the free pages of MLflow's file keep what was deleted: the verification must see that."""
    result = forget(world, broken="scrub")
    assert any("mlflow.db" in place for place in result.left)
    assert any("mlflow.db" in item for item in search(world.folder, traces))
    assert forget(world).left == []
    assert search(world.folder, traces) == []
