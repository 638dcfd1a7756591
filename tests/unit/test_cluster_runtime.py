"""Folders, locks and records of embedded sessions, without Ray."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from pipeline.cluster import environment, runtime
from pipeline.cluster.probe import ask
from pipeline.cluster.runtime import ProcessId, Record
from stages.errors import ClusterError


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "base_folder", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


def gone() -> ProcessId:
    process = subprocess.Popen([sys.executable, "-c", ""])
    identity = ProcessId(process.pid, 1.0)
    process.wait()
    return identity


def test_a_later_process_with_the_same_pid_is_another_one():
    me = ProcessId.of(psutil.Process())
    assert me.alive()
    assert not ProcessId(me.pid, me.create_time - 60).alive()


def test_a_record_reads_back(tmp_path):
    me = ProcessId.of(psutil.Process())
    record = Record("127.0.0.1:6379", me, gone(), (me,))
    record.write(tmp_path)
    assert Record.read(tmp_path) == record


def test_a_damaged_record_is_none(tmp_path):
    runtime.record_path(tmp_path).write_text('{"address": ')
    assert Record.read(tmp_path) is None


def test_processes_of_a_killed_keeper_are_ended_and_its_folder_goes(base, sleeper):
    folder = base / "dead"
    folder.mkdir()
    Record("127.0.0.1:1", gone(), gone(), (ProcessId.of(sleeper),)).write(folder)
    runtime.clear_stale()
    assert not folder.exists()
    assert not sleeper.is_running()


def test_a_running_session_is_left_alone(base, sleeper):
    folder = base / "living"
    folder.mkdir()
    Record("127.0.0.1:1", ProcessId.of(psutil.Process()), gone(), (ProcessId.of(sleeper),)).write(folder)
    runtime.clear_stale()
    assert folder.exists()
    assert sleeper.is_running() and sleeper.status() != psutil.STATUS_ZOMBIE


def test_the_lock_admits_one_at_a_time(tmp_path):
    inside, most = [], []

    def enter():
        for _ in range(50):
            with runtime.locked(tmp_path / "session"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}


def test_the_base_folder_is_private_and_short(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("long" * 20)))
    base = runtime.base_folder()
    assert len(str(base)) < 30
    assert base.stat().st_mode & 0o777 == 0o700


def test_somebody_elses_base_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "_LONGEST_BASE", 10_000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"edgealign-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ClusterError, match="TMPDIR"):
        runtime.base_folder()


def test_a_missing_token_is_one_message(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "absent"))
    with pytest.raises(ClusterError, match=r"absent: holds no token .*RAY_AUTH_TOKEN_PATH"):
        environment.remote()


def test_the_code_comes_first_on_the_path_and_once():
    variables = environment.with_code({"PYTHONPATH": os.pathsep.join(["other", "code"])}, Path("code"))
    assert variables["PYTHONPATH"].split(os.pathsep) == ["code", "other"]


def test_a_probe_that_says_nothing_is_an_answer_with_an_error(monkeypatch):
    monkeypatch.setattr("sys.executable", "false")
    assert "status 1" in ask("127.0.0.1:1", {}).error
