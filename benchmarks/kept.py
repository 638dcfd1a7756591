"""What was measured, kept on disk as it comes, so that a run that is stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import corpora
from benchmarks.record import machine, versions
from stages.atomic import sha256_file, sha256_json, write_json


class Kept:
    """What was measured, on disk, by name. The file's name covers what it came of: code, settings, libraries and machine."""

    def __init__(self, name: str, code: Sequence[str], told: Any) -> None:
        """``code``: files and globs below the project's root."""
        root = corpora.ROOT
        files = sorted({path for pattern in code for path in root.glob(pattern)})
        hashes = {str(path.relative_to(root)): sha256_file(path) for path in files}
        key = sha256_json([hashes, told, machine(), versions()])
        self.path = Path(corpora.CACHE) / f"{name}-{key[:16]}.json"
        self.known: dict[str, Any] = json.loads(self.path.read_text()) if self.path.is_file() else {}

    def get(self, name: str, measure: Callable[[], Any]) -> Any:
        """By name, measured where it is not known yet."""
        if name not in self.known:
            self.known[name] = measure()
            self.write()
        return self.known[name]

    def forget(self, start: str) -> None:
        """Everything whose name begins so, to be measured anew."""
        self.known = {name: value for name, value in self.known.items() if not name.startswith(start)}
        self.write()

    def write(self) -> None:
        """What is known, to the disk, whole or not at all."""
        write_json(self.path, self.known)
