"""kill -9 in the middle of learning: corrections that were confirmed are there, what is in use is whole, the next update runs.

EDGEALIGN_AGENT_KILLS=200 kills so often; the suite does it fewer times.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np

from jetson_agent.home import Home
from jetson_agent.replay import Remembered
from jetson_agent.update import adapt
from stages.alignment.adapter import load_personal
from tests.helpers_alignment import spoken
from tests.unit.test_agent_adapt import LEARN, home, models, tell  # noqa: F401 - fixtures of a tiny device

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


def test_killed_in_the_middle_of_learning_nothing_is_lost(home: Home) -> None:  # noqa: F811 - pytest's way
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["jetson_agent.update", "tests.unit.test_agent_kills"])
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
