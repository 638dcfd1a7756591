"""What goes wrong between a record and its store, as one message each: what was got, what was needed, the remedy.

MLflow tells most of it as an MlflowException whose text is a page of SQL or HTML. Knows MLflow's words, imports it only
where it looks into a database.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

from stages.errors import TrackingError

_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
# MLflow says BAD_REQUEST for whatever SQLAlchemy raises; of that only these are the record's own fault
_OWN_FAULT = re.compile(
    r"\((?:sqlite3|psycopg2)\.[\w.]*?(?:IntegrityError|DataError|UniqueViolation|Truncation|OutOfRange)"
)
_DATABASE = re.compile(r"\((?:sqlite3|psycopg2)\.")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ACCOUNT = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


class RecordRefused(TrackingError):
    """The store answered and will never take this record."""


def redacted(uri: str) -> str:
    """``uri`` without a password, for messages."""
    return re.sub(r"//[^/@]*@", "//", uri)


def told(uri: str, error: BaseException) -> TrackingError:
    """An error of MLflow, SQLAlchemy or the system, while it worked on the store at ``uri``, as one message.

    A RecordRefused where the same record would be refused again, else a plain TrackingError.
    """
    place, text, code = redacted(uri), _text(error), str(getattr(error, "error_code", ""))
    known = _of_the_server(text, code) if uri.startswith("http") else ""
    known = known or _of_the_disk(error, text) or _of_the_database(uri, text)
    if known:
        return TrackingError(f"{place}: {known}")
    if code in _REFUSALS and (not _DATABASE.search(text) or _OWN_FAULT.search(text)):
        return RecordRefused(f"{place}: {text}")
    return TrackingError(f"{place}: {text}")


def _text(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _of_the_server(text: str, code: str) -> str:
    name = os.environ.get(ACCOUNT[0])
    if code == "UNAUTHENTICATED" or "error code 401" in text:
        got = f"it does not know the account {name!r} with this password" if name else "no account was given"
        return (
            f"the server wants an account, and {got} (401). Set {ACCOUNT[0]} and {ACCOUNT[1]}; the server's operator makes "
            "accounts (mlflow/README.md)"
        )
    if "DNS rebinding" in text:
        return (
            "the server does not answer under this name (403). Use the name that its operator gave, or have this one "
            "added to its ALLOWED_HOSTS"
        )
    if code == "PERMISSION_DENIED" or "error code 403" in text:
        return (
            f"the account {name!r} may not do this there (403). Ask the server's operator for the permission, or use an "
            f"account that has it ({ACCOUNT[0]})"
        )
    if "CERTIFICATE_VERIFY_FAILED" in text or "SSLError" in text:
        return (
            "its certificate is not trusted here. Set MLFLOW_TRACKING_SERVER_CERT_PATH to the certificate of whoever "
            f"signed it ({text[-200:]})"
        )
    return ""


def _of_the_disk(error: BaseException, text: str) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            text = f"No space left on device ({cause})"
        cause = cause.__cause__
    if "database or disk is full" in text or "No space left" in text or "disk I/O error" in text:
        return f"the disk is full or not writable ({text[:200]}). Free some space (`edgealign tracking prune`)"
    if "readonly database" in text:
        return "the database is not writable by this user"
    return ""


def _of_the_database(uri: str, text: str) -> str:
    if "malformed" in text or "is not a database" in text:
        return (
            "the database is damaged. Put a backup in its place (`edgealign tracking restore FILE --replace` keeps the "
            f"damaged one aside); new runs wait meanwhile ({text[:120]})"
        )
    found = re.search(r"found version (\w+),? but expected (\w+)|Can't locate revision identified by '(\w+)'", text)
    if found:
        return _other_version(uri, found[1] or found[3], found[2] or "another")
    if "database is locked" in text:
        return "another process holds the database for longer than a write takes. End what has it open, then try again"
    return ""


def _other_version(uri: str, got: str, needed: str) -> str:
    import mlflow

    if known_revision(got):
        backup = "`edgealign tracking backup FILE`" if uri.startswith("sqlite") else "mlflow/backup.sh on its machine"
        return (
            f"the database is from an older MLflow (schema {got}, MLflow {mlflow.__version__} needs {needed}); nothing was "
            f"changed in it. Make a backup ({backup}), then `mlflow db upgrade {redacted(uri)}`"
        )
    return (
        f"the database is from a newer MLflow than the {mlflow.__version__} here (schema {got}, needed {needed}); nothing was "
        "changed in it. Use the environment of whoever wrote it, or bring this checkout up to date and `make env`"
    )


def known_revision(revision: str) -> bool:
    """Whether this MLflow knows the way from a database's schema to its own."""
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError
    from mlflow.store.db.utils import _get_alembic_config

    try:
        return ScriptDirectory.from_config(_get_alembic_config("")).get_revision(revision) is not None
    except CommandError:
        return False


def check_database(uri: str) -> None:
    """Raises TrackingError where an SQLite store is damaged or of another MLflow.

    Before MLflow opens it: some older ones it would migrate unasked, without a backup. A new, empty file passes.
    """
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or not path.exists():
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables:
                return
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        if "no such table: alembic_version" not in str(error):
            raise told(uri, error) from error
        found = None
    if found is None:
        raise TrackingError(f"{redacted(uri)}: an SQLite file, but no store of MLflow's. Name another in tracking.uri")
    from mlflow.store.db.utils import _get_latest_schema_revision

    needed = _get_latest_schema_revision()
    if found[0] != needed:
        raise TrackingError(f"{redacted(uri)}: {_other_version(uri, str(found[0]), needed)}")
