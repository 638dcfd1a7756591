"""The memory plan against the peaks of trainings in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import pytest

from tests.helpers_memory import Size

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

LOOSE = 1.8
"""How many times a measured peak may be planned for."""


@pytest.mark.parametrize(
    "size",
    [
        Size(frames=100, tokens=8, batch_size=1),
        Size(batch_size=16, count=16, rows=5000, cap_bytes=1_700_000_000),
        Size(batch_size=4, held_out=40),
        Size(encoder_width=768, llm_width=2048, layers=4, stack=2),
        Size(kind="personal", count=24, batch_size=8, cap_bytes=1_500_000_000),
    ],
    ids=lambda size: f"{size.kind}-{size.batch_size}x{size.frames}-{size.rows}-{size.cap_bytes}",
)
def test_a_training_stays_below_what_was_planned_for_it(size: Size) -> None:
    words = [sys.executable, "-m", "tests.helpers_memory", json.dumps(asdict(size))]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["peak_bytes"] <= said["planned_bytes"] <= LOOSE * said["peak_bytes"], said
    assert said["planned_bytes"] <= said["cap_bytes"]
    # where there is a cap, a batch (or a personal mask) had to go through in pieces
    assert not size.cap_bytes or said["accumulation"] > 1 or said["score_batch"] < size.count
