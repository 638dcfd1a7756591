"""The cap on a process's memory, each time in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cluster import cap

ROOT = Path(__file__).resolve().parents[2]

TRY = """
import sys
import numpy as np
from pipeline.cluster.cap import memory_cap
from stages.errors import ClusterError

def hold(megabytes):
    np.ones(megabytes * 1_000_000, np.uint8)

cap = int(sys.argv[1])
with memory_cap(cap):
    hold(100)  # what was given back may be taken again
    hold(100)
try:
    with memory_cap(cap):
        hold(600)
    print("no cap")
except ClusterError as error:
    print(error)
hold(600)
with memory_cap(None):
    hold(600)
for other in (RuntimeError("shapes differ"), ValueError("no")):
    try:
        with memory_cap(cap):
            raise other
    except type(other) as error:
        print(error)
"""


def tried(cap_bytes: int) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", TRY, str(cap_bytes)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.skipif(not cap.STATUS.is_file(), reason="no /proc here: there is no cap")
def test_more_than_the_cap_is_refused_and_the_process_goes_on() -> None:
    refused, *others = tried(500_000_000)
    assert "more memory was needed than the 0.50 GB" in refused and "--memory-bytes" in refused
    assert others == ["shapes differ", "no"]


def test_below_the_cap_nothing_is_refused() -> None:
    assert tried(5_000_000_000)[0] == "no cap"
