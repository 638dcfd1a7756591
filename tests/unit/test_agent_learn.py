"""What a device keeps to learn from and which adapter is in use: whole after kill -9 at any moment."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jetson_agent.replay import Remembered, ReplayBuffer
from jetson_agent.settings import LearnSettings, read_settings
from jetson_agent.shelf import Shelf
from jetson_agent.update import LEAST_JUDGING, better, harmless, split
from stages.errors import InputError, SettingsError

KILLS = int(os.environ.get("EDGEALIGN_AGENT_KILLS", "6"))
"""200 for the full count: `EDGEALIGN_AGENT_KILLS=200 python -m pytest tests/unit/test_agent_learn.py -k killed`."""

WRITER = """
import sys
from pathlib import Path
import numpy as np
from jetson_agent.replay import Remembered, ReplayBuffer
from jetson_agent.shelf import Shelf
home, start = Path(sys.argv[1]), int(sys.argv[2])
replay, shelf = ReplayBuffer(home / "replay", 100000, 10**9), Shelf(home / "shelf")
for number in range(start, start + 100000):
    name = f"u{number}"
    for text in ("heard", f"said {number}"):
        source = "confident" if text == "heard" else "correction"
        replay.add(Remembered(name, None, np.full((4, 3), number, np.float16), "heard", text, source, 1.0))
    print(number, flush=True)
    shelf.take(home / "adapter", f"round {number}", {})
    if number % 3 == 0:
        shelf.rollback("tried")
"""


def remembered(name: str, text: str = "turn on", source: str = "confident", size: int = 4) -> Remembered:
    chosen = "correction" if source == "correction" else "confident"
    return Remembered(name, None, np.ones((size, 3), np.float16), "heard", text, chosen, 0.5)  # type: ignore[arg-type]


def adapter(folder: Path, content: bytes = b"weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter.safetensors").write_bytes(content)
    (folder / "adapter.json").write_text("{}")
    return folder


def test_the_buffer_gives_back_what_was_put_and_only_the_owner_can_read_it(tmp_path: Path) -> None:
    buffer = ReplayBuffer(tmp_path / "replay", 10, 10**6)
    samples = np.linspace(-1, 1, 8, dtype=np.float32)
    buffer.add(Remembered("../a b", samples, np.ones((4, 3), np.float16), "hello", "hello", "confident", 0.9))
    [heard] = buffer.items()
    buffer.add(replace(heard, text="yellow", source="correction"))  # in its place
    [item] = buffer.items()
    assert (item.utterance, item.heard, item.text, item.source) == ("../a b", "hello", "yellow", "correction")
    assert item.samples is not None
    assert np.array_equal(item.samples, samples)
    [path] = (tmp_path / "replay").glob("*.safetensors")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_full_buffer_lets_uncorrected_utterances_go_first(tmp_path: Path) -> None:
    buffer = ReplayBuffer(tmp_path, 3, 10**6)
    buffer.add(remembered("old", source="correction"))
    for name in ("a", "b", "c"):
        buffer.add(remembered(name))
    assert [item.utterance for item in buffer.items()] == ["old", "b", "c"]
    small = ReplayBuffer(tmp_path, 3, 900)
    small.add(remembered("d"))
    assert sum(path.stat().st_size for path in tmp_path.glob("*.safetensors")) <= 900
    assert "d" in {item.utterance for item in small.items()}


def test_going_back_version_by_version_to_the_base(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    assert shelf.current() is None
    first = shelf.take(adapter(tmp_path / "one", b"1"), "first", {"wer": 1})
    second = shelf.take(adapter(tmp_path / "two", b"2"), "second", {})
    assert shelf.current() == second
    shelf.refuse("worse", {})
    assert shelf.rollback("bad") == first
    assert shelf.rollback("bad") is None
    with pytest.raises(InputError, match="nothing to roll back"):
        shelf.rollback("bad")
    told = [(event.what, event.number) for event in shelf.history()]
    assert told == [("taken", 1), ("taken", 2), ("refused", 2), ("rolled back", 1), ("rolled back", None)]
    assert shelf.take(adapter(tmp_path / "one"), "third", {}).number == 3


def test_a_damaged_version_gives_way_to_the_one_before(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    first = shelf.take(adapter(tmp_path / "one", b"1"), "first", {})
    second = shelf.take(adapter(tmp_path / "two", b"2"), "second", {})
    (second.folder / "adapter.safetensors").write_bytes(b"")
    assert shelf.current() == first


def test_what_judges_never_trains() -> None:
    items = [remembered(f"u{n}-{again}", f"text {n}", "correction") for n in range(40) for again in range(2)]
    learn, guard = split([*items, *(remembered(f"c{n}", f"text {n}") for n in range(40))])
    assert guard
    assert not {item.text for item in learn} & {item.text for item in guard}
    learn, guard = split(items[:8])  # however few there are, three texts judge
    assert len({item.text for item in guard}) == LEAST_JUDGING and learn
    assert not split([remembered("a")])[1]  # what nobody corrected judges nothing


def test_other_people_may_be_a_little_worse_off_and_no_more() -> None:
    old = {"own": 0.5, "general": 0.2}
    assert harmless({"own": 0.9, "general": 0.2}, old, 0.0)
    assert harmless({"own": 0.1, "general": 0.21}, old, 0.01)
    assert not harmless({"own": 0.1, "general": 0.211}, old, 0.01)
    assert harmless({"own": 0.1, "general": None}, old, 0.0)


def test_only_what_helps_the_user_is_better() -> None:
    old = {"own": 0.5, "general": 0.2}
    assert better({"own": 0.4, "general": 0.2}, old, 0.0)
    assert not better({"own": 0.5, "general": 0.1}, old, 0.0)
    assert not better({"own": 0.4, "general": 0.21}, old, 0.0)
    assert better({"own": 0.4, "general": 0.21}, old, 0.02)
    assert not better({"own": None, "general": 0.2}, old, 0.0)


def test_settings_refuse_what_they_do_not_know(tmp_path: Path) -> None:
    path = tmp_path / "learn.json"
    for content, told in (
        ('{"steps": "many"}', "steps: .*integer"),
        ('{"step": 1}', "step: .*not permitted"),
        ('{"steps": 0}', "steps: .*greater than 0"),
        ('{"method": "hope"}', "method: .*replay"),
        ("{", "learn.json: .*JSON"),
    ):
        path.write_text(content)
        with pytest.raises(SettingsError, match=told):
            read_settings(path, LearnSettings)


def test_killed_at_any_moment_nothing_is_lost_or_half(tmp_path: Path) -> None:
    adapter(tmp_path / "adapter")
    chance, confirmed = random.Random(0), 0
    replay, shelf = ReplayBuffer(tmp_path / "replay", 100_000, 10**9), Shelf(tmp_path / "shelf")
    for _ in range(KILLS):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(confirmed + 1)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout
        lines = [child.stdout.readline()]
        time.sleep(chance.uniform(0.0, 0.1))
        child.kill()
        lines += child.stdout.readlines()
        child.wait()
        confirmed = max(int(line) for line in lines if line.endswith("\n") and line.strip())
        items = {item.utterance: item for item in replay.items()}  # each file is read: one that is cut off would raise
        assert all(items[f"u{number}"].text == f"said {number}" for number in range(1, confirmed + 1))
        stack = shelf._state()["stack"]
        current = shelf.current()
        assert (current.number if current else None) == (stack[-1]["number"] if stack else None)
    assert confirmed >= KILLS
