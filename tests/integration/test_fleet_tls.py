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


@pytest.fixture(params=["no TLS", "another authority", "expired"])
def stranger(request: pytest.FixtureRequest, fleet: Fleet, authority: Authority, tmp_path: Path) -> dict[str, str]:
    """The environment of a host that has the cluster's token and nothing else."""
    own = {name: value for name, value in fleet.env.items() if "TLS" not in name}
    if request.param == "no TLS":
        return own
    signer = Authority(tmp_path / "theirs") if request.param == "another authority" else authority
    told = signer.variables(fleet.right.address, timedelta(days=1 if signer is not authority else -1))
    return {**own, **told}


def test_a_stranger_neither_joins_nor_runs_anything(fleet: Fleet, stranger: dict[str, str]) -> None:
    before = fleet.living()
    work = fleet.right.run([sys.executable, "-c", WORK, fleet.address], stranger, ROOT)
    assert work.returncode != 0 and "connected" not in work.stdout
    assert "error" in work.stderr.lower()
    log = fleet.folder / "stranger.log"
    words = ["-m", "jetson_agent", "join", "--head", fleet.address, "--virtual", "--memory-bytes", "1000000000"]
    agent = fleet.right.start([sys.executable, *words], log, stranger, ROOT)
    try:
        wait_for(lambda: "Failed to connect to GCS" in log.read_text(), 180, log.read_text)
        assert fleet.living() == before
    finally:
        agent.terminate()
        assert agent.wait(60) == 0
