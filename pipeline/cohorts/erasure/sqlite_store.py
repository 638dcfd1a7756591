"""MLflow's SQLite file: deleted rows out of it for good, free pages and write-ahead log included."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from pipeline.cohorts.erasure.person import Matcher
from stages.errors import TrackingError

BUSY_S = 30.0


def mentions(database: Path, matcher: Matcher) -> list[str]:
    """Tables and columns that name the person, and free pages, which may hold what was deleted."""
    found = []
    with closing(sqlite3.connect(database, timeout=BUSY_S)) as connection:
        for table, columns in _text_columns(connection).items():
            for column in columns:
                values = connection.execute(f'SELECT DISTINCT "{column}" FROM "{table}"')
                if any(isinstance(value, str) and _says(value, matcher) for (value,) in values):
                    found.append(f"table {table}, column {column}")
        if connection.execute("PRAGMA freelist_count").fetchone()[0]:
            found.append("free pages that were not reclaimed")
    return found


def _says(value: str, matcher: Matcher) -> bool:
    return matcher.in_text(value) or matcher.in_path(value.split("/"))


def _text_columns(connection: sqlite3.Connection) -> dict[str, list[str]]:
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {
        table: [
            name
            for _, name, kind, *_ in connection.execute(f'PRAGMA table_info("{table}")')
            if any(word in (kind or "TEXT").upper() for word in ("CHAR", "TEXT", "CLOB", "JSON"))
        ]
        for table in tables
    }


def collect(uri: str, runs: list[str], logged: list[str]) -> None:
    """`mlflow gc` for deleted runs and logged models: rows and files. Raises TrackingError with its words.

    In a process of its own, as its migrations set up logging for a whole process.
    """
    if not runs and not logged:
        return
    command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", uri, "--tracking-uri", uri]
    command += ["--run-ids", ",".join(runs)] if runs else []
    command += ["--logged-model-ids", ",".join(logged)] if logged else []
    # not in the project's folder, whose mlflow/ would pass for the library
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=os.sep, env={**os.environ, "MLFLOW_TRACKING_URI": uri}
    )
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
        raise TrackingError(f"`mlflow gc` for {uri} ended with status {done.returncode}: {words[-1]}")


def scrub(database: Path) -> None:
    """Delete inputs that no run refers to (`mlflow gc` leaves them), and rewrite the file without its free pages.

    Raises TrackingError where another process, such as the MLflow UI, holds the file.
    """
    try:
        with closing(sqlite3.connect(database, timeout=BUSY_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA secure_delete = ON")
            tables = _text_columns(connection)
            if {"runs", "inputs", "datasets", "input_tags"} <= set(tables):
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
