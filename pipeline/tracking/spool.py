"""The spool: records that wait for the store, one folder each, whole or absent.

Nothing is sent that was not spooled before, so a power cut or a store that is away costs a delay and never a record.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from pipeline.tracking.record import Artifact, Record
from stages.atomic import atomic_folder, sha256_file, write_json

COPY_LIMIT_BYTES = 64 * 1024 * 1024
"""Files up to this size are copied; larger ones are hard-linked."""

LEFTOVER_S = 7 * 24 * 3600
"""Age at which files that belong to no record are taken for leftovers."""


class Spool:
    """A folder of waiting records, in the order in which they were put."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refused_folder = folder / "refused"

    def put(self, record: Record) -> Path:
        """Keep ``record`` and its files; returns its folder. Raises OSError where the disk does not take it."""
        target = self.folder / f"{time.time_ns():020d}-{record.record}"
        staged = self._staging(record)
        with atomic_folder(target) as temporary:
            if staged.exists():
                staged.rename(temporary / "files")
            write_json(temporary / "record.json", record.as_json())
        return target

    def keep(self, record: Record, source: Path, folder: str) -> Artifact:
        """Take a file as it is now, for a record that is not put yet. Raises OSError.

        Up to COPY_LIMIT_BYTES it is copied; a larger one is hard-linked. Either goes with its hash.
        """
        number = len(record.artifacts)
        # a folder a file: MLflow names an artifact after the file that is handed over
        kept = self._staging(record) / str(number) / source.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        if source.stat().st_size > COPY_LIMIT_BYTES:
            try:
                os.link(source, kept)
            except OSError:  # another file system
                shutil.copyfile(source, kept)
        else:
            shutil.copyfile(source, kept)
        # what is sent later must be this content: the file may be changed in place, or in the spool
        digest = sha256_file(kept)
        return Artifact(f"files/{number}/{source.name}", folder, digest)

    def staged(self, record: Record) -> Record:
        """A record that was not put, its artifacts' paths made absolute: they lie where ``keep`` left them."""
        home = self._staging(record)
        files = [replace(item, source=str(home / Path(item.source).relative_to("files"))) for item in record.artifacts]
        return replace(record, artifacts=files)

    def _staging(self, record: Record) -> Path:
        return self.folder / f".files-{record.record}"

    def tidy(self) -> None:
        """Remove what killed processes left: files of records that were never put, halves of atomic writes."""
        for path in self.folder.glob(".*"):
            if path.is_dir() and path.stat().st_mtime < time.time() - LEFTOVER_S:
                shutil.rmtree(path, ignore_errors=True)

    def waiting(self) -> list[Path]:
        """Folders of the records that wait, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if path.name[:1].isdigit() and path.is_dir())

    def read(self, folder: Path) -> Record:
        """The record in ``folder``, its artifacts' paths made absolute. Raises ValueError where it is broken."""
        try:
            record = Record.from_json(json.loads((folder / "record.json").read_text(encoding="utf-8")))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder}: not a readable record ({error})") from error
        record.artifacts = [replace(item, source=str(folder / item.source)) for item in record.artifacts]
        return record

    def remove(self, folder: Path) -> None:
        """Forget a record that the store has acknowledged."""
        # renamed first: a half-removed folder must not be read as a record
        gone = folder.with_name(f".{folder.name}.sent")
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def refuse(self, folder: Path, reason: str) -> Path:
        """Put aside a record that the store will never take, with the reason, so that the others can pass."""
        self.refused_folder.mkdir(parents=True, exist_ok=True)
        target = self.refused_folder / folder.name
        folder.rename(target)
        write_json(target / "reason.json", {"reason": reason})
        return target

    def readmit(self) -> int:
        """Let the records that were put aside wait again; how many."""
        aside = sorted(self.refused_folder.iterdir()) if self.refused_folder.is_dir() else []
        for folder in aside:
            (folder / "reason.json").unlink(missing_ok=True)
            folder.rename(self.folder / folder.name)
        return len(aside)

    @contextmanager
    def sending(self, wait_s: float) -> Iterator[None]:
        """Hold the right to send: one process at a time, or a record would go out twice. Raises filelock.Timeout."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(str(self.folder / ".lock"), timeout=wait_s):
            yield
