"""kill -9 in the middle of learning: corrections that were confirmed are there, what is in use is whole, the next update runs.

EDGEALIGN_AGENT_KILLS=200 kills so often; the suite does it fewer times.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from jetson_agent.home import Home
from jetson_agent.replay import Remembered
from jetson_agent.update import adapt
from stages.alignment import resume
from stages.alignment.adapter import load_personal
from tests.helpers_alignment import spoken
from tests.helpers_rollout import LEARN, correct, tell

pytestmark = pytest.mark.integration

KILLS = int(os.environ.get("EDGEALIGN_AGENT_KILLS", "6"))


def learn_for_ever(folder: Path, first: int, confirmed: Any) -> None:
    """What a device does all day, in a process that will be killed: three corrections and an update, again and again."""
    found, number = Home.open(folder), first
    while True:
        for item in spoken(3, seed=number, turn=0.45):
            frames = item.frames.numpy().astype(np.float16)
            name = f"{number}-{item.utterance}"
            found.replay.add(Remembered(name, None, frames, "", item.text, "correction", 0.5))
            confirmed.send(name)
        adapt(found)
        confirmed.send("updated")
        number += 1


def test_killed_in_the_middle_of_learning_nothing_is_lost(home: Home) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["jetson_agent.update", "tests.integration.test_agent_kills"])
    tell(home, **LEARN, items=100_000, steps_per_utterance=0.0)  # nothing has to make room
    chance, kept, updates = random.Random(1), set[str](), 0
    for kill in range(KILLS):
        receiving, sending = context.Pipe(duplex=False)
        child = context.Process(target=learn_for_ever, args=(home.folder, 1000 * (kill + 1), sending), daemon=True)
        child.start()
        sending.close()
        first = receiving.recv()  # it works by now
        time.sleep(chance.uniform(0.0, 2.0))
        child.kill()
        child.join()
        told = [first]
        try:
            while True:
                told.append(receiving.recv())
        except (EOFError, OSError):
            receiving.close()
        updates += told.count("updated")
        kept = (kept | set(told)) - {"updated"}
        items = {item.utterance for item in home.replay.items()}  # each is read: one that is cut off would raise
        assert kept <= items
        version = home.shelf.current()
        if version is not None:
            load_personal(version.folder, home.device.base)
        stack = home.shelf._state()["stack"]
        assert (version.number if version else None) == (stack[-1]["number"] if stack else None)
    adapt(home)
    assert not list(home.own.rglob("*.part")) and not list(home.own.glob("edgealign-adapt-*"))
    assert updates or KILLS < 20  # in a long run, some updates ended before the kill


def learn_once(folder: Path) -> None:
    """One update, in a process that will be killed."""
    resume.EVERY_S = 0.2
    adapt(Home.open(folder))


def test_an_update_that_is_killed_again_and_again_goes_on_each_time(home: Home, tmp_path: Path) -> None:
    """What is lost is the time since the last checkpoint; what comes of it is what would have come without a kill."""
    tell(home, **{**LEARN, "steps": 200, "tolerance": 1.0}, steps_per_utterance=0.0, method="replay")
    correct(home, 12)
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(home.folder, undisturbed)
    assert adapt(Home.open(undisturbed)).taken
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["jetson_agent.update", "tests.integration.test_agent_kills"])
    path, done = home.own / "update.safetensors", [0]
    for _ in range(3):
        child = context.Process(target=learn_once, args=(home.folder,), daemon=True)
        child.start()
        until = time.monotonic() + 60
        while child.is_alive() and steps_in(path) <= done[-1] and time.monotonic() < until:
            time.sleep(0.02)
        child.kill()
        child.join()
        done.append(steps_in(path))
        assert done[-1] > done[-2] or not path.exists()  # never back to the beginning
        if not path.exists():
            break
        correct(home, 2, seed=1000 + len(done))  # said meanwhile: for the update after this one
    assert done[2] > done[1] > 0
    if home.shelf.current() is None:
        assert adapt(home).figures["resumed_at"] >= done[-1]
    [mine], [theirs] = ([event.figures for event in Home.open(one).history()] for one in (home.folder, undisturbed))
    assert mine["utterances"] == theirs["utterances"] and mine["wer"]["after"] == theirs["wer"]["after"]
    weights = [Home.open(one).shelf.current() for one in (home.folder, undisturbed)]
    assert weights[0] is not None and weights[1] is not None and weights[0].sha256 == weights[1].sha256
    assert not list(home.own.glob("update.*"))
    assert home.replay.corrections_since(datetime.fromisoformat(mine["began"]).timestamp()) > 0


def steps_in(path: Path) -> int:
    """Steps in a checkpoint; 0 without one."""
    try:
        with safe_open(path, "pt") as file:
            return len(json.loads(file.metadata()["told"])["curve"])
    except FileNotFoundError:
        return 0
