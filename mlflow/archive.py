"""What backup.sh and restore.sh do with databases and files: `python mlflow/archive.py backup|restore FOLDER`.

Databases are copied by their own programs (`pg_dump`, SQLite's online copy), files through MLflow's own way to them.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from prepare import Trouble, open_artifacts, open_database

DATABASES = {"runs.dump": "MLFLOW_BACKEND_STORE_URI", "accounts.dump": "ACCOUNTS_DATABASE_URI"}


def backup(folder: Path) -> None:
    """Copy databases, then files, into ``folder``."""
    for name, variable in DATABASES.items():
        uri = os.environ[variable]
        if not uri.startswith("sqlite:///"):
            _postgresql("pg_dump", uri, variable, "--format=custom", "--no-owner", f"--file={folder / name}")
        elif Path(uri.removeprefix("sqlite:///")).is_file():  # a server without accounts has none
            _copy(Path(uri.removeprefix("sqlite:///")), folder / name)
    if any(_repository().list_artifacts()):
        _repository().download_artifacts("", str(folder / "artifacts"))


def restore(folder: Path) -> None:
    """Bring back what ``backup`` copied, into stores that are empty."""
    for name, variable in DATABASES.items():
        if (folder / name).is_file():
            open_database(os.environ[variable], variable)
            _check_empty(os.environ[variable], variable)
    open_artifacts(os.environ["MLFLOW_ARTIFACTS_DESTINATION"])
    if any(_repository().list_artifacts()):
        raise Trouble("MLFLOW_ARTIFACTS_DESTINATION holds files already. Name an empty place; the old one stays aside")
    # files first: a restore that stops in the middle leaves databases that name nothing
    if any((folder / "artifacts").iterdir()):
        _repository().log_artifacts(str(folder / "artifacts"))
    for name, variable in DATABASES.items():
        uri = os.environ[variable]
        if not (folder / name).is_file():
            continue
        if uri.startswith("sqlite:///"):
            if (folder / name).read_bytes()[:6] != b"SQLite":
                raise Trouble(f"{folder / name} is a PostgreSQL dump: {variable} has to name a PostgreSQL database")
            _copy(folder / name, Path(uri.removeprefix("sqlite:///")))
        else:
            _postgresql(
                "pg_restore", uri, variable, "--no-owner", "--exit-on-error", "--single-transaction", str(folder / name)
            )


def _repository() -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(os.environ["MLFLOW_ARTIFACTS_DESTINATION"])


def _copy(source: Path, target: Path) -> None:
    """One moment of an SQLite file, also while a server writes it."""
    try:
        address = f"{source.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=30)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)
            new.execute("PRAGMA journal_mode=DELETE" if target.suffix == ".dump" else "PRAGMA journal_mode=WAL")
    except sqlite3.Error as error:
        raise Trouble(f"{source} to {target}: {error}") from None


def _check_empty(uri: str, variable: str) -> None:
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    try:
        if sqlalchemy.inspect(engine).get_table_names():
            raise Trouble(
                f"{variable} names a database that holds tables already. Name a new one; the old one stays aside"
            )
    finally:
        engine.dispose()


def _postgresql(tool: str, uri: str, variable: str, *arguments: str) -> None:
    """Run a program of PostgreSQL's; the password goes by environment, where other users of the machine do not see it."""
    from sqlalchemy.engine import make_url

    newest_first = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[::-1]
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *(str(folder) for folder in newest_first)])
    program = shutil.which(tool, path=path)
    if program is None:
        raise Trouble(f"{tool} is not installed: apt-get install postgresql-client (as new as the server, or newer)")
    url = make_url(uri)
    told = {"PGHOST": url.host, "PGPORT": url.port, "PGUSER": url.username, "PGPASSWORD": url.password}
    told |= {f"PG{key.upper()}": value for key, value in url.query.items()}
    variables = {key: str(value) for key, value in told.items() if value is not None}
    command = [program, f"--dbname={url.database}", "--no-password", *arguments]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise Trouble(f"{variable}: {tool} ended with status {done.returncode}: {words}")


if __name__ == "__main__":
    os.chdir(Path(sys.argv[2]))
    try:
        {"backup": backup, "restore": restore}[sys.argv[1]](Path.cwd())
    except Trouble as trouble:
        sys.exit(f"{sys.argv[1]}.sh: {trouble}.")
    except ImportError as missing:
        sys.exit(f"{sys.argv[1]}.sh: {missing}. Install the server's part: pip install 'edgealign[server]'.")
