"""Ray's TLS between hosts: who has a certificate of the cluster's authority works, nobody else does, token or not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.helpers_fleet import REJOIN_S, ROOT, Fleet, fleet_of
from tests.helpers_hosts import wait_for
from tests.helpers_tls import Authority

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

WORK = """
import sys
from pathlib import Path
from pipeline.cluster.placement import Placement
from pipeline.cluster.session import connect
from pipeline.cluster.work import run_tasks
from pipeline.project import Project
from tests.helpers_ray import settings_for

def where(size):
    import ray
    return ray.util.get_node_ip_address(), bytes(size)

with connect(Project(Path(".")), settings_for(sys.argv[1])) as session:
    print("connected", flush=True)
    told = lambda index, result: print("done", *result.value[0:1], len(result.value[1]), flush=True)
    print(run_tasks(session, where, [(3_000_000,)], Placement(cpus=0, jetson=1), retries=0, on_result=told))
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Fleet]:
    """The head and ``left``, each with a certificate for its address; ``right`` is left to the tests."""
    with fleet_of(tmp_path_factory.mktemp("fleet"), authority.variables("10.77.0.1"), join=False) as there:
        there.join(there.left, **authority.variables(there.left.address))
        wait_for(lambda: there.living() == {there.head.address, there.left.address}, REJOIN_S, there.logs)
        yield there


def test_a_device_with_a_certificate_joins_and_works(fleet: Fleet) -> None:
    work, log = fleet.drive(WORK)
    assert work.wait(120) == 0, log.read_text()
    assert f"done {fleet.left.address} 3000000\n[]" in log.read_text()


def strangers(fleet: Fleet, authority: Authority, folder: Path) -> dict[str, dict[str, str]]:
    """The environments of hosts that have the cluster's token and not its certificate, by what they have instead."""
    own = {name: value for name, value in fleet.env.items() if "TLS" not in name}
    address, theirs = fleet.right.address, Authority(folder / "theirs")
    return {
        "no TLS": own,
        "another authority": {**own, **theirs.variables(address, timedelta(days=1))},
        "expired": {**own, **authority.variables(address, timedelta(days=-1))},
    }


def test_strangers_neither_join_nor_run_anything(fleet: Fleet, authority: Authority, tmp_path: Path) -> None:
    """All at once: each waits for Ray's own time limit."""
    before = fleet.living()
    words = ["-m", "jetson_agent", "join", "--head", fleet.address, "--virtual", "--memory-bytes", "1000000000"]
    drivers, agents = {}, {}
    for name, environment in strangers(fleet, authority, tmp_path).items():
        log = tmp_path / f"{name}, driver"
        drivers[log] = fleet.right.start([sys.executable, "-c", WORK, fleet.address], log, environment, ROOT)
        log = tmp_path / f"{name}, agent"
        agents[log] = fleet.right.start([sys.executable, *words], log, environment, ROOT)
    try:
        for log, driver in drivers.items():
            assert driver.wait(180) != 0, log
            assert "connected" not in log.read_text(), log
            assert "error" in log.read_text().lower(), log
        for log in agents:
            wait_for(lambda log=log: "Failed to connect to GCS" in log.read_text(), 180, log.read_text)
        assert fleet.living() == before
    finally:
        for agent in agents.values():
            agent.terminate()
        assert [agent.wait(60) for agent in agents.values()] == [0, 0, 0]
