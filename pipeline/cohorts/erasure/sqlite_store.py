"""Where MLflow's SQLite file names the person, free pages included. Deleted rows leave it by pipeline.tracking.sweep."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from pipeline.cohorts.erasure.person import Matcher
from pipeline.tracking.sweep import BUSY_S


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
