"""The supervision of a joined node and the doctor, with small processes in the place of Ray."""

from __future__ import annotations

import signal
import socket
import sys

import psutil
import pytest

from jetson_agent import checks
from jetson_agent import join as joining
from jetson_agent.cli import main
from jetson_agent.doctor import examine
from jetson_agent.finding import Finding
from jetson_agent.join import supervise, token
from jetson_agent.node import JetsonNode, virtual_jetson
from stages.errors import ClusterError

NODE = virtual_jetson(10**9)


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text("ab" * 32)
    path.chmod(0o600)
    return path


@pytest.fixture(autouse=True)
def signals():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(code: str, *arguments: str):
    return lambda node, head: [sys.executable, "-c", code, *arguments]


def test_a_node_that_ends_joins_again_until_told_to_stop(token_file, tmp_path, monkeypatch):
    monkeypatch.setattr(joining, "SHORTEST_PAUSE_S", 0.01)
    monkeypatch.setattr(joining, "LONGEST_PAUSE_S", 0.01)
    log = tmp_path / "log"
    code = (
        "import os, signal, sys\n"
        "with open(sys.argv[1], 'a') as log: log.write('x')\n"
        "if os.path.getsize(sys.argv[1]) == 3: os.kill(os.getppid(), signal.SIGTERM)\n"
    )
    assert supervise(NODE, "192.0.2.1:6379", token_file, line=run(code, str(log))) == 0
    assert log.read_text() == "xxx"


def test_a_signal_ends_the_node_and_its_children(token_file, tmp_path):
    code = (
        "import os, signal, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        "open(sys.argv[1], 'w').write(f'{os.getpid()} {child.pid}')\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "time.sleep(100)\n"
    )
    assert supervise(NODE, "192.0.2.1:6379", token_file, line=run(code, str(tmp_path / "pids"))) == 0
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: print("told", file=open(sys.argv[1], "a"), flush=True))
os.kill(os.getppid(), signal.SIGTERM)
while True:
    time.sleep(0.05)
    if sys.argv[2] == "twice" and os.path.exists(sys.argv[1]):
        os.kill(os.getppid(), signal.SIGTERM)
"""


@pytest.mark.parametrize(("drain_s", "how"), [(0.5, "once"), (3600.0, "twice")])
def test_a_node_that_stays_is_ended_at_the_limit_or_by_a_second_signal(
    token_file, tmp_path, monkeypatch, caplog, drain_s, how
):
    caplog.set_level("INFO")
    monkeypatch.setattr(joining, "GRACE_S", 0.1)
    before = psutil.Process().children()  # other tests in this process may keep an embedded Ray
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        line = run(STUBBORN, str(tmp_path / "told"), how)
        assert supervise(NODE, address, token_file, drain_s=drain_s, line=line) == 0
    assert (tmp_path / "told").read_text().startswith("told")  # Ray had its chance to drain
    assert "work was still under way here: it is repeated elsewhere" in caplog.text
    assert [child for child in psutil.Process().children() if child not in before] == []


def test_without_a_head_nothing_is_waited_for(token_file, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(joining, "GRACE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    line = run(STUBBORN, str(tmp_path / "told"), "once")
    assert supervise(NODE, address, token_file, drain_s=3600.0, line=line) == 0
    assert f"the head {address} does not answer: leaving at once" in caplog.text


def test_a_head_without_a_port_is_one_message(token_file):
    with pytest.raises(ClusterError, match="needed HOST:PORT"):
        supervise(NODE, "192.0.2.1", token_file, line=run(""))


def test_a_node_starts_with_the_token_required(token_file):
    assert joining.environment(token_file)["RAY_AUTH_MODE"] == "token"
    assert joining.environment(token_file)["RAY_AUTH_TOKEN_PATH"] == str(token_file)


def test_an_empty_token_is_one_message(tmp_path):
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ClusterError, match=r"is empty.*get-auth-token"):
        token(tmp_path / "token")


def test_the_cli_prints_an_expected_error_as_one_message(tmp_path, monkeypatch, capsys):
    arguments = ["join", "--head", "192.0.2.1:6379", "--virtual", "--token-file", str(tmp_path / "absent")]
    monkeypatch.setattr(sys, "argv", ["edgealign-agent", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'absent'}: the cluster's token cannot be read")


def test_the_doctor_finds_a_listening_head(token_file, monkeypatch):
    monkeypatch.setattr(checks, "head_versions", lambda head, path: Finding(True, f"{path.name} at {head}"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        findings = examine(NODE, f"127.0.0.1:{server.getsockname()[1]}", token_file)
    assert [finding.what for finding in findings if not finding.good] == []


def test_the_doctor_goes_on_after_a_finding(tmp_path):
    findings = examine(NODE, "127.0.0.1:1", tmp_path / "absent")
    bad = [finding.line() for finding in findings if not finding.good]
    assert len(bad) == 2
    assert "token" in bad[0]
    assert "127.0.0.1:1 does not answer" in bad[1] and "firewall" in bad[1]


def test_the_doctor_minds_a_token_that_others_can_read(token_file):
    token_file.chmod(0o644)
    bad = [finding for finding in examine(NODE, None, token_file) if not finding.good]
    assert [finding.remedy for finding in bad] == ["Others can read it: chmod it 600."]


def test_the_doctor_minds_another_version_on_the_head(token_file, monkeypatch):
    said = ['print(\'{"ray_version": "2.1.0", "python_version": "3.9.1"}\')', "raise SystemExit(1)"]
    monkeypatch.setattr(checks, "_ASK_HEAD", said[0])
    finding = checks.head_versions("192.0.2.1:6379", token_file)
    assert not finding.good
    assert finding.remedy == "Use Python 3.9 here and `pip install ray==2.1.0`."
    monkeypatch.setattr(checks, "_ASK_HEAD", said[1])
    assert "tells no versions" in checks.head_versions("192.0.2.1:6379", token_file).line()


def test_the_doctor_minds_a_clock_that_is_off_and_a_tracking_server_that_is_not_there(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "does not answer" in checks.tracking(f"http://127.0.0.1:{port}")[0].line()
    now = checks.time.time()
    assert checks._clock().good
    monkeypatch.setattr(checks.time, "time", lambda: now - 40 * 365 * 86400)
    assert "timedatectl" in checks._clock().line()


def test_a_real_device_needs_its_gpu_and_its_release(tmp_path):
    device = JetsonNode("orin-8gb", 10**9, virtual=False, gpus=64)
    assert "NVIDIA's build of torch" in checks._gpu(device).line()
    assert not checks._release(tmp_path / "none", device).good
    release = tmp_path / "nv_tegra_release"
    release.write_text("# R36 (release), REVISION: 4.3, GCID: 1\n")
    assert checks._release(release, device).line() == "ok    L4T: R36 (release), REVISION: 4.3, GCID: 1"
