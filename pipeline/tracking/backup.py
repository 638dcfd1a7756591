"""Backup and restore of the embedded store: one tar file with the database, the runs' files and the hash of each.

mlflow.db          SQLite's own online copy: one moment, also while a stage writes
artifacts/...      the runs' files, as they were at that moment
manifest.json      hashes, schema, and where the store lay; last, so that a file without it was cut off
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import psutil
from filelock import Timeout

from pipeline.tracking.store import redacted
from pipeline.tracking.tracker import SEND_WAIT_S, Tracker
from pipeline.tracking.troubles import told
from stages.atomic import atomic_path, exchange, fsync_folder, sha256_file
from stages.errors import InputError, TrackingError

VERSION = 1
DATABASE, MANIFEST = "mlflow.db", "manifest.json"
_PLACES = {  # where MLflow writes down absolute addresses of files
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}


@dataclass(frozen=True)
class Backup:
    """What a backup holds."""

    file: Path
    runs: int
    files: int
    bytes: int
    made: str
    """Moment of the copy, UTC, ISO 8601."""


def store_folder(tracker: Tracker) -> Path:
    """The embedded store. Raises TrackingError where another store is configured."""
    if tracker.settings.uri:
        raise TrackingError(
            f"{redacted(tracker.uri)}: not the embedded store. A server is backed up and restored on its own machine: "
            "mlflow/backup.sh and mlflow/restore.sh there (mlflow/README.md)"
        )
    return tracker.project.private / "mlflow"


def backup(tracker: Tracker, target: Path) -> Backup:
    """Write the embedded store to ``target``, a file, or a folder in which a file is named after the moment.

    Whole or not at all; stages may go on meanwhile. Raises TrackingError, InputError where ``target`` is there already.
    """
    folder = store_folder(tracker)
    if not (folder / DATABASE).is_file():
        raise TrackingError(f"{folder / DATABASE}: there is no store to back up yet. `dvc repro` makes one")
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if target.is_dir():
        target = target / f"mlflow-{made.replace(':', '').replace('-', '')}.tar"
    if target.exists():
        raise InputError(f"{target}: is there already; a backup is never written over. Name another file.")
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".backup-") as name:
            copy = Path(name) / DATABASE
            with _sending(tracker):  # no run is half written
                _copy_database(folder / DATABASE, copy)
                files = sorted(path for path in (folder / "artifacts").rglob("*") if path.is_file())
            with atomic_path(target) as part:
                manifest = _write(part, folder, copy, files, made)
    except (OSError, sqlite3.Error) as error:
        raise told(f"backup {target}", error) from error
    return Backup(target, manifest["runs"], len(files), target.stat().st_size, made)


@contextmanager
def _sending(tracker: Tracker) -> Iterator[None]:
    try:
        with tracker.spool.sending(SEND_WAIT_S):
            yield
    except Timeout:
        raise TrackingError("another process has been sending runs for a minute. Try again when it has ended") from None


def _copy_database(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=30)) as old:
        with closing(sqlite3.connect(target)) as new:
            old.backup(new)
            new.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
        _check(target)


def _check(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if answer != "ok":
        raise sqlite3.DatabaseError(f"database disk image is malformed: {answer}")


def _write(part: Path, folder: Path, copy: Path, files: list[Path], made: str) -> dict[str, Any]:
    hashes: dict[str, str] = {}
    with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive:
        for path, name in [(copy, DATABASE), *((path, path.relative_to(folder).as_posix()) for path in files)]:
            hashes[name], entry = sha256_file(path), archive.gettarinfo(path, name)
            with path.open("rb") as stream:
                archive.addfile(entry, stream)
        with closing(sqlite3.connect(copy)) as connection:
            (runs,) = connection.execute("SELECT count(*) FROM runs").fetchone()
        manifest = {
            "version": VERSION,
            "made": made,
            "runs": runs,
            "artifacts": (folder / "artifacts").as_uri(),
            "sha256": hashes,
        }
        content = json.dumps(manifest, indent=1, sort_keys=True).encode()
        entry = tarfile.TarInfo(MANIFEST)
        entry.size, entry.mtime = len(content), int(time.time())
        archive.addfile(entry, io.BytesIO(content))
    return manifest


def restore(tracker: Tracker, source: Path, *, replace: bool) -> tuple[Backup, Path | None]:
    """Put a backup in the place of the embedded store; what it holds, and where the store before lies now.

    Everything is unpacked and checked beside the store first, which changes in one step or not at all. Raises InputError where
    the backup is damaged or a store is there and ``replace`` is not given, TrackingError.
    """
    folder = store_folder(tracker)
    if folder.exists() and any(folder.iterdir()) and not replace:
        raise InputError(
            f"{folder}: a store is there. `edgealign tracking restore {source} --replace` puts the backup in its place and "
            "keeps the store that is there aside."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".restore-"))
    try:
        manifest = _unpack(source, fresh)
        _check(fresh / DATABASE)
        _move_addresses(fresh / DATABASE, manifest["artifacts"], (folder / "artifacts").as_uri())
        (fresh / "artifacts").mkdir(exist_ok=True)
        fresh.chmod(0o755)
        os.sync()
        aside = None
        with _sending(tracker):
            _check_unused(folder / DATABASE)
            if folder.exists():
                aside = folder.with_name(f"mlflow-replaced-{time.strftime('%Y%m%dT%H%M%S')}")
                if exchange(fresh, folder):
                    fresh.rename(aside)
                else:
                    folder.rename(aside)
                    fresh.rename(folder)
            else:
                fresh.rename(folder)
            fsync_folder(folder.parent)
    except sqlite3.Error as error:
        raise InputError(
            f"{source}: its database is damaged ({error}). Nothing was changed; take another backup."
        ) from error
    except OSError as error:
        raise told(f"restore {source}", error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return Backup(source, manifest["runs"], len(manifest["sha256"]) - 1, source.stat().st_size, manifest["made"]), aside


def _check_unused(database: Path) -> None:
    """Raises TrackingError where another process has the store open: what it writes would go into the one put aside."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and any(Path(file.path) == database for file in process.open_files()):
                raise TrackingError(
                    f"{database}: the process {process.pid} ({' '.join(process.cmdline())[:80]}) has it open. End it, then "
                    "restore again"
                )


def _unpack(source: Path, folder: Path) -> dict[str, Any]:
    """Unpack and check every hash. Raises InputError, OSError."""
    found: dict[str, str] = {}
    manifest: Any = None
    problem = ""
    try:
        with tarfile.open(source, "r:") as archive:
            for entry in archive:
                name = PurePosixPath(entry.name)
                stream = archive.extractfile(entry) if entry.isfile() else None
                if stream is None or name.is_absolute() or ".." in name.parts:
                    raise InputError(f"{source}: holds {entry.name!r}, which no backup of edgealign's does.")
                if entry.name == MANIFEST:
                    manifest = json.loads(stream.read())
                    continue
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as output:
                    shutil.copyfileobj(stream, output, 1 << 20)
                found[entry.name] = sha256_file(target)
    except (tarfile.TarError, ValueError, EOFError) as error:
        problem = f"it cannot be read to its end ({error})"
    if not problem and (not isinstance(manifest, dict) or manifest.get("version") != VERSION):
        problem = "it has no manifest that this edgealign reads" if manifest is None else "it is of another version"
    if not problem and manifest["sha256"] != found:
        wrong = sorted(
            name for name in {*found, *manifest["sha256"]} if found.get(name) != manifest["sha256"].get(name)
        )
        problem = f"{len(wrong)} file(s) in it are not what was backed up, {wrong[0]} among them (SHA-256)"
    if problem or DATABASE not in found:
        raise InputError(f"{source}: {problem or 'it holds no database'}. Nothing was changed; take another backup.")
    checked: dict[str, Any] = manifest
    return checked


def _move_addresses(database: Path, old: str, new: str) -> None:
    """Let the runs find their files where the store lies now."""
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, columns in _PLACES.items():
            known = {row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')}
            for column in known.intersection(columns):
                connection.execute(
                    f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) '
                    f'WHERE "{column}" = ? OR substr("{column}", 1, ?) = ?',
                    (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                )
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    for leftover in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            Path(f"{database}{leftover}").unlink()
