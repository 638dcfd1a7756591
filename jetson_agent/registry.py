"""The device's side of MLflow: reads versions, aliases and tags of a registered model, and tells it what the outbox holds.

MLflow is imported at use. Everything goes through ``MlflowClient(tracking_uri=...)``; accounts come from its own variables.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jetson_agent.canary import FAILED, HALTED, verdict_name, verdict_tag
from jetson_agent.outbox import Entry, EntryRefused, Waiting
from jetson_agent.patience import connect, patience
from jetson_agent.settings import RolloutSettings
from stages.atomic import sha256_file
from stages.errors import InputError, TrackingError
from stages.flat import finite, flatten
from stages.registered import PERSONAL_TEXT, RECORD_TAG, model_name

PAGE = 1000
FOLDER = "adapter"
"""Folder of a run's artifacts that a version points at."""
_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
_TAG_LIMIT, _BATCH = 5000, 100


@dataclass(frozen=True)
class Found:
    """A version of a registered model."""

    model: str
    version: str
    tags: dict[str, str]
    source: str

    @property
    def key(self) -> str:
        """What names it among all versions of all models."""
        return f"{self.model}@{self.version}"

    @property
    def sha256(self) -> str:
        return self.tags.get("adapter_sha256", "")

    @property
    def named(self) -> dict[str, str]:
        """What an event says of it."""
        return {"model": self.model, "version": self.version, "sha256": self.sha256}


@dataclass(frozen=True)
class Model:
    """A registered model: its aliases {alias: version}, its tags, its versions by number."""

    name: str
    aliases: dict[str, str]
    tags: dict[str, str]
    versions: dict[str, Found]


class Registry:
    """The registry of ``rollout.json``."""

    def __init__(self, settings: RolloutSettings) -> None:
        """Raises InputError where the settings name no server or device, TrackingError where nobody answers there."""
        if not settings.server:
            raise InputError(
                "this device follows no registry. `edgealign-agent setup ... --server http://HOST:5000` names one, or `server` "
                "in rollout.json in the agent's folder."
            )
        if not settings.device:
            raise InputError(
                'this device has no name in the registry. Give it one: `device` in rollout.json, as "kitchen-1".'
            )
        self.settings = settings
        try:
            connect(settings.server)
        except (OSError, ValueError) as error:
            raise TrackingError(
                f"{settings.server}: {error}. What is in use stays, and what waits in the outbox; try again once the server "
                "can be reached."
            ) from error
        from mlflow import MlflowClient

        with self._told():
            self._client: Any = MlflowClient(tracking_uri=settings.server, registry_uri=settings.server)
        self._experiment_id = ""

    def answers(self) -> bool:
        """Whether somebody answers at the server's address at all."""
        try:
            connect(self.settings.server)
        except (OSError, ValueError):
            return False
        return True

    def model(self, name: str) -> Model | None:
        """A registered model; None where there is none of this name. Raises TrackingError."""
        from mlflow.exceptions import MlflowException

        with self._told():
            try:
                model = self._client.get_registered_model(name)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise
            aliases = {alias: str(number) for alias, number in dict(model.aliases or {}).items()}
            return Model(name, aliases, dict(model.tags or {}), {item.version: item for item in self._versions(name)})

    def fetch(self, version: Found, place: Path) -> Path:
        """The two files of a version, in ``place``. Raises TrackingError where they are gone or the server is."""
        import mlflow.artifacts

        with self._told():
            for name in ("adapter.safetensors", "adapter.json"):
                told = {"artifact_uri": f"{version.source}/{name}", "tracking_uri": self.settings.server}
                mlflow.artifacts.download_artifacts(**told, dst_path=str(place))
        return place

    def set_model_tag(self, name: str, tag: str, value: str) -> None:
        """Raises TrackingError."""
        with self._told():
            self._client.set_registered_model_tag(name, tag, value)

    def tell(self, item: Waiting) -> None:
        """Tell an entry of the outbox; again, it changes nothing. Raises TrackingError (try later), EntryRefused (never)."""
        from mlflow.exceptions import MlflowException

        entry = item.entry
        with self._told():
            try:
                run = self._run(entry)
                self._log(run, entry)
                if entry.kind == "adapter":
                    self._register(run, entry, item.folder)
                elif entry.kind == "verdict":
                    self._judge(entry)
                self._client.set_terminated(run.info.run_id, "FINISHED", end_time=int(entry.when * 1000))
            except MlflowException as error:
                if error.error_code in _REFUSALS:
                    raise EntryRefused(str(error).splitlines()[0]) from error
                raise

    def _versions(self, name: str) -> list[Found]:
        found = self._client.search_model_versions(f"name = '{name}'", max_results=PAGE)
        return [Found(name, str(item.version), dict(item.tags or {}), item.source or "") for item in found]

    def _run(self, entry: Entry) -> Any:
        """The run of an entry, created where none carries its tag yet: what was half told is found again."""
        experiment = self._experiment()
        found = self._client.search_runs([experiment], f"tags.`{RECORD_TAG}` = '{entry.run}'", max_results=1)
        if found:
            return found[0]
        stage = "pull" if entry.kind == "verdict" or "left" in entry.figures else "adapt"
        tags = {
            RECORD_TAG: entry.run,
            "stage": stage,
            "source": "device",
            "device": self.settings.device,
            "cohort": entry.cohort,
            "user": entry.user,
            "what": entry.what,
            "why": entry.why[:_TAG_LIMIT],
        }
        start_ms = int((entry.when - (finite(entry.figures.get("seconds")) or 0.0)) * 1000)
        return self._client.create_run(experiment, start_ms, tags=tags, run_name=f"{stage}@{entry.cohort}/{entry.user}")

    def _experiment(self) -> str:
        name = self.settings.experiment
        if not self._experiment_id:
            found = self._client.get_experiment_by_name(name)
            if found is None or found.lifecycle_stage != "active":
                raise TrackingError(
                    f"{self.settings.server}: no experiment {name!r} there. Record the project there first (tracking.uri in "
                    "its params.yaml, `dvc repro`), or correct `experiment` in rollout.json."
                )
            self._experiment_id = str(found.experiment_id)
        return self._experiment_id

    def _log(self, run: Any, entry: Entry) -> None:
        from mlflow.entities import Metric, RunTag

        at = int(entry.when * 1000)  # the same each time: MLflow keeps a figure of the same name, time and value once
        metrics, tags = [], []
        for name, value in flatten(entry.figures).items():
            number = None if isinstance(value, (str, bool)) else finite(value)
            if number is not None:
                metrics.append(Metric(name, number, at, 0))
            elif isinstance(value, str):
                tags.append(RunTag(name, value[:_TAG_LIMIT]))
        self._client.log_batch(run.info.run_id, metrics[:_BATCH], [], tags[:_BATCH])

    def _register(self, run: Any, entry: Entry, folder: Path) -> None:
        """The adapter as a version with its lineage; no alias moves: what the fleet uses is not a device's to say."""
        from mlflow.exceptions import MlflowException

        from stages.alignment.record import read_record

        weights = folder / "adapter.safetensors"
        try:
            record = read_record(folder)
        except InputError as error:
            raise EntryRefused(str(error)) from error
        if not weights.is_file() or sha256_file(weights) != record.weights_sha256:
            raise EntryRefused(f"{weights}: is not what adapter.json says: damaged on this device")
        run_id, digest = run.info.run_id, record.weights_sha256
        for path in (weights, folder / "adapter.json"):
            self._client.log_artifact(run_id, str(path), FOLDER)
        self._client.set_tag(run_id, "adapter_sha256", digest)
        owner = {"cohort": entry.cohort, "user": entry.user}
        name = model_name(self.settings.experiment, entry.cohort, entry.user)
        if any(version.sha256 == digest for version in self._versions(name)):
            return
        try:
            self._client.create_registered_model(name, owner, PERSONAL_TEXT)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = {
            **owner,
            "source": "device",
            "device": self.settings.device,
            "learned": iso(entry.when),
            "kind": record.kind,
            "method": record.method,
            "encoder": record.encoder,
            "llm": record.llm,
            "adapter_sha256": digest,
            "base_sha256": str(record.base_sha256),
            "why": entry.why[:_TAG_LIMIT],
        }
        source = f"{run.info.artifact_uri}/{FOLDER}"
        self._client.create_model_version(name, source, run_id, tags=tags, await_creation_for=0)

    def _judge(self, entry: Entry) -> None:
        """This device's verdict as a tag of the version; the first failure halts the version."""
        pulled, verdict = entry.figures["pulled"], entry.figures["verdict"]
        name, number = pulled["model"], pulled["version"]
        tags = dict(self._client.get_model_version(name, number).tags or {})
        if tags.get("adapter_sha256") != pulled["sha256"]:
            raise EntryRefused(f"{name}: version {number} is another adapter now than the one that was judged")
        told: dict[str, Any] = {key: entry.figures[key] for key in ("wer", "judged", "words") if key in entry.figures}
        value = verdict_tag(verdict, iso(entry.when), told)
        self._client.set_model_version_tag(name, number, verdict_name(self.settings.device), value)
        if verdict == FAILED and not tags.get(HALTED):
            why = f"{iso(entry.when)}, device {self.settings.device}: {entry.why}"
            self._client.set_model_version_tag(name, number, HALTED, why)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """MLflow's errors as ours, with our patience."""
        from mlflow.exceptions import MlflowException

        try:
            with patience():
                yield
        except (MlflowException, OSError) as error:
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            account = "error code 401" in text or "error code 403" in text
            remedy = (
                " Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of an account that may." if account else ""
            )
            raise TrackingError(f"{self.settings.server}: {text}{remedy}") from error


def iso(when: float) -> str:
    """Seconds since 1970 as UTC."""
    return datetime.datetime.fromtimestamp(when, datetime.timezone.utc).isoformat(timespec="seconds")
