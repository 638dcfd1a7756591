"""Deleted runs out of MLflow's SQLite file for good: rows, files, free pages and write-ahead log."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from stages.errors import TrackingError

BUSY_S = 30.0

# What `mlflow gc --run-ids` does. The command itself also deletes for good every experiment that somebody has deleted, which
# may be wanted back, and takes no more runs than fit on one command line.
_PROGRAM = """
import json, sys
from mlflow.cli import _gc_tracking_resources, _get_store
from mlflow.tracking import set_tracking_uri
uri, runs, logged = json.load(sys.stdin)
set_tracking_uri(uri)
_gc_tracking_resources(
    backend_store=_get_store(uri, None), run_ids=runs, experiment_ids=None, logged_model_ids=logged, older_than=None,
    time_delta=0, skip_experiments=True, skip_logged_models=False,
)
"""


def collect(uri: str, runs: Sequence[str], logged: Sequence[str] = ()) -> None:
    """Delete deleted runs and logged models for good: rows and files. Raises TrackingError with MLflow's words.

    In a process of its own, as its migrations set up logging for a whole process.
    """
    if not runs and not logged:
        return
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=json.dumps([uri, list(runs), list(logged)]),
        capture_output=True,
        text=True,
        check=False,
        cwd=os.sep,  # not in the project's folder, whose mlflow/ would pass for the library
        env={**os.environ, "MLFLOW_TRACKING_URI": uri},
    )
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
        raise TrackingError(f"{uri}: deleted runs could not be removed for good: {words[-1]}")


def scrub(database: Path) -> None:
    """Delete inputs that no run refers to (MLflow leaves them), and rewrite the file without its free pages.

    Raises TrackingError where another process, such as the MLflow UI, holds the file.
    """
    try:
        with closing(sqlite3.connect(database, timeout=BUSY_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA secure_delete = ON")
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if {"runs", "inputs", "datasets", "input_tags"} <= tables:
                connection.execute(
                    "DELETE FROM inputs WHERE destination_type = 'RUN' "
                    "AND destination_id NOT IN (SELECT run_uuid FROM runs)"
                )
                connection.execute("DELETE FROM input_tags WHERE input_uuid NOT IN (SELECT input_uuid FROM inputs)")
                connection.execute(
                    "DELETE FROM datasets WHERE dataset_uuid NOT IN "
                    "(SELECT source_id FROM inputs WHERE source_type = 'DATASET')"
                )
            connection.execute("VACUUM")
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise sqlite3.OperationalError("its write-ahead log is in use")
    except sqlite3.OperationalError as error:
        raise TrackingError(
            f"{database}: could not be cleaned of deleted rows ({error}). End what has it open (`edgealign tracking ui`)"
        ) from error
