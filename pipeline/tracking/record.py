"""A record: everything that one run has to say, as plain data that outlives the process and the store."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

VERSION = 1
_NAMESPACE = uuid.UUID("5f0f4c0e-6a56-5a3f-9a1c-6f5a3f6f1f10")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def fresh_name() -> str:
    """A record's name that was never used."""
    return uuid.uuid4().hex


def settled_name(*parts: str | None) -> str:
    """A record's name that the same parts always give: what is recorded again updates its run."""
    return uuid.uuid5(_NAMESPACE, "\x1f".join("" if part is None else part for part in parts)).hex


@dataclass(frozen=True)
class Ancestor:
    """A run above this one, told well enough to be created where its own record has not arrived yet."""

    record: str
    name: str
    start_ms: int
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """A file that goes with a record, kept beside it in the spool."""

    source: str
    """Path below the record's folder; absolute once the spool has read it. Its last part is the artifact's name."""
    folder: str = ""
    """Folder in the run's artifacts; empty for the top."""
    sha256: str = ""
    """A later change of the file must not pass for the recorded content; empty in records of older versions."""


@dataclass(frozen=True)
class Dataset:
    """A run's input. ``digest`` is cut to MLflow's limit of 36 characters, which a DVC ``<md5>.dir`` fits."""

    name: str
    digest: str
    source: str
    context: str = "training"


@dataclass
class Record:
    """One run. ``ancestors`` go from the outermost run inwards; ``metrics`` are (key, value, time_ms, step)."""

    record: str
    experiment: str
    name: str
    start_ms: int
    end_ms: int = 0
    status: str = "RUNNING"
    ancestors: list[Ancestor] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    datasets: list[Dataset] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    model: dict[str, Any] | None = None
    """Set where the artifacts below ``adapter/`` are to be a registered model's version; see pipeline.tracking.models."""
    whole_params: dict[str, str] = field(default_factory=dict)
    """What the outermost run, that of this `dvc repro`, bears as well, so that two of them can be compared."""
    whole_metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    version: int = VERSION

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Record:
        """The record that ``as_json`` told. Raises KeyError, TypeError or ValueError where it is not one."""
        fields = dict(content)
        if fields["version"] != VERSION:
            raise ValueError(f"version {fields['version']}, this edgealign reads version {VERSION}")
        fields["ancestors"] = [Ancestor(**item) for item in fields["ancestors"]]
        fields["datasets"] = [Dataset(**item) for item in fields["datasets"]]
        fields["artifacts"] = [Artifact(**item) for item in fields["artifacts"]]
        for name in ("metrics", "whole_metrics"):
            told = fields.get(name, [])
            fields[name] = [(str(key), float(value), int(at), int(step)) for key, value, at, step in told]
        return cls(**fields)
