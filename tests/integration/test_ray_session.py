"""The embedded Ray session itself: who finds it, who is refused, and that it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.cluster import environment, probe
from pipeline.cluster.runtime import Record, session_folder, token_path
from pipeline.cluster.session import CODE, connect, ensure_embedded
from stages.errors import ClusterError
from tests.helpers_ray import settings_for

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def session_files(session_project, session) -> tuple[Path, Record]:
    return ensure_embedded(session_project, settings_for())


def test_a_second_connect_finds_the_same_session(session_project, session, session_files):
    folder, record = ensure_embedded(session_project, settings_for())
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


def test_a_wrong_token_is_one_message(session_project, session, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "00" * 32)
    with (
        pytest.raises(ClusterError, match="refused the token"),
        connect(session_project, settings_for(session.address)),
    ):
        pass


def test_an_address_connects_and_brings_the_code_along(session_project, session, session_files, tmp_path):
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


def test_an_address_where_nothing_answers_is_one_message(session_project, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "00" * 32)
    with (
        pytest.raises(ClusterError, match=r"no Ray head answers at 127\.0\.0\.1:1 .*params\.yaml"),
        connect(session_project, settings_for("127.0.0.1:1")),
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


def test_what_a_killed_keeper_left_is_cleared_by_the_next_session(owned, session, session_project):
    _, folder = owned
    record = complete_record(folder)
    os.kill(record.keeper.pid, signal.SIGKILL)
    assert wait_until(lambda: not record.keeper.alive())
    ensure_embedded(session_project, settings_for())
    assert not folder.exists()
    assert wait_until(lambda: not any(item.alive() for item in record.processes))


def test_sessions_of_two_owners_lie_apart():
    assert session_folder("one") != session_folder("two")
