"""The tests' own rule about programs that pip does not bring, and what CI does about them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests import helpers_programs
from tests.helpers_programs import MUST, PROGRAMS, Program, needs, program

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROGRAMS, "absent", Program("absent-package", ("no-such-program",)))


def test_a_missing_program_skips_with_the_command_that_brings_it(
    without: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(MUST, raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install absent-package"):
        needs("absent")


def test_a_missing_program_fails_in_ci(without: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MUST, "1")
    with pytest.raises(pytest.fail.Exception, match="apt-get install absent-package"):
        needs("absent")


def test_the_newest_version_off_the_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("14", "15"):
        tool = tmp_path / version / "bin" / "some-tool-off-the-path"
        tool.parent.mkdir(parents=True)
        tool.write_text("#!/bin/sh\n")
        tool.chmod(0o755)
    pattern = str(tmp_path.relative_to("/") / "*" / "bin")
    monkeypatch.setitem(PROGRAMS, "tool", Program("x", ("some-tool-off-the-path",), pattern))
    monkeypatch.setattr(helpers_programs.os, "environ", {"PATH": os.defpath})
    assert program("tool") == tmp_path / "15" / "bin" / "some-tool-off-the-path"


def fake(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


def ci(tmp_path: Path, installed: str) -> subprocess.CompletedProcess[str]:
    """.ci/run with commands that only tell what they were asked."""
    tools = tmp_path / "tools"
    tools.mkdir()
    fake(
        tools,
        "dpkg-query",
        f'for one in {installed}; do [[ "${{@: -1}}" == "$one" ]] && echo -n installed; done; exit 0',
    )
    fake(tools, "apt-get", f'echo "$@" >> {tmp_path / "apt"}')
    fake(tools, "make", 'echo "make $@ needs=$EDGEALIGN_NEEDS_ALL"')
    fake(tools, "id", "echo 0")
    return subprocess.run(
        ["bash", str(ROOT / ".ci" / "run")],
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )


def test_ci_installs_only_what_is_missing(tmp_path: Path) -> None:
    done = ci(tmp_path, "postgresql fonts-dejavu-core")
    asked = (tmp_path / "apt").read_text()
    assert re.search(r"install .*\bchromium\b", asked)
    assert "postgresql" not in asked
    assert re.search(r"^make test VENV=.* needs=1$", done.stdout, re.MULTILINE)


def test_ci_asks_for_nothing_where_all_is_there_and_knows_every_package(tmp_path: Path) -> None:
    everything = " ".join(known.packages for known in PROGRAMS.values())
    ci(tmp_path, everything)
    assert not (tmp_path / "apt").exists()
