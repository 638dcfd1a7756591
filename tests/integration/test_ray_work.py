"""Work on a real embedded Ray session: where it runs, and what happens to workers and items that go wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipeline.cluster import environment, probe
from pipeline.cluster.placement import Placement
from pipeline.cluster.runtime import Record, session_folder, token_path
from pipeline.cluster.session import CODE, connect, ensure_embedded
from pipeline.cluster.work import run_actors, run_tasks
from pipeline.project import Project
from pipeline.settings import RaySettings, Settings
from stages.errors import ClusterError, InputError

pytestmark = pytest.mark.integration

HEAD = Placement(cpus=1)
JETSON = Placement(cpus=0, jetson=1)


def make_settings(address: str = "") -> Settings:
    return Settings(cohorts=[], base_cohorts=[], personal_cohorts=[], ray=RaySettings(address=address))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def session(project):
    with connect(project, make_settings()) as session:
        yield session


@pytest.fixture(scope="module")
def session_files(project, session) -> tuple[Path, Record]:
    return ensure_embedded(project, make_settings())


class Collected(dict):
    """Results by index; a second result for an item is an error."""

    def __call__(self, index, result):
        assert index not in self
        self[index] = result

    def values_by_index(self):
        return {index: result.value for index, result in self.items()}


# Defined in functions, these travel to the workers by value: workers cannot import the tests.
def square():
    return lambda number: number * number


def die_unless(marker_exists: bool = True):
    def work(number, marker):
        import os
        import signal
        from pathlib import Path

        if number == 1 and not Path(marker).exists():
            if marker_exists:
                Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    return work


def counting_actor():
    class Counting:
        def __init__(self, offset):
            if offset is None:
                raise ValueError("no offset")
            self.offset = offset

        def work(self, number, marker="", advance=None):
            import os
            import signal
            import time
            from pathlib import Path

            for step in range(3):
                time.sleep(0.3)
                if advance is not None:
                    advance(1)
                if step == 1 and marker and number == 1 and (marker == "always" or not Path(marker).exists()):
                    if marker != "always":
                        Path(marker).touch()
                    time.sleep(1.0)
                    os.kill(os.getpid(), signal.SIGKILL)
            return os.getpid(), number + self.offset

    return Counting


def test_work_for_a_jetson_runs_on_the_virtual_jetson_only(session):
    results = Collected()
    assert run_tasks(session, square(), [(i,) for i in range(4)], JETSON, retries=0, on_result=results) == []
    assert results.values_by_index() == {0: 0, 1: 1, 2: 4, 3: 9}
    assert {(result.node.name, result.node.kind, result.node.model) for result in results.values()} == {
        ("virtual-jetson-0", "virtual", "orin-8gb")
    }


def test_ordinary_work_runs_on_the_head_only(session):
    results = Collected()
    run_tasks(session, square(), [(i,) for i in range(12)], HEAD, retries=0, on_result=results)
    assert {result.node.name for result in results.values()} == {"head"}
    assert {result.node.kind for result in results.values()} == {"real"}


def test_results_carry_the_peak_memory_of_their_own_item(session):
    def allocate(size):
        block = bytearray(size)
        block[::4096] = b"x" * len(block[::4096])
        return len(block)

    results = Collected()
    one_by_one = Placement(cpus=2)
    run_tasks(session, allocate, [(300_000_000,), (1,)], one_by_one, retries=0, on_result=results)
    assert results[0].peak_rss_bytes > 300_000_000
    assert results[1].peak_rss_bytes < 300_000_000


def test_a_demand_that_no_node_meets_fails_with_what_each_lacks(session):
    impossible = Placement(cpus=0, jetson=1, memory_bytes=9_000_000_000, labels={"model": "thor-128gb"})
    with pytest.raises(ClusterError) as caught:
        run_tasks(session, square(), [(1,)], impossible, retries=0, on_result=Collected())
    message = str(caught.value)
    assert "memory 9.0 GB asked, memory 6.0 GB there" in message
    assert "label model=thor-128gb asked, model=orin-8gb there" in message
    assert "head" in message and "virtual-jetson-0" in message


def test_a_killed_worker_is_replaced_and_each_item_comes_once(session, tmp_path):
    results = Collected()
    arguments = [(i, str(tmp_path / "died")) for i in range(5)]
    assert run_tasks(session, die_unless(), arguments, HEAD, retries=1, on_result=results) == []
    assert (tmp_path / "died").exists()
    assert results.values_by_index() == {i: i for i in range(5)}


def test_an_item_that_always_kills_its_worker_becomes_a_failure(session, tmp_path):
    results = Collected()
    arguments = [(i, str(tmp_path / "never")) for i in range(5)]
    failures = run_tasks(
        session, die_unless(False), arguments, HEAD, retries=1, on_result=results, describe=lambda i: f"shard {i}"
    )
    assert [(failure.index, failure.item) for failure in failures] == [(1, "shard 1")]
    assert "lost 2 time(s)" in failures[0].message
    assert set(results) == {0, 2, 3, 4}


def test_an_item_that_raises_becomes_a_failure_with_its_message(session):
    def work(number):
        if number == 1:
            raise InputError("shard-1.tar: not a tar file")
        if number == 2:
            raise KeyError("speaker")
        return number

    results = Collected()
    failures = run_tasks(session, work, [(i,) for i in range(4)], HEAD, retries=0, on_result=results)
    assert failures[0].message == "shard-1.tar: not a tar file"
    assert failures[1].message.startswith("KeyError: 'speaker' (test_ray_work.py:")
    assert set(results) == {0, 3}


def test_a_silent_item_becomes_a_failure(session):
    def work(number):
        import time

        time.sleep(60 if number == 0 else 0)
        return number

    results = Collected()
    failures = run_tasks(session, work, [(0,), (1,)], HEAD, retries=0, on_result=results, no_progress_timeout_s=5.0)
    assert [failure.index for failure in failures] == [0]
    assert "no progress for 5 s" in failures[0].message
    assert set(results) == {1}


def test_actors_construct_once_and_take_item_after_item(session):
    results = Collected()
    items = [(i,) for i in range(5)]
    assert run_actors(session, counting_actor(), (100,), items, HEAD, workers=2, retries=0, on_result=results) == []
    assert {index: result.value[1] for index, result in results.items()} == {i: i + 100 for i in range(5)}
    assert len({result.value[0] for result in results.values()}) == 2


def test_a_dead_actor_is_replaced_and_its_progress_counts_once(session, tmp_path):
    results, advances = Collected(), []
    items = [(i, str(tmp_path / "died")) for i in range(3)]
    failures = run_actors(
        session,
        counting_actor(),
        (0,),
        items,
        HEAD,
        workers=2,
        retries=1,
        on_result=results,
        on_advance=advances.append,
    )
    assert failures == []
    assert (tmp_path / "died").exists()
    assert set(results) == {0, 1, 2}
    assert sum(advances) == 9
    assert min(advances) < 0  # what the dead worker had counted was taken back


def test_an_item_that_always_kills_its_actor_becomes_a_failure(session):
    results = Collected()
    items = [(i, "always") for i in range(3)]
    failures = run_actors(session, counting_actor(), (0,), items, HEAD, workers=2, retries=1, on_result=results)
    assert [failure.index for failure in failures] == [1]
    assert set(results) == {0, 2}


def test_actors_that_cannot_be_constructed_end_the_run(session):
    with pytest.raises(ClusterError, match="ValueError: no offset"):
        run_actors(session, counting_actor(), (None,), [(1,)], HEAD, workers=1, retries=2, on_result=Collected())


def test_a_second_connect_finds_the_same_session(project, session, session_files):
    folder, record = ensure_embedded(project, make_settings())
    assert (folder, record.address) == (session_files[0], session.address)


def test_nothing_listens_beyond_loopback(session, session_files):
    record = Record.read(session_files[0])
    ends = [
        connection.laddr.ip
        for item in (record.keeper, *record.processes)
        if (process := item.process())
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(ends) > 5
    assert {end.removeprefix("::ffff:") for end in ends} == {"127.0.0.1"}


def test_the_fleet_is_asked_while_it_works_and_a_task_brings_its_load(session, tmp_path):
    from pipeline.fleet import look, table

    def until():
        def work(marker):
            import time
            from pathlib import Path

            while not Path(marker).exists():
                time.sleep(0.05)
            return 7

        return work

    rows, collected = [], Collected()
    marker = tmp_path / "go"
    asking = threading.Thread(target=lambda: (rows.extend(wait_for_work(session, look)), marker.touch()))
    asking.start()
    run_tasks(session, until(), [(str(marker),)], JETSON, retries=0, on_result=collected)
    asking.join()
    assert [(row["kind"], row["working"], row["problem"]) for row in rows] == [("virtual", True, "")]
    assert rows[0]["telemetry"]["memory_total_bytes"] == psutil.virtual_memory().total
    assert [name for name, *_ in collected[0].load.samples].count("system/device_memory_usage_megabytes") >= 1
    assert table(rows).row_count == 1


def wait_for_work(session, look):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        rows = look(session)
        if all(row["working"] for row in rows):
            return rows
    return rows


def test_the_doctor_reads_the_heads_versions(session, session_files, tmp_path):
    from jetson_agent.checks import head_versions

    assert head_versions(session.address, token_path(session_files[0])).good
    (tmp_path / "token").write_text("cd" * 32)
    assert "is this its token" in head_versions(session.address, tmp_path / "token").line()


def test_the_token_is_private(session, session_files):
    assert token_path(session_files[0]).stat().st_mode & 0o777 == 0o600
    assert session_files[0].stat().st_mode & 0o077 == 0


def test_a_driver_without_the_token_is_refused(session, session_files):
    variables = environment.embedded(session_files[0])
    assert probe.ask(session.address, variables).addresses == ("127.0.0.1",)
    assert probe.ask(session.address, {**variables, "RAY_AUTH_MODE": "disabled"}).refused


def test_a_wrong_token_is_one_message(project, session, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "00" * 32)
    with pytest.raises(ClusterError, match="refused the token"), connect(project, make_settings(session.address)):
        pass


def test_an_address_connects_and_brings_the_code_along(project, session, session_files, tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from pipeline.cluster.placement import Placement\n"
        "from pipeline.cluster.session import connect\n"
        "from pipeline.cluster.work import run_tasks\n"
        "from pipeline.project import Project\n"
        "from pipeline.settings import RaySettings, Settings\n"
        "def where(_):\n"
        "    import sys\n"
        "    from pathlib import Path\n"
        "    return [p for p in sys.path if 'py_modules_files' in p and (Path(p) / 'stages').is_dir()]\n"
        "ray = RaySettings(address=sys.argv[1])\n"
        "settings = Settings(cohorts=[], base_cohorts=[], personal_cohorts=[], ray=ray)\n"
        "with connect(Project(Path('.')), settings) as session:\n"
        "    failures = run_tasks(session, where, [(1,)], Placement(), retries=0, on_result=lambda i, r: print(r.value))\n"
        "    assert not failures, failures\n"
    )
    variables = {"RAY_AUTH_TOKEN_PATH": str(token_path(session_files[0]))}
    done = subprocess.run(
        [sys.executable, str(script), session.address],
        env=environment.with_code({**os.environ, **variables}, CODE),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "py_modules_files" in done.stdout  # the workers of a cluster elsewhere have no other copy


def test_an_address_where_nothing_answers_is_one_message(project, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "00" * 32)
    with (
        pytest.raises(ClusterError, match=r"no Ray head answers at 127\.0\.0\.1:1 .*params\.yaml"),
        connect(project, make_settings("127.0.0.1:1")),
    ):
        pass


OWNER = """
import sys, time
from pathlib import Path
from pipeline.cluster.session import ensure_embedded
from pipeline.project import Project
from pipeline.settings import Settings
folder, _ = ensure_embedded(Project(Path(".")), Settings(cohorts=[], base_cohorts=[], personal_cohorts=[]))
print(folder, flush=True)
time.sleep(300)
"""


@pytest.fixture
def owned():
    """A process that owns an embedded session, and the session's folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        env=environment.with_code(dict(os.environ), CODE),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, Path(process.stdout.readline().strip())
    finally:
        process.kill()
        process.wait()


def wait_until(condition, seconds: float = 40.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():
        time.sleep(0.1)
    return condition()


def complete_record(folder: Path) -> Record:
    """The record once the keeper has listed its processes."""
    assert wait_until(lambda: bool(Record.read(folder).processes))
    return Record.read(folder)


def test_a_session_ends_with_its_owner_and_leaves_nothing(owned):
    process, folder = owned
    record = complete_record(folder)
    children = psutil.Process(record.keeper.pid).children(recursive=True)
    assert len(children) > 5
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert wait_until(lambda: not folder.exists())
    assert wait_until(
        lambda: not any(child.is_running() for child in [*children, *filter(None, [record.keeper.process()])])
    )


def test_what_a_killed_keeper_left_is_cleared_by_the_next_session(owned, session, project):
    _, folder = owned
    record = complete_record(folder)
    os.kill(record.keeper.pid, signal.SIGKILL)
    assert wait_until(lambda: not record.keeper.alive())
    ensure_embedded(project, make_settings())
    assert not folder.exists()
    assert wait_until(lambda: not any(item.alive() for item in record.processes))


def test_sessions_of_two_owners_lie_apart():
    assert session_folder("one") != session_folder("two")
