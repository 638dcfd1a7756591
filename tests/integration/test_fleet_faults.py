"""A cluster of three hosts, each in a network of its own: what a cut cable, lost power and a wrong token do to it.

The hosts are network namespaces (tests.helpers_hosts); head and devices are the commands that an operator starts.
EDGEALIGN_FULL=1 keeps the cable out for 60 s and takes the power from a device in the middle of a real stage; the suite has
test_device_faults.py for that.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.project import Project
from stages.alignment.adapter import read_record
from tests.helpers_adapters import build, set_params
from tests.helpers_fleet import REJOIN_S, ROOT, Fleet, fleet_of
from tests.helpers_hosts import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

USERS = ("ann", "bob", "cid", "dot")
FULL = os.environ.get("EDGEALIGN_FULL") == "1"
OUT_S = 60.0 if FULL else 10.0

WORK = """
import sys, time
from pathlib import Path
from pipeline.cluster.placement import Placement
from pipeline.cluster.session import connect
from pipeline.cluster.work import run_tasks
from pipeline.project import Project
from pipeline.settings import RaySettings, Settings

def slow(number):
    import time
    time.sleep(3)
    return number

settings = Settings(cohorts=[], base_cohorts=[], personal_cohorts=[], ray=RaySettings(address=sys.argv[1]))
with connect(Project(Path(".")), settings) as session:
    print("connected", flush=True)
    told = lambda index, result: print("done", result.value, result.node.name, flush=True)
    failures = run_tasks(
        session, slow, [(number,) for number in range(8)], Placement(cpus=0, jetson=1), retries=3, on_result=told
    )
    print("failures", failures, flush=True)
"""

RECORD = """
import sys
from pathlib import Path
from pipeline.project import Project
from pipeline.settings import Tracking
from pipeline.tracking.tracker import Tracker

tracker = Tracker(Project(Path(sys.argv[1])), Tracking(uri=sys.argv[2]))
for name in sys.argv[3:]:
    with tracker.run(name) as run:
        run.metrics({"wer": 0.25})
print("waiting", len(tracker.spool.waiting()))
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_of(tmp_path_factory.mktemp("fleet")) as there:
        yield there


def test_the_heads_token_is_made_and_private(fleet: Fleet) -> None:
    token = fleet.folder / "token"
    assert token.stat().st_mode & 0o077 == 0
    assert len(token.read_text()) == 64
    assert "edgealign-agent join --head" in (fleet.folder / "head.log").read_text()


@pytest.mark.parametrize("token", ["", "00" * 32])
def test_without_the_token_nobody_joins_and_nothing_runs(fleet: Fleet, tmp_path: Path, token: str) -> None:
    wrong = tmp_path / "token"
    wrong.write_text(token)
    before = fleet.living()
    stranger = {**fleet.env, "RAY_AUTH_TOKEN_PATH": str(wrong)}
    work = fleet.right.run([sys.executable, "-c", WORK, fleet.address], stranger, ROOT)
    assert work.returncode != 0 and "connected" not in work.stdout
    assert "token" in work.stderr
    log = fleet.join(fleet.right, RAY_AUTH_TOKEN_PATH=str(wrong))
    process = fleet.right.processes.pop()
    try:
        wait_for(lambda: "token" in log.read_text(), 60, fleet.logs)
        assert "Traceback" not in log.read_text()
        assert fleet.living() == before
    finally:
        process.terminate()
        process.wait(30)


def test_work_goes_on_when_a_cable_is_cut_and_the_device_joins_again(fleet: Fleet) -> None:
    wait_for(fleet.all_there, REJOIN_S, fleet.logs)
    work, log = fleet.drive(WORK)

    def lines(word: str) -> list[str]:
        return [line for line in log.read_text().splitlines() if line.startswith(word)]

    wait_for(lambda: lines("done"), 120, fleet.logs)
    fleet.left.cut()
    try:
        wait_for(lambda: fleet.living() == {fleet.head.address, fleet.right.address}, 60, fleet.logs)
        assert work.wait(120) == 0, log.read_text()
        # every item once, whatever the lost device had done of it
        assert sorted(int(line.split()[1]) for line in lines("done")) == list(range(8))
        assert lines("failures") == ["failures []"]
        mark = fleet.folder / "out"
        mark.touch()
        wait_for(lambda: _age_s(mark) > OUT_S, OUT_S + 10, str)
    finally:
        fleet.left.mend()
    wait_for(fleet.all_there, REJOIN_S, fleet.logs)


def test_runs_recorded_behind_a_cut_cable_arrive_once(fleet: Fleet, tmp_path: Path) -> None:
    port = 5000
    uri = f"http://{fleet.head.address}:{port}"
    store = f"sqlite:///{tmp_path / 'server.db'}"
    words = ["-m", "mlflow", "server", "--host", fleet.head.address, "--port", str(port), "--backend-store-uri", store]
    words += ["--artifacts-destination", str(tmp_path / "files"), "--workers", "1"]
    fleet.head.start([sys.executable, *words], tmp_path / "server.log", fleet.env, tmp_path)
    asked = f"import urllib.request; urllib.request.urlopen('{uri}/health', timeout=2)"
    up = [sys.executable, "-c", asked]
    told = (tmp_path / "server.log").read_text
    wait_for(lambda: fleet.head.run(up, fleet.env, ROOT).returncode == 0, 120, told)
    device = tmp_path / "device"
    device.mkdir()
    record = ("-c", RECORD, str(device), uri)
    assert fleet.python(fleet.left, *record, "first") == "waiting 0\n"
    fleet.left.cut()
    try:
        assert fleet.python(fleet.left, *record, "second", "third") == "waiting 2\n"
    finally:
        fleet.left.mend()
    assert fleet.python(fleet.left, *record, "fourth") == "waiting 0\n"
    assert fleet.python(fleet.left, *record) == "waiting 0\n"
    listing = (
        "import sys; from mlflow import MlflowClient; there = MlflowClient(sys.argv[1]);"
        "runs = there.search_runs([there.get_experiment_by_name('edgealign').experiment_id]);"
        "print(sorted(run.info.run_name for run in runs if 'wer' in run.data.metrics))"
    )
    assert fleet.python(fleet.head, "-c", listing, uri) == "['first', 'fourth', 'second', 'third']\n"


@pytest.mark.skipif(not FULL, reason="some minutes: set EDGEALIGN_FULL=1")
def test_a_device_that_loses_power_costs_personalize_nothing(fleet: Fleet, tmp_path: Path) -> None:
    project = build(tmp_path / "project", {"home": dict.fromkeys(USERS, 1.5)})
    shutil.rmtree(project.adapters("home"))
    shutil.rmtree(project.private / "spool")
    set_params(project, personalize={"steps": 200}, ray={"address": fleet.address})
    wait_for(fleet.all_there, REJOIN_S, fleet.logs)
    log = fleet.folder / "personalize.log"
    stage = [sys.executable, "-m", "pipeline", "stage", "personalize", "home"]
    process = fleet.head.start(stage, log, fleet.env, project.root)
    wait_for(lambda: _trained(project) or process.poll() is not None, 200, log.read_text)
    fleet.right.lose_power()
    assert process.wait(300) == 0, log.read_text()
    assert _trained(project) == set(USERS)
    for user in USERS:
        assert read_record(project.adapters("home") / user).user == user
    assert _users_recorded(project) == sorted(USERS)
    assert "its worker was lost" in log.read_text()


def _users_recorded(project: Project) -> list[str]:
    """The user of every run of a user's training; one that was recorded twice is there twice."""
    database = project.private / "mlflow" / "mlflow.db"
    training = "SELECT run_uuid FROM tags WHERE key = 'stage' AND value = 'personalize'"
    query = f"SELECT value FROM tags WHERE key = 'user' AND run_uuid IN ({training}) ORDER BY value"
    with closing(sqlite3.connect(database)) as connection:
        return [row[0] for row in connection.execute(query)]


def _trained(project: Project) -> set[str]:
    return {path.parent.name for path in project.adapters("home").glob("*/adapter.json")}


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime
