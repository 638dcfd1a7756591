"""What every run says about where it comes from: code commit, data version, DVC stage and experiment, host, settings."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import yaml

from stages.flat import flatten

UNKNOWN = "unknown"
EXPERIMENT = {"dvc_experiment": "DVC_EXP_NAME", "dvc_baseline": "DVC_EXP_BASELINE_REV"}
"""Tag: what `dvc exp run` tells the commands that it starts."""

NO_RESULT = ("check", "promotion", "tracking")
"""Sections of params.yaml that no stage reads, or that say only where runs go."""


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
    for tag, variable in EXPERIMENT.items():
        if os.environ.get(variable):
            tags[tag] = os.environ[variable]
    if tags["git_commit"] != UNKNOWN:
        tags["mlflow.source.git.commit"] = tags["git_commit"]  # the MLflow UI shows this one as "Source"
    return tags


def parameters(root: Path) -> dict[str, Any]:
    """Every setting that a stage may read, ``personalize.density`` and so on; empty where params.yaml is not to be read."""
    from pipeline.settings import load_settings
    from stages.errors import EdgealignError

    try:
        settings = load_settings(root).model_dump(exclude=set(NO_RESULT))
    except (EdgealignError, OSError):
        return {}
    return flatten(settings)


def changed_parameters(root: Path) -> str | None:
    """What params.yaml changes against the commit that this run starts from: "personalize.density: 0.01 → 0.02; ...".

    Empty where nothing differs; None where there is no such commit.
    """
    baseline = os.environ.get(EXPERIMENT["dvc_baseline"]) or "HEAD"
    before = git(root, "show", f"{baseline}:./params.yaml")
    if before is None:
        return None
    try:
        old, new = (_plain(text) for text in (before, (root / "params.yaml").read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, AttributeError):
        return None
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return "; ".join(f"{name}: {old.get(name, 'default')} → {new.get(name, 'default')}" for name in names)


def _plain(text: str) -> dict[str, Any]:
    content = yaml.safe_load(text)
    return flatten({name: part for name, part in content.items() if name not in NO_RESULT})


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
