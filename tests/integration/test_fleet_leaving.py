"""A device that is told to stop leaves without costing work: a head and two devices, each in a network of its own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers_fleet import REJOIN_S, Fleet, fleet_of
from tests.helpers_hosts import Host, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

WORK = """
import sys, time
from pathlib import Path
from pipeline.cluster.placement import Placement
from pipeline.cluster.session import connect
from pipeline.cluster.work import run_tasks
from pipeline.project import Project
from tests.helpers_ray import settings_for

count, seconds, diary = int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]

def slow(number):
    import ray, time
    with open(diary, "a") as file:
        file.write(f"{number} {ray.util.get_node_ip_address()}\\n")
    time.sleep(seconds)
    return bytes(30_000_000)  # as large as a base's state: Ray would leave it in the device's store until it is fetched

with connect(Project(Path(".")), settings_for(sys.argv[1])) as session:
    told = lambda index, result: print("done", index, len(result.value), flush=True)
    failures = run_tasks(
        session, slow, [(number,) for number in range(count)], Placement(cpus=0, jetson=1), retries=3, on_result=told
    )
    print("failures", failures, flush=True)
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_of(tmp_path_factory.mktemp("fleet")) as there:
        yield there


@pytest.fixture(autouse=True)
def all_there(fleet: Fleet) -> None:
    """Each test begins with both devices."""
    for host in (fleet.left, fleet.right):
        host.processes[:] = [process for process in host.processes if process.poll() is None]
        if not host.processes:
            fleet.join(host)
    wait_for(fleet.all_there, REJOIN_S, fleet.logs)


def begun(diary: Path, host: Host) -> list[int]:
    """Which items were begun on a host, in their order."""
    lines = [line.split() for line in diary.read_text().splitlines()] if diary.exists() else []
    return [int(number) for number, address in lines if address == host.address]


def rejoined(fleet: Fleet, host: Host, *options: str) -> Path:
    """The host's agent in a new start with ``options``; its log."""
    [agent] = host.processes
    agent.terminate()
    assert agent.wait(60) == 0
    host.processes.remove(agent)
    log = fleet.join(host, *options)
    wait_for(fleet.all_there, REJOIN_S, fleet.logs)
    return log


def test_what_runs_is_finished_and_what_is_new_goes_elsewhere(fleet: Fleet, tmp_path: Path) -> None:
    log = rejoined(fleet, fleet.left)
    diary = tmp_path / "diary"
    work, told = fleet.drive(WORK, "8", "4", str(diary))
    wait_for(lambda: begun(diary, fleet.left), 120, fleet.logs)
    before = begun(diary, fleet.left)
    [agent] = fleet.left.processes
    agent.terminate()
    wait_for(lambda: "leaving: no new work" in log.read_text(), 30, log.read_text)
    assert agent.wait(120) == 0
    assert "the node ended after" in log.read_text() and "work was still under way" not in log.read_text()
    assert work.wait(120) == 0, told.read_text()
    assert begun(diary, fleet.left) == before  # nothing new
    assert sorted(begun(diary, fleet.left) + begun(diary, fleet.right)) == list(range(8))  # nothing twice
    done = sorted(int(line.split()[1]) for line in told.read_text().splitlines() if line.startswith("done"))
    assert done == list(range(8))
    assert "its worker was lost" not in told.read_text()
    assert fleet.living() == {fleet.head.address, fleet.right.address}


@pytest.mark.parametrize(("options", "again"), [(["--drain-s", "2"], False), (["--drain-s", "600"], True)])
def test_work_longer_than_the_limit_and_a_second_signal_are_repeated_elsewhere(
    fleet: Fleet, tmp_path: Path, options: list[str], again: bool
) -> None:
    log = rejoined(fleet, fleet.left, *options)
    diary = tmp_path / "diary"
    work, told = fleet.drive(WORK, "2", "10", str(diary))
    wait_for(lambda: begun(diary, fleet.left) and begun(diary, fleet.right), 120, fleet.logs)
    [agent] = fleet.left.processes
    agent.send_signal(signal.SIGINT)
    if again:
        wait_for(lambda: "leaving: no new work" in log.read_text(), 30, log.read_text)
        agent.send_signal(signal.SIGINT)
    assert agent.wait(60) == 0
    assert "work was still under way here" in log.read_text()
    assert work.wait(180) == 0, told.read_text()
    [cut_off] = begun(diary, fleet.left)
    assert cut_off in begun(diary, fleet.right)
    assert "failures []" in told.read_text() and "its worker was lost" in told.read_text()
    assert not fleet.left.pids()


def test_without_a_head_it_leaves_at_once(fleet: Fleet) -> None:
    log = rejoined(fleet, fleet.left, "--drain-s", "600")
    [agent] = fleet.left.processes
    fleet.left.cut()
    try:
        agent.terminate()
        assert agent.wait(60) == 0
    finally:
        fleet.left.mend()
    assert f"the head {fleet.address} does not answer: leaving at once" in log.read_text()
    assert not fleet.left.pids()
