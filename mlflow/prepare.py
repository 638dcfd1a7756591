"""What serve.sh needs before the server starts: private files, the accounts' settings, databases and bucket that answer.

`python mlflow/prepare.py FOLDER`, with the environment of serve.sh. Ends with status 1 and one line where something is wrong.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any


class Trouble(Exception):
    """What is wrong, for the operator."""


def private(path: Path, content: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def open_database(uri: str, name: str) -> None:
    """Make the database where it is not there yet; a new SQLite file in the mode in which readers and a writer do not wait."""
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(sqlite3.connect(path, timeout=30)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            raise Trouble(
                f"{name}: {path} cannot be opened ({error}). Put a backup in its place (mlflow/restore.sh) or name another"
            ) from None
    elif uri.startswith("postgresql"):
        _open_postgresql(uri, name)
    else:
        raise Trouble(f"{name}: needed sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE")


def _open_postgresql(uri: str, name: str) -> None:
    import psycopg2
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    known: dict[str, Any] = {"host": url.host, "port": url.port, "user": url.username, "password": url.password}
    known |= dict(url.query)
    if not url.database:
        raise Trouble(f"{name}: the address {url.render_as_string(hide_password=True)} names no database")
    try:
        psycopg2.connect(dbname=url.database, connect_timeout=10, **known).close()
        return
    except psycopg2.OperationalError as error:
        if "does not exist" not in str(error) or "role" in str(error):
            raise Trouble(f"{name}: {_first(error)}") from None
    try:
        connection = psycopg2.connect(dbname="postgres", connect_timeout=10, **known)
        connection.autocommit = True
        with closing(connection), connection.cursor() as cursor:
            cursor.execute('CREATE DATABASE "{}"'.format(url.database.replace('"', '""')))
    except psycopg2.Error as error:
        if getattr(error, "pgcode", "") != "42P04":  # another server made it this moment
            raise Trouble(
                f"{name}: the database {url.database!r} is not there and cannot be made: {_first(error)}"
            ) from None


def check_version(uri: str) -> None:
    """Raises Trouble where the runs' database is of another MLflow. The server would migrate some older ones unasked."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    try:
        if "alembic_version" not in sqlalchemy.inspect(engine).get_table_names():
            return
        with engine.connect() as connection:
            got = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalar()
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise Trouble(f"MLFLOW_BACKEND_STORE_URI: {_first(error)}") from None
    finally:
        engine.dispose()
    from mlflow.store.db.utils import _get_latest_schema_revision
    from mlflow.version import VERSION

    needed = _get_latest_schema_revision()
    if got != needed:
        raise Trouble(
            f"the database of the runs is of another MLflow (schema {got}, MLflow {VERSION} needs {needed}); nothing was "
            'changed. Where it is older: mlflow/backup.sh, then `mlflow db upgrade "$MLFLOW_BACKEND_STORE_URI"`. Where it '
            "is newer: serve it with the MLflow that wrote it"
        )


def open_artifacts(place: str) -> None:
    """Make the folder or the bucket; raises Trouble where the store does not answer or does not know the keys."""
    if not place.startswith("s3://"):
        Path(place.removeprefix("file://")).mkdir(parents=True, exist_ok=True)
        return
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    bucket = place.removeprefix("s3://").split("/")[0]
    try:
        client = boto3.client(
            "s3",
            endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None,
            config=Config(connect_timeout=5, read_timeout=20, retries={"max_attempts": 2}),
        )
        try:
            client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
                raise
            client.create_bucket(Bucket=bucket)
    except (BotoCoreError, ClientError) as error:
        raise Trouble(
            f"MLFLOW_ARTIFACTS_DESTINATION {place}: {_first(error)}. See MLFLOW_S3_ENDPOINT_URL, AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        ) from None


def accounts(folder: Path, uri: str) -> None:
    """The files of MLflow's basic-auth app. A first password is made up only where nobody has an account yet."""
    if not (folder / "secret-key").exists():
        private(folder / "secret-key", secrets.token_hex(32))
    # whoever has an account may write every experiment, as a team does; deleting is for the owner and the admin
    settings = {
        "default_permission": "EDIT",
        "database_uri": uri,
        "admin_username": os.environ.get("MLFLOW_AUTH_ADMIN_USERNAME") or "admin",
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "auth_cache_ttl_seconds": "60",  # a password's hash is slow on purpose; one a minute, not one a request
    }
    lines = [f"{key} = {value.replace('%', '%%')}" for key, value in settings.items()]
    private(folder / "accounts.ini", "\n".join(["[mlflow]", *lines, ""]))
    password = os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD")
    if password:
        if len(password) < 12:
            raise Trouble("MLFLOW_AUTH_ADMIN_PASSWORD: MLflow takes passwords of 12 characters and more")
    elif not (folder / "admin-password").exists() and not anybody(uri):
        private(folder / "admin-password", secrets.token_urlsafe(24))
        print(f"serve.sh: the account `{settings['admin_username']}` has its password in {folder / 'admin-password'}")


def anybody(uri: str) -> bool:
    """Whether somebody has an account."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    try:
        if "users" not in sqlalchemy.inspect(engine).get_table_names():
            return False
        with engine.connect() as connection:
            return bool(connection.execute(sqlalchemy.text("SELECT count(*) FROM users")).scalar())
    finally:
        engine.dispose()


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def main(folder: Path) -> None:
    open_database(os.environ["MLFLOW_BACKEND_STORE_URI"], "MLFLOW_BACKEND_STORE_URI")
    check_version(os.environ["MLFLOW_BACKEND_STORE_URI"])
    open_artifacts(os.environ["MLFLOW_ARTIFACTS_DESTINATION"])
    if os.environ.get("AUTHENTICATION", "on") != "off":
        uri = os.environ["ACCOUNTS_DATABASE_URI"]
        open_database(uri, "ACCOUNTS_DATABASE_URI")
        accounts(folder, uri)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Trouble as trouble:
        sys.exit(f"serve.sh: {trouble}.")
    except ImportError as missing:
        sys.exit(f"serve.sh: {missing}. Install the server's part: pip install 'edgealign[server]'.")
