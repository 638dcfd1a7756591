"""The owner of a piece of work: found by process, never by text alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.owner import is_dvc, owner

ROOT = Path(__file__).resolve().parents[2]
TELL = "import json; from pipeline.owner import owner; o = owner(); print(json.dumps([o.pid, o.dvc, o.key]))"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["python", "/env/bin/dvc", "repro"], True),
        (["/env/bin/python", "-m", "dvc", "repro", "-q"], True),
        (["python", "/env/lib/dvc/__main__.py", "exp", "run", "-S", "base.epochs=2"], True),
        (["dvc", "-q", "repro"], True),
        (["dvc", "exp", "show"], False),
        (["dvc", "pull", "repro"], False),
        (["bash", "-c", "dvc repro"], False),
        (["vim", "repro"], False),
    ],
)
def test_which_command_lines_are_a_repro(line: list[str], expected: bool) -> None:
    assert is_dvc(line) is expected


def test_without_dvc_the_owner_is_this_process() -> None:
    found = owner()
    assert (found.pid, found.dvc) == (os.getpid(), False)
    assert found.alive()


def test_another_process_with_the_same_pid_is_not_the_owner() -> None:
    found = owner()
    assert not replace(found, key=found.key + "0").alive()


def test_stages_of_one_repro_share_its_process(tmp_path: Path) -> None:
    program = tmp_path / "dvc"
    program.write_text(
        "import os, subprocess, sys\n"
        "print(os.getpid(), flush=True)\n"
        # through a shell, as DVC does it
        f"for _ in range(2): subprocess.run([{sys.executable!r} + ' -c ' + repr({TELL!r})], shell=True, check=True)\n"
    )
    run = subprocess.run(
        [sys.executable, str(program), "repro"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    pid, *stages = run.stdout.splitlines()
    first, second = (json.loads(line) for line in stages)
    assert first[:2] == [int(pid), True]
    assert first == second
