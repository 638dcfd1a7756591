"""Programs of Debian that some tests need and pip does not bring."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

MUST = "EDGEALIGN_NEEDS_ALL"
"""Set by .ci/run, which installs what is missing: a test that lacks its program then fails instead of being skipped."""


@dataclass(frozen=True)
class Program:
    """How a program is found, and Debian's packages that bring it."""

    packages: str
    names: tuple[str, ...]
    folders: str = ""
    """Pattern of folders below / where Debian keeps it off the PATH; the last one in order (the newest version) counts."""


PROGRAMS = {
    # its pictures need letters: without a font it draws boxes
    "chromium": Program("chromium fonts-dejavu-core", ("chromium", "chromium-browser")),
    "iproute2": Program("iproute2", ("ip",)),
    "postgresql": Program("postgresql", ("initdb",), "usr/lib/postgresql/*/bin"),
}


def program(name: str) -> Path | None:
    """Where a program is; links followed, as beside PostgreSQL's ``initdb`` lie the others. None where it is not installed."""
    known = PROGRAMS[name]
    folders = [str(folder) for folder in sorted(Path("/").glob(known.folders))[::-1]] if known.folders else []
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *folders])
    found = next(filter(None, (shutil.which(one, path=path) for one in known.names)), None)
    return Path(found).resolve() if found else None


def needs(*programs: str) -> None:
    """Skip the test where one of the programs is missing; fail it in CI. For fixtures: ``needs("chromium")``."""
    missing = [name for name in programs if program(name) is None]
    if missing:
        packages = " ".join(PROGRAMS[name].packages for name in missing)
        reason = f"{', '.join(missing)} is not installed: apt-get install {packages}"
        if os.environ.get(MUST) == "1":
            pytest.fail(reason)
        pytest.skip(reason)
