"""What stages use to record their runs. A failure to record or to send is told in one line and never stops a stage."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from pipeline.owner import owner
from pipeline.project import Project
from pipeline.settings import Tracking
from pipeline.tracking.lineage import changed_parameters, lineage_tags, parameters
from pipeline.tracking.record import (
    Ancestor,
    Dataset,
    Record,
    fresh_name,
    now_ms,
    settled_name,
)
from pipeline.tracking.spool import Spool
from pipeline.tracking.store import MlflowStore, RecordRefused, Store, check_reachable, create_embedded
from stages.atomic import sha256_file
from stages.errors import TrackingError
from stages.flat import finite, flatten

log = logging.getLogger("edgealign.tracking")

SEND_WAIT_S = 60.0
"""How long a stage waits for another one that is sending; what it holds then goes out with the next."""
REMEDY = "`edgealign tracking replay` sends it once the store is back"
_KEY_LIMIT, _PARAM_LIMIT, _TAG_LIMIT, _DIGEST_LIMIT = 250, 6000, 8000, 36


def _clean(key: object) -> str:
    """A name that MLflow takes: letters, digits and ``_-./ :``, at most 250 characters."""
    return re.sub(r"[^\w\-./ :]", "_", str(key), flags=re.ASCII)[:_KEY_LIMIT]


class Run:
    """One run being recorded, in memory until it ends. Unknown values (None, NaN) are left out, never made up."""

    def __init__(self, tracker: Tracker, record: Record) -> None:
        self._tracker = tracker
        self.record = record

    def params(self, values: Mapping[str, Any]) -> None:
        """Parameters; nested mappings become dotted names."""
        for key, value in flatten(values).items():
            self.record.params[_clean(key)] = str(value)[:_PARAM_LIMIT]

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """Figures at one step; nested mappings become dotted names."""
        at = now_ms()
        for key, value in flatten(values).items():
            number = finite(value)
            if number is not None:
                self.record.metrics.append((_clean(key), number, at, step))

    def whole(self, values: Mapping[str, Any]) -> None:
        """Figures of this whole `dvc repro`: its own run bears them too, so that two of them can be compared."""
        at = now_ms()
        for key, value in flatten(values).items():
            number = finite(value)
            if number is not None:
                self.record.whole_metrics.append((_clean(key), number, at, 0))

    def curve(self, name: str, points: Iterable[tuple[int, float]]) -> None:
        """A figure over steps."""
        at = now_ms()
        for step, value in points:
            number = finite(value)
            if number is not None:
                self.record.metrics.append((_clean(name), number, at, int(step)))

    def tags(self, values: Mapping[str, Any]) -> None:
        """Tags; None is left out."""
        self.record.tags.update({_clean(k): str(v)[:_TAG_LIMIT] for k, v in flatten(values).items() if v is not None})

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file, as it is now. One that cannot be kept is told in the log and in a tag."""
        try:
            self.record.artifacts.append(self._tracker.spool.keep(self.record, Path(path), folder))
        except OSError as error:
            log.warning("tracking: the run %s goes without %s: %s", self.record.name, path, error)
            self.tags({f"missing.{Path(path).name}": str(error)})

    def adapter(self, folder: Path, name: str, padding_s: float = 0.5) -> None:
        """An adapter's files (``adapter.safetensors``, ``adapter.json``) under ``adapter/``, its hash as a tag.

        It becomes a version of its registered model; ``padding_s`` is the silence that its features had after each utterance.
        """
        for file in ("adapter.safetensors", "adapter.json"):
            self.artifact(folder / file, "adapter")
        weights = folder / "adapter.safetensors"
        if weights.is_file():
            self.tags({"adapter": name, "adapter_sha256": sha256_file(weights)})
            self.record.model = {"padding_s": padding_s}

    def dataset(self, name: str, digest: str, source: str, context: str = "training") -> None:
        """An input of the run, for lineage: MLflow finds runs by ``digest`` (at most 36 characters, a DVC md5 fits)."""
        item = Dataset(str(name)[:500], str(digest)[:_DIGEST_LIMIT], str(source), context)
        if item not in self.record.datasets:
            self.record.datasets.append(item)

    def lasted(self, seconds: float) -> None:
        """The run took ``seconds`` and has just ended: for work that was done elsewhere and is recorded afterwards."""
        self.record.start_ms = now_ms() - int(seconds * 1000)

    def failed(self, reason: str) -> None:
        """The run failed although the stage goes on: one user of many."""
        self.record.status = "FAILED"
        self.tags({"error": reason})

    @contextmanager
    def child(
        self,
        name: str,
        *,
        cohort: str | None = None,
        user: str | None = None,
        method: str | None = None,
        device: str | None = None,
        device_kind: str | None = None,
        key: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> Iterator[Run]:
        """A run below this one; what is not given is taken over from it."""
        mine = self.record.tags
        me = Ancestor(self.record.record, self.record.name, self.record.start_ms, dict(mine))
        given = {"cohort": cohort, "user": user, "method": method, "device": device, "device_kind": device_kind}
        taken = {k: v if v is not None else mine.get(k) for k, v in given.items()}
        ancestors = [*self.record.ancestors, me]
        with self._tracker._recording(name, mine["stage"], ancestors, taken, key, tags) as run:
            yield run


@dataclass(frozen=True)
class Sent:
    """What a round of sending did."""

    sent: int
    waiting: int
    refused: int
    problem: str = ""


class Tracker:
    """Records runs of one project: spool first, send second."""

    def __init__(self, project: Project, settings: Tracking, store: Store | None = None) -> None:
        """``store`` takes the records in place of the one that ``settings`` name."""
        self.project = project
        self.settings = settings
        self.spool = Spool(project.private / "spool")
        self._store = store
        self._opening: threading.Thread | None = None
        self._lock = threading.Lock()
        self._lineage: dict[str, str] | None = None

    @property
    def uri(self) -> str:
        return self.settings.uri or f"sqlite:///{self.project.private / 'mlflow' / 'mlflow.db'}"

    @contextmanager
    def run(
        self,
        stage: str,
        *,
        cohort: str | None = None,
        user: str | None = None,
        method: str | None = None,
        device: str | None = None,
        device_kind: str | None = None,
        key: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> Iterator[Run]:
        """The run of a stage, below the run of this `dvc repro`; sent when it ends, also by an exception (FAILED).

        ``device_kind`` is "virtual" or "real". With ``key`` (a content key), the same stage, cohort, user and key
        recorded again by one `dvc repro` update one run instead of making a second.
        """
        given = {"cohort": cohort, "user": user, "method": method, "device": device, "device_kind": device_kind}
        self._open_meanwhile()
        try:
            with self._recording(
                f"{stage}@{cohort}" if cohort else stage, stage, [self._top()], given, key, tags
            ) as run:
                told = parameters(self.project.root)
                run.record.whole_params = {_clean(key): str(value)[:_PARAM_LIMIT] for key, value in told.items()}
                yield run
        finally:
            self.send()

    def _top(self) -> Ancestor:
        """The run of this `dvc repro`, or of this command where no DVC started it."""
        found, lines = owner(), self._lines()
        name = "dvc repro" if found.dvc else "command"
        tags = {"edgealign.repro": found.key, "command": found.command[:_TAG_LIMIT], "stage": "repro", **lines}
        tags.pop("dvc_stage", None)
        changed = changed_parameters(self.project.root)
        if changed is not None:
            tags["params_changed"] = (changed or "none")[:_TAG_LIMIT]
        parts, start_ms = [found.key], int(found.create_time * 1000)
        experiment = lines.get("dvc_experiment")
        if experiment:  # one process may run several
            name = f"dvc exp {experiment}"
            parts.append(experiment)
        return Ancestor(settled_name(*parts), name, start_ms, tags)

    def _lines(self) -> dict[str, str]:
        if self._lineage is None:
            self._lineage = lineage_tags(self.project.root)
        return self._lineage

    @contextmanager
    def _recording(
        self,
        name: str,
        stage: str,
        ancestors: list[Ancestor],
        given: Mapping[str, str | None],
        key: str | None,
        tags: Mapping[str, Any] | None,
    ) -> Iterator[Run]:
        whole = ancestors[0].record
        identity = (
            fresh_name() if key is None else settled_name(whole, stage, given["cohort"], given["user"], name, key)
        )
        if given["user"] and len(ancestors) > 1:
            name = f"{name}/{given['user']}"
        record = Record(identity, self.settings.experiment, name, now_ms(), ancestors=ancestors)
        run = Run(self, record)
        run.tags({**self._lines(), "stage": stage, **given, "edgealign.key": key, **(tags or {})})
        try:
            yield run
            record.status = "FINISHED" if record.status == "RUNNING" else record.status
        except Exception as error:
            run.failed(f"{type(error).__name__}: {error}")
            raise
        except BaseException:  # interrupted or told to exit: someone's wish, no failure of the run
            record.status = "KILLED"
            raise
        finally:
            record.end_ms = now_ms()
            self._keep(record)

    def _keep(self, record: Record) -> None:
        """Into the spool; where the disk does not take it, at once to the store, which may lie elsewhere. Never raises."""
        try:
            self.spool.put(record)
            return
        except (OSError, ValueError, TypeError) as error:
            problem = error
        try:
            self._open().send(self.spool.staged(record))
            log.warning(
                "tracking: the run %s was sent at once, as %s does not take it: %s",
                record.name,
                self.spool.folder,
                problem,
            )
        except Exception as error:  # tracking must not cost a stage its results
            log.warning(
                "tracking: the run %s is NOT recorded. It could not be kept in %s (%s), nor sent (%s). Free some space, then "
                "`dvc repro --force --single-item` of its stage records it",
                record.name,
                self.spool.folder,
                problem,
                error,
            )

    def send(self) -> Sent:
        """Send what waits, oldest first. Never raises: what cannot be sent stays, and one warning says so."""
        try:
            done = self._send()
        except Exception as error:  # tracking must not cost a stage its results, whatever MLflow raises
            done = Sent(0, len(self.spool.waiting()), 0, f"{type(error).__name__}: {error}")
        if done.problem and done.waiting:
            log.warning("tracking: %s. %d run(s) wait in %s; %s", done.problem, done.waiting, self.spool.folder, REMEDY)
        return done

    def _send(self) -> Sent:
        sent = refused = 0
        problem = ""
        if self._opening is not None:
            self._opening.join()
        try:
            with self.spool.sending(SEND_WAIT_S):
                self.spool.tidy()
                for folder in self.spool.waiting():
                    try:
                        self._open().send(self.spool.read(folder))
                        self.spool.remove(folder)
                        sent += 1
                    except (RecordRefused, ValueError) as error:
                        aside = self.spool.refuse(folder, str(error))
                        log.warning("tracking: a run was refused and put aside in %s: %s", aside, error)
                        refused += 1
        except Timeout:
            problem = "another process is sending"
        except TrackingError as error:
            problem = str(error)
        return Sent(sent, len(self.spool.waiting()), refused, problem)

    def prepare(self) -> Path | None:
        """Make the embedded store where it is in use and not there yet; its folder of artifacts, None with another store.

        Raises TrackingError where the store cannot be made or nobody answers at the configured address.
        """
        if self.settings.uri:
            check_reachable(self.uri)
            return None
        artifacts = self.project.private / "mlflow" / "artifacts"
        create_embedded(self.project.private / "mlflow" / "mlflow.db", artifacts)
        return artifacts

    def latest(self, count: int) -> list[Any]:
        """The last ``count`` runs as MLflow entities, newest first. Raises TrackingError where the store is away."""
        artifacts = self.prepare()
        return MlflowStore(self.uri, self.settings.experiment, artifacts).latest(count)

    def _open_meanwhile(self) -> None:
        """Open the store while the stage works: importing MLflow takes two seconds, in which a stage mostly waits for Ray."""

        def open_store() -> None:
            with suppress(Exception):  # sending tries again, and tells
                self._open()

        if self._store is None and self._opening is None:
            self._opening = threading.Thread(target=open_store, name="tracking-opens", daemon=True)
            self._opening.start()

    def _open(self) -> Store:
        with self._lock:
            if self._store is None:
                artifacts = self.prepare()
                self._store = MlflowStore(self.uri, self.settings.experiment, artifacts)
            return self._store
