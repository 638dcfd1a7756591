"""A device that dies in the middle of ``personalize`` over several: every user is trained, once each."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from pipeline.cluster import environment
from pipeline.cluster.session import CODE

pytestmark = pytest.mark.integration


def test_a_device_killed_in_the_middle_costs_no_user_and_trains_none_twice():
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers_two_devices"],
        env=environment.with_code(dict(os.environ), CODE),
        capture_output=True,
        text=True,
        timeout=240,
        cwd=CODE,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["failures"] == []
    assert said["users"] == list(range(6))
    assert said["repeated"] == 1
    assert said["after_the_kill"] == ["virtual-jetson-0"]
    assert said["noticed_after_s"] > 0.0  # it was; how fast is a figure of docs/device.md
