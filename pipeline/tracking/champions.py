"""The champions of the embedded store, read from its SQLite file: importing MLflow takes longer than all the rest of a list."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from pipeline.tracking.promotion import Champion, champion_of
from stages.registered import CHAMPION

QUERY = """
SELECT a.name, a.version, t.key, t.value FROM registered_model_aliases a
LEFT JOIN model_version_tags t ON t.name = a.name AND t.version = a.version
WHERE a.alias = ? AND substr(a.name, 1, ?) = ?
"""


def embedded_champions(database: Path, prefix: str) -> dict[str, Champion] | None:
    """{user: champion} of the models whose names begin with ``prefix``; None where the tables are not as expected.

    Then the caller asks MLflow, which knows its own tables of any version, or says what is wrong with them.
    """
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute(QUERY, (CHAMPION, len(prefix), prefix)).fetchall()
    except sqlite3.Error:
        return None
    versions: dict[str, str] = {}
    tags: dict[str, dict[str, str]] = {}
    for name, version, key, value in rows:
        versions[name] = str(version)
        tags.setdefault(name, {}).update({key: value} if key is not None else {})
    return {name.removeprefix(prefix): champion_of(versions[name], tags[name]) for name in versions}
