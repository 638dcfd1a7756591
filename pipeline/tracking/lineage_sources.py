"""What an adapter's lineage begins with: recordings, labels and features of a cohort, each hash computed anew.

Every shard and table is read once, however many adapters ask; what cannot be read is told as a problem and never raised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pipeline.project import Project
from stages.atomic import sha256_bytes, sha256_file
from stages.errors import EdgealignError

T = TypeVar("T")

VERIFIED, TOLD, BROKEN, MISSING = "verified", "told", "broken", "missing"
"""Of a link: its hash was computed anew and is equal; recorded, with nothing to check it by; not equal; not there."""


@dataclass(frozen=True)
class Recording:
    """One utterance as it lies in its shard."""

    user: str
    shard: str
    source_sha256: str
    audio_sha256: str  # computed from the audio
    said: str | None  # the human transcript, normalised; None where there is none


@dataclass
class Cohort:
    """A cohort's recordings, labels and features by utterance; ``problems`` says what could not be read."""

    name: str
    recordings: dict[str, Recording] = field(default_factory=dict)
    indexed: dict[str, str] = field(default_factory=dict)  # {utterance: the audio's hash in the index}
    changed_shards: set[str] = field(default_factory=set)
    labels: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    features: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def label(self, user: str, utterance: str) -> dict[str, Any] | None:
        return self.labels.get((user, utterance))


class Sources:
    """The cohorts of a project, each read at most once."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._cohorts: dict[str, Cohort] = {}

    def cohort(self, name: str) -> Cohort:
        """The cohort, as far as it can be read."""
        if name not in self._cohorts:
            found = Cohort(name)
            self._read(found, self._recordings)
            self._read(found, self._labels)
            self._read(found, self._features)
            self._cohorts[name] = found
        return self._cohorts[name]

    def recordings(self, name: str) -> Cohort:
        """The cohort without its labels and features, which a base's lineage does not look at."""
        if name not in self._cohorts:
            found = Cohort(name)
            self._read(found, self._recordings)
            return found
        return self._cohorts[name]

    def _read(self, found: Cohort, read: Callable[[Cohort], None]) -> None:
        try:
            read(found)
        except EdgealignError as error:
            found.problems.append(str(error))
        except OSError as error:
            found.problems.append(f"{error.filename or found.name}: {error.strerror or error}: `dvc pull`")

    def _recordings(self, found: Cohort) -> None:
        from pipeline.cohorts.index import read_index
        from pipeline.cohorts.store import read_cohort
        from stages.shards import iter_shard
        from stages.text import normalise

        folder = self._project.cohort(found.name)
        if not folder.is_dir():
            known = sorted(path.parent.name for path in folder.parent.glob("*/cohort.yaml"))
            found.problems.append(
                f"{folder}: no such cohort. There are: {', '.join(known) or 'none'}. If it was renamed, rename it back, "
                "or train its adapters again under the new name; else `dvc pull`."
            )
            return
        for name, recorded in read_cohort(folder).shards.items():
            try:
                if sha256_file(folder / name) != recorded:
                    found.changed_shards.add(name)
                    found.problems.append(f"{folder / name}: its hash is not the one in cohort.yaml: `dvc pull`")
                for item in iter_shard(folder / name):
                    if not item.problem:
                        said = None if item.text is None else normalise(item.text, item.language)
                        found.recordings[item.utterance] = Recording(
                            item.user, name, item.source_sha256, item.audio_sha256, said
                        )
            except OSError:
                found.problems.append(f"{folder / name}: not there: `dvc pull`")
        columns = read_index(folder).select(["utterance", "audio_sha256"]).to_pydict()
        found.indexed = dict(zip(columns["utterance"], columns["audio_sha256"], strict=True))

    def _labels(self, found: Cohort) -> None:
        from stages.schema import LABELS, read_table

        columns = ["user", "utterance", "text", "source", "confidence", "accepted", "teachers"]
        rows = read_table(self._project.second_labels(found.name), LABELS, columns).to_pylist()
        found.labels = {(row["user"], row["utterance"]): row for row in rows}

    def _features(self, found: Cohort) -> None:
        from stages.schema import FEATURES, read_table

        columns = ["utterance", "audio_sha256", "encoder", "frames"]
        for path in sorted(Path(self._project.features(found.name)).glob("*.parquet")):
            for row in read_table(path, FEATURES, columns).to_pylist():
                frames = sha256_bytes(row.pop("frames"))
                found.features[row["utterance"]] = {**row, "frames_sha256": frames}
        if not found.features:
            found.problems.append(
                f"{self._project.features(found.name)}: holds no features: `dvc repro features@{found.name}`"
            )
