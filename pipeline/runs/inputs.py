"""What a stage reads, and the md5 by which DVC knows it: the datasets of its run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.project import Project
from pipeline.settings import Settings


@dataclass(frozen=True)
class Input:
    """A file or folder that a stage reads."""

    path: str
    """Below the project, as dvc.yaml spells it."""
    md5: str
    """DVC's: that of a file's bytes, or ``<md5>.dir`` of a folder's listing."""


def paths_read(project: Project, settings: Settings, stage: str, cohort: str) -> list[Path]:
    """What a stage reads. One entry for each dependency in dvc.yaml, or for each part of it where that is a folder of many."""

    def both(cohorts: list[str]) -> list[Path]:
        return [path for name in cohorts for path in (project.features(name), project.labels(name))]

    base, mine = [project.base_adapter], project.adapters(cohort)
    learned = [*base, project.features(cohort), project.second_labels(cohort)]
    return {
        "features": [project.cohort(cohort), project.encoder],
        "pseudo_labels": [project.cohort(cohort)],
        "base_inputs": both(settings.base_cohorts),
        "base": [project.base_inputs, project.encoder, project.llm],
        "second_labels": [project.cohort(cohort), *base, *both([cohort]), project.llm],
        "personalize": learned,
        "evaluate": [*learned, mine, project.llm],
        "report": [*base, *map(project.evaluation, settings.personal_cohorts)],
    }.get(stage, [])


def inputs_of(project: Project, settings: Settings, stage: str, cohort: str) -> list[Input]:
    """The inputs of a stage that are there.

    Under DVC, which has just settled what lies above the stage, dvc.lock and data.dvc tell the md5; else the files do.
    """
    known = _recorded(project.root) if os.environ.get("DVC_STAGE") else {}
    found = []
    for path in paths_read(project, settings, stage, cohort):
        name = path.relative_to(project.root).as_posix()
        md5 = known.get(name) or dvc_md5(path)
        if md5:
            found.append(Input(name, md5))
    return found


def dvc_md5(path: Path) -> str | None:
    """The md5 that DVC gives a file or a folder; None where there is neither."""
    if path.is_file():
        digest = hashlib.md5(usedforsecurity=False)
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest()
    if not path.is_dir():
        return None
    files = sorted((item.relative_to(path).as_posix(), item) for item in path.rglob("*") if item.is_file())
    return _of_listing([{"md5": str(dvc_md5(item)), "relpath": name} for name, item in files])


def _of_listing(entries: list[dict[str, str]]) -> str:
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _recorded(root: Path) -> dict[str, str]:
    """{path: md5} of every output in dvc.lock, and of the cohorts in data.dvc."""
    found = dict(_cohorts(root))
    lock = _yaml(root / "dvc.lock")
    for stage in (lock.get("stages") or {}).values():
        for out in stage.get("outs") or []:
            if out.get("md5"):
                found[out["path"]] = out["md5"]
    return found


def _cohorts(root: Path) -> Iterator[tuple[str, str]]:
    """The md5 of each cohort's folder: the part of data/'s listing that lies in it."""
    try:
        oid = _yaml(root / "data.dvc")["outs"][0]["md5"]
        cache = _cache(root)
        listing = json.loads((cache / oid[:2] / oid[2:]).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return
    folders: dict[str, list[dict[str, str]]] = {}
    for entry in listing:
        top, name, rest = [*entry["relpath"].split("/", 2), "", ""][:3]
        if top == "cohorts" and rest:
            folders.setdefault(f"data/cohorts/{name}", []).append({"md5": entry["md5"], "relpath": rest})
    for folder, entries in folders.items():
        yield folder, _of_listing(sorted(entries, key=lambda entry: entry["relpath"]))


def _cache(root: Path) -> Path:
    """Where DVC keeps objects by md5, unless a setting puts it elsewhere: then the files themselves are read."""
    return root / ".dvc" / "cache" / "files" / "md5"


def _yaml(path: Path) -> dict[str, Any]:
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
