"""The proof of an erasure: what was erased, by counts and hashes; no audio, no text, no name. And what git says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from pipeline.cohorts.erasure.person import Matcher
from pipeline.cohorts.erasure.state import Erasure
from pipeline.cohorts.erasure.tombstones import erased_recordings, erasures_folder
from pipeline.settings import Settings
from stages.atomic import write_json

GIT_S = 120


def proven_before(erasure: Erasure) -> str | None:
    """The erasure whose proof says all of this already: another clone's, whose cache is cleaned now. None where none does."""
    refused = erased_recordings(erasure.project)
    proofs = {refused.get(digest) for digest in erasure.person.audio}
    if any(erasure.shards.values()) or None in proofs or not proofs:
        return None
    return next((str(name) for name in sorted(map(str, proofs))), None)


def proof_path(erasure: Erasure) -> Path:
    """Where the proof lies: in data/, so that it travels with data.dvc."""
    return erasures_folder(erasure.project) / f"{erasure.proven or erasure.id}.json"


def write_proof(erasure: Erasure, verified: dict[str, Any] | None) -> None:
    """Write the proof; ``verified`` is what the search afterwards found, None before there was one."""
    person = erasure.person
    retrain = [{"sha256": digest, "kind": "base"} for digest in sorted(person.bases)]
    retrain += [{"sha256": digest, "kind": "personal"} for digest in sorted(person.descendants - person.bases)]
    write_json(
        proof_path(erasure),
        {
            "erasure": erasure.id,
            "date": erasure.date,
            "scope": "one cohort" if erasure.only else "every cohort",
            "recordings": {
                # a conversation's recording may come in again for those who stay
                "source_sha256": sorted(person.sources - person.shared_sources),
                "audio_sha256": sorted(person.audio),
            },
            "erased": dict(sorted(erasure.counts.items())),
            "objects": sorted({oid for oids in erasure.objects.values() for oid in oids}),
            "runs": erasure.runs,
            "retrain": retrain,
            "open": erasure.waits,
            "verification": verified,
        },
    )


def standing_waits(erasure: Erasure, settings: Settings) -> list[str]:
    """What no command on this machine can erase."""
    waits = [
        "The folder that the recordings were added from, and every copy of it: edgealign keeps no record of where it lies.",
        "Other clones of this project, and their DVC caches: run `edgealign cohort forget` there, after `git pull`.",
        "Devices that have pulled one of the user's adapters, or one that is to be retrained: remove it there.",
    ]
    if settings.ray.address:
        waits.append("Nodes of the Ray cluster: delete ~/.cache/edgealign/shipped there; work was sent to them.")
    if (erasure.project.private / "mlflow-server").is_dir():
        waits.append("The tracking server's own folder .edgealign/mlflow-server: see what is said of its address.")
    if next(erasure.project.private.glob("mlflow-replaced-*"), None):
        waits.append("Stores that `edgealign tracking restore` put aside: delete .edgealign/mlflow-replaced-*.")
    waits.append(
        "Backups of the tracking store (`edgealign tracking backup`): delete those made before this, make a new one."
    )
    return waits


def git_mentions(root: Path, matcher: Matcher) -> list[str]:
    """Commits whose content or message names the person; empty where there is no git.

    edgealign writes no name into what git tracks; somebody may have done so by hand, or an edgealign before this rule.
    """
    found = []
    for name in sorted(matcher.names):
        words = rf"(^|[^A-Za-z0-9_-]){re.escape(name)}([^A-Za-z0-9_-]|$)"
        for search in (["-G", words], ["--extended-regexp", "--grep", words]):
            try:
                done = subprocess.run(
                    ["git", "-C", str(root), "log", "--all", "--format=%h", *search],
                    capture_output=True,
                    text=True,
                    timeout=GIT_S,
                    check=True,
                )
            except (OSError, subprocess.SubprocessError):
                continue
            found += done.stdout.split()
    return sorted(set(found))
