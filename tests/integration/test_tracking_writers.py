"""Eight Ray workers on two nodes that log at once: into the embedded store, and to a server that is killed meanwhile."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster.placement import Placement
from pipeline.cluster.session import Session
from pipeline.project import Project
from pipeline.settings import Tracking
from pipeline.tracking.tracker import Tracker
from tests.helpers_server import free_port, serving, stop
from tests.integration.test_tracking_mlflow import client

pytestmark = pytest.mark.integration

WORKERS, RUNS, POINTS = 8, 2, 1000
SIDES = (Placement(cpus=0.5), Placement(cpus=0, jetson=0.25))
"""Four of each fit: on the head, and on the virtual Jetson, which is a node of its own."""


def writer() -> Callable[..., str]:
    """What one worker does. Defined in a function, it travels by value: workers cannot import the tests."""

    def work(root: str, uri: str, number: int, workers: int, runs: int, points: int) -> str:
        import time
        from pathlib import Path

        import ray

        from pipeline.project import Project
        from pipeline.settings import Tracking
        from pipeline.tracking.tracker import Tracker

        # a worker knows neither the project's folder nor the store: both are told. All wait for the last to come
        here = Path(root) / "here"
        here.mkdir(exist_ok=True)
        (here / str(number)).touch()
        deadline = time.monotonic() + 120
        while len(list(here.iterdir())) < workers and time.monotonic() < deadline:
            time.sleep(0.05)
        tracker = Tracker(Project(Path(root)), Tracking(uri=uri))
        for item in range(runs):
            with tracker.run("features", cohort=f"w{number}-{item}") as run:
                run.params({"number": number})
                run.curve("loss", [(step, float(step)) for step in range(points)])
                run.artifact(here / str(number))
        return str(ray.get_runtime_context().get_node_id())

    return work


def send_off(project: Project, uri: str) -> list[Any]:
    """The eight tasks, under way."""
    import ray

    remote = ray.remote(writer())
    return [
        remote.options(**SIDES[number % 2].options()).remote(str(project.root), uri, number, WORKERS, RUNS, POINTS)
        for number in range(WORKERS)
    ]


def check_everything_is_there_once(tracker: Tracker) -> None:
    assert tracker.send().waiting == 0
    assert not tracker.spool.refused_folder.exists()
    there = client(tracker.uri)
    experiment = there.get_experiment_by_name("edgealign")
    runs = there.search_runs([experiment.experiment_id], "tags.stage = 'features'", max_results=1000)
    cohorts = Counter(run.data.tags["cohort"] for run in runs)
    assert cohorts == Counter(f"w{number}-{item}" for number in range(WORKERS) for item in range(RUNS))
    for run in runs:
        assert run.info.status == "FINISHED"
        history = there.get_metric_history(run.info.run_id, "loss")
        assert sorted(point.step for point in history) == list(range(POINTS))
        assert [item.path for item in there.list_artifacts(run.info.run_id)] == [run.data.params["number"]]


def test_into_the_embedded_store(session: Session, tmp_path: Path) -> None:
    import ray

    project = Project(tmp_path)  # the store is not there yet: they race to make it
    nodes = ray.get(send_off(project, ""), timeout=300)
    assert sorted(Counter(nodes).values()) == [4, 4]
    check_everything_is_there_once(Tracker(project, Tracking()))


def test_to_a_server_that_is_killed_in_the_middle(session: Session, tmp_path: Path) -> None:
    import ray

    port, folder, project = free_port(), tmp_path / "server", Project(tmp_path / "project")
    project.root.mkdir()
    uri = f"http://127.0.0.1:{port}"
    with serving(folder, port, AUTHENTICATION="off") as process:
        tasks = send_off(project, uri)
        while points_in(folder / "mlflow.db") < 5 * POINTS + 1:
            assert len(ray.wait(tasks, num_returns=WORKERS, timeout=0)[0]) < WORKERS
            time.sleep(0.02)
        stop(process, signal.SIGKILL)
    arrived = points_in(folder / "mlflow.db")
    ray.get(tasks, timeout=300)  # the workers went on
    tracker = Tracker(project, Tracking(uri=uri))
    waiting = len(tracker.spool.waiting())
    assert 0 < waiting < WORKERS * RUNS and arrived < WORKERS * RUNS * POINTS
    with serving(folder, port, AUTHENTICATION="off"):
        check_everything_is_there_once(tracker)
        assert tracker.send().sent == 0


def points_in(database: Path) -> int:
    """Metric points that the server's database holds."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM metrics").fetchone()[0])
    return 0


def test_mlflow_is_the_library_for_a_worker_in_the_projects_root(session: Session) -> None:
    import ray

    def where(root: str) -> str:
        import os
        import sys

        os.chdir(root)
        sys.path.insert(0, root)
        import mlflow

        return str(mlflow.__file__)

    root = Path(__file__).resolve().parents[2]
    found = ray.get(ray.remote(where).options(**SIDES[1].options()).remote(str(root)), timeout=120)
    assert Path(found).name == "__init__.py" and root / "mlflow" not in Path(found).parents
