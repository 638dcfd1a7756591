"""Which adapter is meant: ``COHORT/USER`` (in the workspace), ``COHORT/USER@ALIAS``, ``COHORT/USER@VERSION``, ``base``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.project import Project
from pipeline.tracking.registry import Registry, Version
from stages.errors import InputError


@dataclass(frozen=True)
class Reference:
    """An adapter as a person names it."""

    cohort: str | None  # None: the base
    user: str | None
    at: str = ""  # alias or version; empty: the one in the workspace

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises InputError where it is none."""
        place, _, at = text.partition("@")
        cohort, slash, user = place.partition("/")
        if place == "base":
            return cls(None, None, at)
        if not (slash and cohort and user) or "/" in user or ("@" in text and not at):
            raise InputError(f"{text!r}: needed COHORT/USER, COHORT/USER@champion, COHORT/USER@VERSION, or base")
        return cls(cohort, user, at)

    @property
    def name(self) -> str:
        return f"{self.cohort}/{self.user}" if self.cohort else "base"

    def __str__(self) -> str:
        return self.name + (f"@{self.at}" if self.at else "")

    def folder(self, project: Project) -> Path:
        """Where it lies in the workspace."""
        return project.adapters(self.cohort) / str(self.user) if self.cohort else project.base_adapter


@dataclass(frozen=True)
class Opened:
    """An adapter's files and what the registry has of its model."""

    reference: Reference
    folder: Path
    version: Version | None  # of these weights
    versions: list[Version] = field(default_factory=list)


def version_at(reference: Reference, versions: list[Version]) -> Version:
    """The version that the reference names. Raises InputError that lists what there is."""
    for version in versions:
        if reference.at == version.version or reference.at in version.aliases:
            return version
    there = ", ".join(
        f"{item.version} ({', '.join(item.aliases)})" if item.aliases else item.version for item in versions
    )
    raise InputError(f"{reference}: no such version. Registered of {reference.name}: {there or 'none'}.")


@contextmanager
def opened(project: Project, registry: Registry | None, reference: Reference) -> Iterator[Opened]:
    """The adapter's folder: the workspace's own, or a copy of what the registered version points at.

    Raises InputError where there is none, TrackingError.
    """
    from stages.alignment.record import read_record

    versions = registry.versions(reference.cohort, reference.user) if registry else []
    if not reference.at:
        folder = reference.folder(project)
        digest = read_record(folder).weights_sha256
        mine = [version for version in versions if version.tags.get("adapter_sha256") == digest]
        yield Opened(reference, folder, mine[-1] if mine else None, versions)
        return
    version = version_at(reference, versions)
    assert registry is not None  # else there is no version
    with tempfile.TemporaryDirectory(prefix="edgealign-adapter-") as place:
        yield Opened(reference, registry.fetch(version, Path(place)), version, versions)


def settings_of(record: Any) -> dict[str, Any]:
    """What was set for an adapter's training, flat; the key of its inputs is none of it."""
    from stages.flat import flatten

    return {name: value for name, value in flatten(record.settings).items() if name != "key"}
