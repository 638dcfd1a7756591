"""A device whose disk fills up: one message, nothing half-written, nothing lost, and the same command works afterwards."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jetson_agent.hearing import hear
from jetson_agent.home import Home
from jetson_agent.journal import note
from jetson_agent.update import adapt
from stages.alignment.adapter import load_personal
from tests.helpers_rollout import correct, make_home, tiny_models
from tests.helpers_serve import COMMANDS, ROOT, served, speak

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

VOICE = {"ann": "en-us+m7"}
SENTENCES = (
    *COMMANDS,
    "stop the light in the kitchen",
    "open the kitchen door",
    "set the timer now",
    "call my sister now",
)


@pytest.fixture
def disk(make_disk: Callable[[str], Path]) -> Path:
    """A file system of its own."""
    return make_disk("60m")


def agent(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """One command."""
    line = [sys.executable, "-m", "jetson_agent", *words, "--home", str(home)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(line, env=env, capture_output=True, text=True, check=False)


def fill(disk: Path, left: int = 0) -> None:
    """Leave ``left`` bytes of the disk."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with (disk / "ballast").open("wb") as file:
        file.write(b"\0" * (free - left))


def files(home: Path) -> dict[str, bytes]:
    """All that is kept, without locks and the update under way."""
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in home.rglob("*")
        if path.is_file() and not path.name.endswith(".lock") and path.name not in ("serving", "update.json")
    }


def refused(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 1
    assert "the disk is full" in done.stderr and "Free some space" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_costs_nothing_that_was_kept(trained_device: Path, disk: Path, tmp_path: Path) -> None:
    home = disk / "agent"
    shutil.copytree(trained_device, home)
    said = speak(tmp_path / "said", VOICE, SENTENCES)
    for _, text, path in said[:-1]:
        item = hear(Home.open(home), path)
        Home.open(home).replay.add(replace(item, text=text, source="correction"))
    before = files(home)
    _, text, last = said[-1]
    fill(disk)
    refused(agent(home, "correct", str(last), text))
    refused(agent(home, "adapt"))  # not even what is under way can be noted
    assert files(home) == before
    (disk / "ballast").unlink()
    assert agent(home, "correct", str(last), text).returncode == 0
    done = agent(home, "adapt")
    assert done.returncode == 0 and done.stdout.startswith(("taken", "not taken")), done.stderr
    assert [event.what for event in Home.open(home).history()] in (["taken"], ["refused"])
    assert len(Home.open(home).replay.items()) == len(said)


def test_an_update_that_runs_out_of_disk_anywhere_leaves_all_as_it_was(disk: Path, tmp_path: Path) -> None:
    """With one page more each time, until it is enough: every write of an update is the one that fails, once."""
    home = make_home(disk / "agent", tiny_models(tmp_path / "models"))
    correct(home)
    remembered, failed = files(home.folder), 0
    for pages in range(200):
        fill(disk, pages * os.sysconf("SC_PAGE_SIZE"))
        try:
            outcome = adapt(home)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            failed += 1
        else:
            assert outcome.taken
            break
        after = files(home.folder)
        assert {name: after.get(name) for name in remembered} == remembered
        assert home.shelf.current() is None and home.history() == []
        assert not list(home.folder.rglob("*.part"))
        (disk / "ballast").unlink()
    version = home.shelf.current()
    assert version is not None and load_personal(version.folder, home.device.base)
    assert failed > 3
    note(home)  # what the last of the disk had no place for
    assert [one.entry.kind for one in home.outbox.waiting()] == ["update", "adapter"]


def test_a_service_with_a_full_disk_answers_and_says_what_it_cannot_keep(
    trained_device: Path, disk: Path, tmp_path: Path
) -> None:
    home = disk / "agent"
    shutil.copytree(trained_device, home)
    [(_, text, path)] = speak(tmp_path / "said", VOICE, COMMANDS[:1])
    with served(home, tmp_path / "log") as service:
        fill(disk)
        heard = service.call("POST", "/v1/transcriptions", data=path.read_bytes())
        assert heard.status_code == 200, heard.text
        correction = {"utterance": heard.json()["utterance"], "text": text}
        kept = service.call("POST", "/v1/corrections", json=correction)
        assert kept.status_code == 507 and "the disk is full" in kept.json()["detail"]
        (disk / "ballast").unlink()
        kept = service.call("POST", "/v1/corrections", json=correction)
        assert kept.status_code == 200 and kept.json()["waiting"] == 1
    assert [item.text for item in Home.open(home).replay.items()] == [text]
    assert "Traceback" not in (tmp_path / "log").read_text()
