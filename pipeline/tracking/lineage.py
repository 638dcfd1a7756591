"""What every run says about where it comes from: code commit, data version, DVC stage, host."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import yaml

UNKNOWN = "unknown"


def lineage_tags(root: Path) -> dict[str, str]:
    """Tags of this checkout at this moment. What cannot be found out is "unknown", never left to guessing."""
    tags = {
        "git_commit": git(root, "rev-parse", "HEAD") or UNKNOWN,
        "git_dirty": _dirty(root),
        "data_md5": data_md5(root / "data.dvc") or UNKNOWN,
        "host": socket.gethostname(),
        "mlflow.user": _user(),
    }
    stage = os.environ.get("DVC_STAGE")  # set by DVC for the commands that it starts
    if stage:
        tags["dvc_stage"] = stage
    if tags["git_commit"] != UNKNOWN:
        tags["mlflow.source.git.commit"] = tags["git_commit"]  # the MLflow UI shows this one as "Source"
    return tags


def git(root: Path, *arguments: str) -> str | None:
    """Output of a git command in ``root``; None where there is no git or no repository."""
    try:
        run = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def _dirty(root: Path) -> str:
    changes = git(root, "status", "--porcelain", "--untracked-files=no")
    return UNKNOWN if changes is None else str(bool(changes)).lower()


def data_md5(pointer: Path) -> str | None:
    """The md5 that a ``.dvc`` file points at; None where there is no such file."""
    try:
        content: Any = yaml.safe_load(pointer.read_text(encoding="utf-8"))
        return str(content["outs"][0]["md5"])
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError):
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return UNKNOWN
