"""One base on two or four devices through Ray Train: real processes, one of which dies, or is ten times slower."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from pipeline.cluster import environment
from pipeline.cluster.session import CODE
from tests.helpers_parallel import EXCHANGE, alone

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def trained(what: str, workers: int = 2) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers_parallel", what, str(workers)],
        env=environment.with_code(dict(os.environ), CODE),
        capture_output=True,
        text=True,
        timeout=500,
        cwd=CODE,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_worker_that_dies_is_started_again_and_goes_on() -> None:
    said = trained("killed")
    assert len(said["killed"]) == 1
    assert said["rounds"] == said["asked"]
    assert said["wer"] < alone(2) + 0.1


def test_a_slow_one_of_four_devices_takes_part_and_holds_nobody_up() -> None:
    said = trained("slow", 4)
    assert said["rounds"] == said["asked"]
    assert set(said["sent"]) == {"0", "1", "2", "3"}
    # each round's update of all of them comes to everybody, and is no larger than one worker's
    each = max(said["sent"].values()) / said["rounds"]
    assert all(0.9 * each * said["rounds"] < size < 1.2 * each * said["rounds"] for size in said["received"].values())
    assert said["wer"] < alone(4) + 0.1


def test_the_stage_trains_on_two_devices_and_judges_what_they_agree_on() -> None:
    said = trained("stage")
    assert said["dev_wer"] == said["wer"] < alone(2) + 0.05
    assert said["epochs"] == 16
    epochs, seconds, losses = zip(*said["losses"], strict=True)
    assert list(epochs) == sorted(set(epochs)) and epochs[-1] == 16
    assert list(seconds) == sorted(seconds) and 0.0 < seconds[0] <= seconds[-1] <= said["seconds"]
    assert losses[-1] < losses[0]
    # a byte for each weight, every four steps: all parameters of so small a model go whole
    dense = 2 * 4 * said["parameters"] * EXCHANGE.local_steps * said["rounds"]
    assert dense / said["sent"] > 13
    assert "base.workers is 3, the cluster has room for 2" in said["refused"]
