"""What remains of an erasure: ``data/erasures/<id>.json``, a proof without audio, text or name, and what others read of it.

The records travel with ``data.dvc``, so every clone refuses the same recordings and knows which adapters are to be retrained.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.project import Project
from stages.errors import InputError


def erasures_folder(project: Project) -> Path:
    """Where the proofs lie: one JSON file an erasure."""
    return project.root / "data" / "erasures"


def read_proofs(project: Project) -> Iterator[tuple[str, dict[str, Any]]]:
    """(erasure id, proof) of every erasure, sorted by id.

    Raises InputError where one cannot be read: passing over it would let erased recordings in again.
    """
    for path in sorted(erasures_folder(project).glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict) or not isinstance(content["recordings"], dict):
                raise ValueError("not a proof of an erasure")
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{path}: not readable ({error}). It says which recordings must not come in again: "
                "`dvc checkout data` or `dvc pull` gets it back."
            ) from error
        yield path.stem, content


def erased_recordings(project: Project) -> dict[str, str]:
    """{SHA-256 of a recording: erasure id}: of files as they came in and of FLAC bytes as the shards held them.

    Raises InputError where a proof cannot be read.
    """
    return {
        digest: erasure
        for erasure, proof in read_proofs(project)
        for digests in proof["recordings"].values()
        for digest in digests
    }


def erased_objects(project: Project) -> dict[str, str]:
    """{DVC object id: erasure id}: what was deleted from caches and remotes, and must not be asked for or pushed again."""
    return {oid: erasure for erasure, proof in read_proofs(project) for oid in proof.get("objects") or []}


def adapters_to_retrain(project: Project) -> dict[str, str]:
    """{SHA-256 of an ``adapter.safetensors`` in this checkout: erasure id}: learned from a person who was erased since.

    An adapter leaves this list when it is trained again: its weights' hash is then another.
    """
    marked = {item["sha256"]: erasure for erasure, proof in read_proofs(project) for item in proof.get("retrain") or []}
    if not marked:
        return {}
    there = set()
    for path in (project.root / "artifacts" / "adapters").rglob("adapter.json"):
        try:
            there.add(json.loads(path.read_text(encoding="utf-8")).get("weights_sha256"))
        except (OSError, ValueError, AttributeError):
            continue  # a broken adapter is trained again anyway
    return {digest: erasure for digest, erasure in marked.items() if digest in there}


def retrain_notice(project: Project) -> list[str]:
    """One line for each adapter that is to be retrained, by its place in this checkout; empty where there is none."""
    marked = adapters_to_retrain(project)
    if not marked:
        return []
    adapters = project.root / "artifacts" / "adapters"
    lines = []
    for path in sorted(adapters.rglob("adapter.json")):
        try:
            digest = json.loads(path.read_text(encoding="utf-8")).get("weights_sha256")
        except (OSError, ValueError, AttributeError):
            continue
        if digest in marked:
            name = path.parent.relative_to(adapters)
            lines.append(f"{name}: learned from a person who was erased since (erasure {marked[digest]}): `dvc repro`")
    return lines
