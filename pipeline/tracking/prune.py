"""Retention: old runs out of the store for good, with their files. Never what the registry or a kept run needs."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.tracking.store import MlflowStore, pages, redacted, translated
from pipeline.tracking.sweep import collect, scrub
from pipeline.tracking.tracker import SEND_WAIT_S, Tracker
from stages.errors import InputError

PAGE = 1000
DAY_MS = 24 * 3600 * 1000


@dataclass
class Plan:
    """What would go, and what stays although it is old."""

    runs: list[Any] = field(default_factory=list)
    """MLflow's runs, the newest first; some may have been deleted in the UI already."""
    kept: dict[str, int] = field(default_factory=dict)
    """{why: how many runs} of those that stay."""
    bytes: int | None = 0
    """Size of their files; None on a server, which does not tell."""


def plan(tracker: Tracker, keep_days: float | None, keep_last: int | None, now_ms: int | None = None) -> Plan:
    """Look what goes: runs that began more than ``keep_days`` ago and are not below the ``keep_last`` newest `dvc repro`.

    Each of the two protects by itself; the one that is None protects nothing. What devices told is no `dvc repro`: with
    ``keep_last`` it stays where it is no older than the oldest `dvc repro` that stays. Kept whatever their age: runs that a
    registered version points at, runs of the base adapters that such versions change, runs that have not ended, and all above
    a kept run. Raises InputError where neither is given or one is negative, TrackingError.
    """
    if keep_days is None and keep_last is None:
        raise InputError(
            "tracking prune: nothing says which runs to keep. Give --keep-days or --keep-last, or set tracking.keep_days or "
            "tracking.keep_last in params.yaml."
        )
    if (keep_days or 0) < 0 or (keep_last or 0) < 0:
        raise InputError(
            f"tracking prune: got keep_days {keep_days} and keep_last {keep_last}, needed numbers from 0 up"
        )
    artifacts = tracker.prepare()
    store = MlflowStore(tracker.uri, tracker.settings.experiment, artifacts)
    with translated(tracker.uri):
        runs = list(_runs(store._client, store._experiment()))
        versions = list(pages(lambda token: store._client.search_model_versions(max_results=PAGE, page_token=token)))
    limit = (now_ms or time.time_ns() // 1_000_000) - int((keep_days or 0) * DAY_MS)
    found = _choose(runs, versions, limit if keep_days is not None else None, keep_last)
    if artifacts is None:
        found.bytes = None
    else:
        found.bytes = sum(_size(folder) for run in found.runs for folder in artifacts.glob(run.info.run_id))
    return found


def _choose(runs: list[Any], versions: list[Any], limit_ms: int | None, keep_last: int | None) -> Plan:
    by_id = {run.info.run_id: run for run in runs}
    parents = {run_id: run.data.tags.get("mlflow.parentRunId", "") for run_id, run in by_id.items()}

    def above(run_id: str) -> Iterator[str]:
        seen: set[str] = set()
        while run_id in by_id and run_id not in seen:
            seen.add(run_id)
            yield run_id
            run_id = parents[run_id]

    devices = {run_id for run_id, run in by_id.items() if run.data.tags.get("source") == "device"}
    tops = [
        run
        for run_id, run in by_id.items()  # a fleet on a timer would fill the newest places, all of them
        if parents[run_id] not in by_id and run_id not in devices and run.info.lifecycle_stage == "active"
    ]
    newest = sorted(tops, key=lambda run: run.info.start_time, reverse=True)[: keep_last or 0]
    last = {run.info.run_id for run in newest}
    since_ms = newest[-1].info.start_time if newest else math.inf
    registered = {version.run_id for version in versions}
    adapters = {dict(version.tags or {}).get("base_sha256") for version in versions} - {None, ""}

    why: dict[str, str] = {}
    for run_id, run in by_id.items():
        if run_id in registered:
            why[run_id] = "registered"
        elif run.data.tags.get("adapter_sha256") in adapters:
            why[run_id] = "base of a registered adapter"
        elif run.info.status in ("RUNNING", "SCHEDULED") and run.info.lifecycle_stage == "active":
            why[run_id] = "not ended"
        elif last.intersection(above(run_id)):
            why[run_id] = "of the last"
        elif run_id in devices and run.info.start_time >= since_ms:
            why[run_id] = "of a device, no older than the last"
        elif limit_ms is not None and run.info.start_time >= limit_ms:
            why[run_id] = "young"
    for run_id in list(why):
        for higher in above(run_id):
            why.setdefault(higher, "above a kept run")
    result = Plan([run for run in runs if run.info.run_id not in why])
    for reason in why.values():
        result.kept[reason] = result.kept.get(reason, 0) + 1
    return result


def apply(tracker: Tracker, found: Plan) -> str:
    """Delete the runs of a plan for good; what is left for the operator of a server to do, empty for an embedded store.

    Stopped in the middle, the next prune goes on: a run that is deleted but still there is found again. Raises TrackingError.
    """
    if not found.runs:
        return ""
    artifacts = tracker.prepare()
    store = MlflowStore(tracker.uri, tracker.settings.experiment, artifacts)
    ids = [run.info.run_id for run in found.runs]
    with tracker.spool.sending(SEND_WAIT_S):  # nothing is sent below a run that is going
        with translated(tracker.uri):
            for run in found.runs:
                if tracker.uri.startswith("http"):
                    _delete_files(tracker.uri, run.info.artifact_uri)
                if run.info.lifecycle_stage == "active":
                    store._client.delete_run(run.info.run_id)
        if tracker.uri.startswith("sqlite:///"):
            collect(tracker.uri, ids)
            for folder in [artifacts / run_id for run_id in ids] if artifacts else []:
                shutil.rmtree(folder, ignore_errors=True)  # of a run whose rows went before its files
            scrub(Path(tracker.uri.removeprefix("sqlite:///")))
            return ""
    return (
        f"The files of {len(ids)} run(s) are deleted, and the runs marked as deleted. Their rows go once the operator runs, "
        f'with serve.sh\'s environment: mlflow gc --backend-store-uri "$MLFLOW_BACKEND_STORE_URI" --tracking-uri '
        f"{redacted(tracker.uri)}. That removes every deleted run and every deleted experiment of that server for good."
    )


def _delete_files(uri: str, place: str) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    get_artifact_repository(place, tracking_uri=uri).delete_artifacts()


def _runs(client: Any, experiment: str) -> Iterator[Any]:
    from mlflow.entities import ViewType

    order = ["start_time DESC"]
    return pages(lambda token: client.search_runs([experiment], "", ViewType.ALL, PAGE, order, token))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
