"""What every stage's driver shares: the open project, and how failures of single items are told."""

from __future__ import annotations

import logging
import os
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.cluster.work import Failure
from pipeline.project import Project
from pipeline.settings import Settings, load_settings
from pipeline.tracking.tracker import Tracker
from stages.errors import EdgealignError, InputError
from stages.schema import read_metadata

log = logging.getLogger("edgealign")


@dataclass(frozen=True)
class Context:
    """A project, its settings and its tracker."""

    project: Project
    settings: Settings
    tracker: Tracker

    @classmethod
    def open(cls, root: Path | None = None) -> Context:
        """Open the project at or above ``root`` (default: the working folder)."""
        project = Project.find(root)
        settings = load_settings(project.root)
        return cls(project, settings, Tracker(project, settings.tracking))

    def shards(self, cohort: str) -> list[Path]:
        """The cohort's shards, sorted. Raises InputError where there are none."""
        from stages.shards import list_shards

        if cohort not in self.settings.cohorts:
            raise InputError(f"{cohort}: not a cohort of params.yaml. Known: {', '.join(self.settings.cohorts)}.")
        return list_shards(self.project.cohort(cohort))

    def recordings(self, cohort: str, wanted: Mapping[str, str]) -> Mapping[str, bytes]:
        """Recordings to listen to, see stages.recordings: what the cohort's shards hold now, with consent."""
        from stages.recordings import read_recordings

        return read_recordings(sorted(self.project.cohort(cohort).glob("shard-*.tar")), wanted)

    @property
    def shares_disk(self) -> bool:
        """Whether workers read this machine's disk: true for the embedded session."""
        return not self.settings.ray.address


@dataclass
class Costs:
    """What the work of a stage took on its workers."""

    peak_rss_bytes: int = 0
    seconds: float = 0.0
    kinds: set[str] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)
    power_modes: set[str] = field(default_factory=set)
    energy_j: float | None = None
    """None where no device measured its power."""
    paused_s: float = 0.0

    def add(self, result: object) -> None:
        """Count one ``pipeline.cluster.work.Result``."""
        self.peak_rss_bytes = max(self.peak_rss_bytes, getattr(result, "peak_rss_bytes", 0))
        self.seconds += getattr(result, "seconds", 0.0)
        node = getattr(result, "node", None)
        if node is not None:
            self.kinds.add(node.kind)
            self.nodes.add(node.name)
        load = getattr(result, "load", None)
        if load is not None:
            self.paused_s += load.paused_s
            self.power_modes |= {load.power_mode} if load.power_mode else set()
            if load.energy_j is not None:
                self.energy_j = (self.energy_j or 0.0) + load.energy_j

    def metrics(self) -> dict[str, float]:
        """The costs by DESIGN's names."""
        told = {"peak_rss_bytes": self.peak_rss_bytes, "work_seconds": self.seconds, "paused_seconds": self.paused_s}
        return told if self.energy_j is None else {**told, "energy_joules": self.energy_j}

    def tags(self) -> dict[str, str]:
        """Where it was done, and whether that is virtual or real; nothing where no work was."""
        told = {
            "device": ",".join(sorted(self.nodes)),
            "device_kind": ",".join(sorted(self.kinds)),
            "power_mode": ",".join(sorted(self.power_modes)),
        }
        return {name: value for name, value in told.items() if value}


def tell_failures(stage: str, failures: Sequence[Failure], total: int) -> None:
    """One line for each failed item; an error where nothing at all was done."""
    for failure in failures:
        log.warning("%s: %s: %s", stage, failure.item, failure.message)
    if failures and len(failures) == total:
        lines = "\n  ".join(f"{failure.item}: {failure.message}" for failure in failures[:10])
        raise EdgealignError(f"{stage}: none of {total} item(s) could be done:\n  {lines}")
    if failures:
        log.warning("%s: %d of %d item(s) failed, the others are done", stage, len(failures), total)


def worker_threads() -> int:
    """Threads of one process that has a whole device to itself."""
    return os.cpu_count() or 1


def pending_shards(folder: Path, keys: Mapping[Path, str]) -> list[Path]:
    """Shards whose file in ``folder`` is missing or was made from something else.

    Drops such files, and those of shards that are gone: where a shard cannot be read, nothing old may stand in for it.
    """
    wanted = {shard: folder / f"{shard.stem}.parquet" for shard in keys}
    pending = [shard for shard, path in wanted.items() if read_metadata(path).get("key") != keys[shard]]
    for stale in set(folder.glob("*.parquet")) - {wanted[shard] for shard in keys if shard not in pending}:
        stale.unlink()
    return pending


def count_utterances(shards: Iterable[Path]) -> int:
    """How many utterances the shards hold, by their tars' listings; what cannot be read counts as none."""
    from stages.shards import Member

    total = 0
    for shard in shards:
        with suppress(tarfile.TarError, OSError), tarfile.open(shard, "r:", tarinfo=Member) as archive:
            total += sum(name.endswith(".json") for name in archive.getnames())
    return total
