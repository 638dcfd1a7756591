"""A tracking store filled with many runs, registered models and versions, in bulk: through MLflow it would take an hour."""

from __future__ import annotations

import sqlite3
import time
import uuid
from contextlib import closing
from pathlib import Path

from stages.registered import RECORD_TAG

EXPERIMENT = "edgealign"
METRICS = ("wer", "cer", "base_wer", "train_seconds", "adapter_bytes")
PARAMS = {"personalize.method": "shira", "personalize.density": "0.01", "personalize.steps": "60"}
EACH_VERSIONS = 3


def fill(store_db: Path, runs: int, models: int) -> None:
    """Add ``runs`` finished runs and ``models`` registered models of EACH_VERSIONS versions to an embedded store.

    ``store_db`` is what ``pipeline.tracking.store.create_embedded`` made. The runs have a parent, tags, parameters and
    metrics as those of `dvc repro` have; each model of ``edgealign.many.user-00000`` a champion, a previous and a challenger.
    """
    with closing(sqlite3.connect(store_db)) as connection, connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        experiment = _experiment(connection, store_db.parent / "artifacts")
        ids = [uuid.uuid4().hex for _ in range(runs)]
        start, place = int(time.time() * 1000) - runs * 1000, (store_db.parent / "artifacts").as_uri()
        connection.executemany(
            "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, "
            "end_time, source_version, lifecycle_stage, artifact_uri, experiment_id) "
            "VALUES (?, ?, 'UNKNOWN', '', '', 'bench', 'FINISHED', ?, ?, '', 'active', ?, ?)",
            (
                (
                    run,
                    _name(number),
                    start + number * 1000,
                    start + number * 1000 + 900,
                    f"{place}/{run}/artifacts",
                    experiment,
                )
                for number, run in enumerate(ids)
            ),
        )
        connection.executemany(
            "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
            ((key, value, run) for number, run in enumerate(ids) for key, value in _tags(number, ids).items()),
        )
        connection.executemany(
            "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)",
            ((key, value, run) for run in ids for key, value in PARAMS.items()),
        )
        measured = [
            (key, 0.1 + number % 7 / 10, start + number * 1000, run)
            for number, run in enumerate(ids)
            for key in METRICS
        ]
        for table in ("metrics", "latest_metrics"):
            connection.executemany(
                f"INSERT INTO {table} (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, 0, 0, ?)",
                measured,
            )
        _register(connection, models, ids, place)


def _experiment(connection: sqlite3.Connection, artifacts: Path) -> int:
    found = connection.execute("SELECT experiment_id FROM experiments WHERE name = ?", (EXPERIMENT,)).fetchone()
    if found:
        return int(found[0])
    now = int(time.time() * 1000)
    made = connection.execute(
        "INSERT INTO experiments (name, artifact_location, lifecycle_stage, creation_time, last_update_time) "
        "VALUES (?, ?, 'active', ?, ?)",
        (EXPERIMENT, artifacts.as_uri(), now, now),
    )
    return int(made.lastrowid or 0)


def _name(number: int) -> str:
    return f"personalize/user-{number % 500:05d}" if number % 50 else f"personalize@many ({number // 50})"


def _tags(number: int, ids: list[str]) -> dict[str, str]:
    """A stage's run every 50, and its users' below it."""
    parent = (
        {"mlflow.parentRunId": ids[number - number % 50], "user": f"user-{number % 500:05d}"} if number % 50 else {}
    )
    told = {"stage": "personalize", "cohort": "many", "device_kind": "virtual", "mlflow.runName": _name(number)}
    return {**told, **parent, "adapter_sha256": f"{number:064x}", RECORD_TAG: ids[number]}


def _register(connection: sqlite3.Connection, models: int, ids: list[str], place: str) -> None:
    now = int(time.time() * 1000)
    names = [f"{EXPERIMENT}.many.user-{number:05d}" for number in range(models)]
    told = "INSERT INTO registered_models (name, creation_time, last_updated_time, description) VALUES (?, ?, ?, '')"
    connection.executemany(told, ((name, now, now) for name in names))
    versions = [
        (name, version, ids[(number * EACH_VERSIONS + version) % len(ids)])
        for number, name in enumerate(names)
        for version in range(1, EACH_VERSIONS + 1)
    ]
    connection.executemany(
        "INSERT INTO model_versions (name, version, creation_time, last_updated_time, current_stage, source, "
        "storage_location, run_id, status) VALUES (?, ?, ?, ?, 'None', ?, ?, ?, 'READY')",
        ((name, version, now, now, *[f"{place}/{run}/artifacts/adapter"] * 2, run) for name, version, run in versions),
    )
    connection.executemany(
        "INSERT INTO model_version_tags (name, version, key, value) VALUES (?, ?, ?, ?)",
        (
            (name, version, key, value)
            for name, version, run in versions
            for key, value in {"adapter_sha256": run * 2, "wer": "0.2", "cer": "0.1", "cohort": "many"}.items()
        ),
    )
    aliases = {"previous": 1, "champion": 2, "challenger": EACH_VERSIONS}
    connection.executemany(
        "INSERT INTO registered_model_aliases (name, alias, version) VALUES (?, ?, ?)",
        ((name, alias, version) for name in names for alias, version in aliases.items()),
    )
