"""The device's outbox: in order, each told once, nothing lost by kill -9 at any moment, nothing of a person left behind."""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jetson_agent.home import Device, Home
from jetson_agent.journal import note, roll_back
from jetson_agent.outbox import Entry, EntryRefused, Outbox, Waiting
from jetson_agent.rollout import push
from jetson_agent.rollout_base import _tidy
from jetson_agent.settings import RolloutSettings
from jetson_agent.shelf import Shelf
from stages.atomic import sha256_json
from stages.errors import InputError, TrackingError
from tests.unit.test_agent_learn import KILLS, adapter

PLAYER = """
import json, os, random, sys
from pathlib import Path
from jetson_agent.home import Home
from jetson_agent.journal import note

home, log, start = Home(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
chance = random.Random(start)

def send(item):  # a registry that knows what it was told, as a run's tag does
    told = log.read_text() if log.is_file() else ""
    if item.entry.key not in told:
        with log.open("a") as file:
            file.write(f"{item.entry.key} {item.entry.kind} {item.entry.figures['number']}\\n")
            file.flush()
            os.fsync(file.fileno())

for number in range(start, start + 100000):
    home.shelf.take(home.folder / "adapter", f"round {number}", {"method": "replay", "number": number})
    print(number, flush=True)
    note(home)
    if chance.random() < 0.5:
        for outbox in home.outboxes():
            outbox.replay(send)
"""


def entry(number: int, kind: str = "update") -> Entry:
    told = {"cohort": "home", "user": "ann", "what": "taken", "why": "better", "figures": {"number": number}}
    return Entry.model_validate(
        {"key": sha256_json(number), "run": sha256_json(number), "kind": kind, "when": 1.0, **told}
    )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home.open(tmp_path / "agent")
    found.set_up(Device("home", "ann", tmp_path / "encoder", tmp_path / "llm", tmp_path / "base", 0.5), [])
    return found


def test_what_waits_is_told_in_order_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    outbox, told = Outbox(tmp_path / "outbox"), []
    for number in range(12):
        outbox.put(entry(number))
        outbox.put(entry(number))  # again: after a power cut nobody knows whether it was put
    outbox.put(entry(12, "adapter"), adapter(tmp_path / "adapter"))
    [weights] = outbox.folder.glob("*/adapter.safetensors")
    assert weights.read_bytes() == b"weights"
    paths = [*weights.parent.iterdir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
    assert stat.S_IMODE(outbox.folder.stat().st_mode) == 0o700
    size = outbox.size()
    assert (size.entries, size.aside) == (13, 0)
    assert size.bytes == sum(path.stat().st_size for path in outbox.folder.glob("*/*"))
    assert outbox.replay(lambda item: told.append(item.entry.figures["number"])) == 13
    assert told == list(range(13))
    assert outbox.size().entries == 0


def test_where_the_registry_is_gone_all_stays_and_one_that_it_refuses_lets_others_pass(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for number in range(4):
        outbox.put(entry(number))
    told: list[int] = []

    def send(item: Waiting) -> None:
        number = item.entry.figures["number"]
        if number == 1:
            raise EntryRefused("no such version")
        if number == 3 and len(told) < 3:
            told.append(-1)
            raise TrackingError("gone")
        told.append(number)

    with pytest.raises(TrackingError, match="gone"):
        outbox.replay(send)
    assert [item.entry.figures["number"] for item in outbox.waiting()] == [3]
    assert (outbox.size().entries, outbox.size().aside) == (1, 1)
    [reason] = tmp_path.glob("refused/*/reason.json")
    assert json.loads(reason.read_text()) == {"reason": "no such version"}
    outbox.put(entry(5))
    assert outbox.replay(send) == 2
    assert told == [0, 2, -1, 3, 5]
    assert outbox.readmit() == 1
    assert [item.entry.figures["number"] for item in outbox.waiting()] == [1]


def test_an_entry_that_cannot_be_read_is_put_aside(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.put(entry(0))
    outbox.put(entry(1))
    (tmp_path / "0000000003-update-empty").mkdir()
    [path] = tmp_path.glob("0000000001-*/entry.json")
    path.write_text(path.read_text().replace('"taken"', "7"))
    assert [item.entry.figures["number"] for item in outbox.waiting()] == [1]
    reasons = [path.read_text() for path in tmp_path.glob("refused/*/reason.json")]
    assert len(reasons) == 2 and all("not readable" in reason for reason in reasons)


def test_each_event_of_the_shelf_is_noted_once(home: Home, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter")
    (folder / "adapter.json").write_text(json.dumps({"train_utterances": ["a"], "kind": "personal"}))
    home.shelf.take(folder, "set up from project", {})
    home.shelf.take(folder, "better", {"method": "replay", "wer": {"after": {"own": 0.5}}})
    note(home)
    home.shelf.refuse("worse", {"method": "replay"})
    home.shelf.refuse("worse", {"pulled": {"model": "m", "version": "3", "sha256": "0"}, "verdict": "failed"})
    note(home)
    note(home)
    roll_back(home, "stumbles")
    found = [item.entry for item in home.outbox.waiting()]
    assert [(item.kind, item.what) for item in found] == [
        ("update", "taken"),
        ("adapter", "taken"),
        ("update", "refused"),
        ("verdict", "refused"),
        ("update", "rolled back"),
    ]
    assert found[0].run == found[1].run
    assert len({item.key for item in found}) == 5
    [record] = home.outbox.folder.glob("*-adapter-*/adapter.json")
    assert json.loads(record.read_text()) == {"train_utterances": [], "kind": "personal"}


def test_events_are_noted_beyond_what_the_history_keeps(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jetson_agent.shelf.EVENTS", 3)
    for number in range(7):
        home.shelf.refuse(str(number), {"method": "replay"})
        note(home)
    assert [item.entry.why for item in home.outbox.waiting()] == [str(number) for number in range(7)]


@pytest.mark.parametrize("left", ["pointer deleted", "tidied"])
def test_a_shelf_that_begins_anew_is_noted_from_its_first_event(home: Home, left: str) -> None:
    shelf = Shelf(home.own / "shelf-0123456789ab")
    for number in range(3):
        shelf.refuse(f"old {number}", {"method": "replay"})
    note(home)
    if left == "pointer deleted":  # as the message about a broken one says
        shelf.pointer.unlink()
        again = 2
    else:  # its base was left
        _tidy(home)
        assert not shelf.folder.exists() and not list(home.outbox.folder.glob("noted-shelf-*"))
        again = 5  # more than there were before anything notes them
    for number in range(again):
        shelf.refuse(f"new {number}", {"method": "replay"})
    note(home)
    note(home)
    found = [item.entry for item in home.outbox.waiting()]
    assert [item.why for item in found] == [*(f"old {n}" for n in range(3)), *(f"new {n}" for n in range(again))]
    assert len({item.key for item in found}) == len(found)


def test_an_earlier_users_entries_wait_on_and_are_forgotten_with_the_user(home: Home, tmp_path: Path) -> None:
    home.shelf.refuse("worse", {"method": "replay"})  # the power goes before anything notes it
    home.set_up(Device("home", "bob", tmp_path, tmp_path, tmp_path, 0.5), [])
    note(home)
    assert home.waiting()["entries"] == 1
    [item] = home.outboxes()[0].waiting()
    assert (item.entry.cohort, item.entry.user) == ("home", "ann")
    home.forget("ann", dry_run=True)
    assert home.waiting()["entries"] == 1
    with home.outboxes()[0]._lock(".sending", 1.0):  # what is being sent would arrive after all
        import jetson_agent.outbox as module

        module.SEND_WAIT_S, before = 0.2, module.SEND_WAIT_S
        try:
            with pytest.raises(InputError, match="is being sent"):
                home.forget("ann")
        finally:
            module.SEND_WAIT_S = before
    home.forget("ann")
    assert home.waiting() == {"entries": 0, "bytes": 0, "refused": 0}
    assert not (home.folder / "home" / "ann").exists()


def test_where_another_process_sends_a_push_waits_and_says_so(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jetson_agent.outbox.SEND_WAIT_S", 0.1)
    monkeypatch.setattr("jetson_agent.rollout._check_forgotten", lambda *_: None)
    home.shelf.refuse("worse", {"method": "replay"})
    note(home)

    class Deaf:
        def tell(self, item: Waiting) -> None:
            raise AssertionError("two senders at once")

    with home.outbox._lock(".sending", 1.0):
        sent = push(home, home.rollout, Deaf())  # type: ignore[arg-type]
    assert (sent.told, sent.waiting, sent.problem) == (0, 1, "another process is sending")


class Choosy:
    """A registry that does not take everybody's entries."""

    def __init__(self, trouble: dict[str, Exception], gone: tuple[str, ...] = (), up: bool = True) -> None:
        self.settings, self.trouble, self.gone, self.up = RolloutSettings(), trouble, gone, up
        self.told: list[str] = []
        self.asked: list[str] = []

    def model(self, name: str) -> str | None:
        self.asked.append(name.rpartition(".")[2])
        return None if self.asked[-1] in self.gone else name

    def tell(self, item: Waiting) -> None:
        if item.entry.user in self.trouble:
            raise self.trouble[item.entry.user]
        self.told.append(item.entry.user)

    def answers(self) -> bool:
        return self.up


@pytest.fixture
def shared(home: Home, tmp_path: Path) -> Home:
    """A device that was ann's, then bob's, now cid's; of each, an update waits."""
    for user in ("ann", "bob", "cid"):
        home.set_up(Device("home", user, tmp_path, tmp_path, tmp_path, 0.5), [])
        home.shelf.refuse("worse", {"method": "replay"})
    return home


def test_what_one_user_s_entries_cannot_be_told_for_stops_nobody_else_s(shared: Home) -> None:
    note(shared)
    (shared.folder / "home" / "ann" / "outbox" / "registered").touch()
    registry = Choosy({"bob": TrackingError("try later")}, gone=("ann",))
    sent = push(shared, shared.rollout, registry)  # type: ignore[arg-type]
    assert registry.told == ["cid"] and (sent.told, sent.waiting) == (1, 2)
    assert "edgealign-agent forget home/ann" in sent.problem and sent.problem.endswith("; try later")


def test_where_the_server_is_away_it_is_not_tried_for_each_user(shared: Home) -> None:
    registry = Choosy({"ann": TrackingError("nobody there")}, up=False)
    sent = push(shared, shared.rollout, registry)  # type: ignore[arg-type]
    assert registry.asked == ["ann"] and (sent.told, sent.waiting, sent.problem) == (0, 3, "nobody there")


def test_what_another_process_sends_meanwhile_is_not_counted(shared: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    note(shared)
    folders = Outbox._folders
    monkeypatch.setattr(Outbox, "_folders", lambda self: [*folders(self), self.folder / "0000000009-update-told"])
    assert [outbox.size().entries for outbox in shared.outboxes()] == [1, 1, 1]
    assert shared.waiting()["entries"] == 3


def test_killed_at_any_moment_each_event_is_told_once_and_in_order(home: Home, tmp_path: Path) -> None:
    adapter(home.folder / "adapter")
    chance, confirmed, log = random.Random(0), 0, tmp_path / "told"
    for _ in range(KILLS):
        child = subprocess.Popen(
            [sys.executable, "-c", PLAYER, str(home.folder), str(log), str(confirmed + 1)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert child.stdout
        lines = [child.stdout.readline()]
        time.sleep(chance.uniform(0.0, 0.15))
        child.kill()
        lines += child.stdout.readlines()
        child.wait()
        confirmed = max([confirmed, *(int(line) for line in lines if line.endswith("\n") and line.strip())])
    note(home)
    told = [line.split() for line in log.read_text().splitlines()]
    keys = {key for key, _, _ in told}
    waiting = [item.entry for item in home.outbox.waiting()]
    rest = [entry for entry in waiting if entry.key not in keys]  # the first may be told, but not yet removed
    assert len(rest) >= len(waiting) - 1
    assert len(keys) == len(told)
    events = json.loads((home.outbox.folder / "noted-shelf.json").read_text())["events"]
    assert events >= confirmed >= KILLS
    kinds = [kind for _, kind, _ in told] + [entry.kind for entry in rest]
    assert kinds == ["update", "adapter"] * events
    numbers = [int(number) for _, _, number in told] + [entry.figures["number"] for entry in rest]
    assert numbers == sorted(numbers)
