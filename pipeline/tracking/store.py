"""The MLflow side: where records are sent. MLflow is imported only here, and only once something is sent.

Everything goes through ``MlflowClient(tracking_uri=...)``: MLflow's global tracking address stays as other code set it.
"""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from jetson_agent.patience import PATIENCE, connect, patience
from pipeline.tracking.models import register
from pipeline.tracking.record import Ancestor, Artifact, Record
from pipeline.tracking.troubles import RecordRefused, check_database, redacted, told
from stages.atomic import sha256_bytes, sha256_file
from stages.errors import TrackingError
from stages.registered import RECORD_TAG

log = logging.getLogger("edgealign.tracking")
EXPERIMENT_TAG = "edgealign.experiment"
"""Tag of an experiment: a hash of the name under which it was made, so that one that was renamed is not made again."""
_BATCH_METRICS, _BATCH_PAIRS = 800, 100  # MLflow takes 1000 items in one log_batch, of them 100 params and 100 tags

__all__ = [
    "PATIENCE",
    "MlflowStore",
    "RecordRefused",
    "Store",
    "check_reachable",
    "create_embedded",
    "pages",
    "patience",
    "redacted",
    "translated",
]


class Store(Protocol):
    """Where records go."""

    def send(self, record: Record) -> str:
        """Create or complete the record's run; its id. Raises TrackingError (try later) or RecordRefused (never)."""
        ...


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """The errors of MLflow, its database and the disk as ours, with our patience."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with patience():
            yield
    except TrackingError:
        raise
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise told(uri, error) from error


class MlflowStore:
    """An MLflow tracking store: the embedded SQLite file or a server."""

    def __init__(self, uri: str, experiment: str, artifacts: Path | None) -> None:
        """``artifacts`` is the folder of the embedded store's files; None leaves them to the server."""
        import mlflow

        if not hasattr(mlflow, "__version__"):
            # without the library, the project's own mlflow/ folder passes for an empty package
            raise TrackingError("mlflow is not installed here. Install the project again: pip install -e .")
        from mlflow import MlflowClient

        check_database(uri)
        with translated(uri):
            self._client: Any = MlflowClient(tracking_uri=uri)
        self._experiment_name = experiment
        self._artifacts = artifacts
        self._experiment_id: str | None = None
        self._runs: dict[str, str] = {}
        self._created: set[str] = set()
        self.uri = uri

    def send(self, record: Record) -> str:
        """Create or complete the record's run; its id. Raises TrackingError (try later) or RecordRefused (never)."""
        with translated(self.uri):
            return self._send(record)

    def latest(self, count: int) -> list[Any]:
        """The experiment's last ``count`` runs, newest first, as MLflow entities."""
        with translated(self.uri):
            runs = self._client.search_runs([self._experiment()], max_results=count, order_by=["start_time DESC"])
            return list(runs)

    def _send(self, record: Record) -> str:
        parent: str | None = None
        for ancestor in record.ancestors:
            parent = self._ensure(ancestor, parent)
        before = set(self._created)
        run_id = self._ensure(Ancestor(record.record, record.name, record.start_ms, record.tags), parent)
        self._log(run_id, record, fresh=run_id in self._created - before)
        if record.model is not None:
            register(self._client, run_id, record)
        self._client.set_terminated(run_id, record.status, end_time=record.end_ms)
        if len(record.ancestors) == 1:
            self._settle(self._runs[record.ancestors[0].record], record)
        return run_id

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        if self._experiment_id is None:
            found = self._client.get_experiment_by_name(self._experiment_name)
            if found is None:
                self._check_renamed()
                location = self._artifacts.as_uri() if self._artifacts else None
                try:
                    tags = {EXPERIMENT_TAG: _mark(self._experiment_name)}
                    self._client.create_experiment(self._experiment_name, artifact_location=location, tags=tags)
                except MlflowException as error:
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                        raise
                found = self._client.get_experiment_by_name(self._experiment_name)
            if found.lifecycle_stage != "active":
                raise TrackingError(
                    f"{redacted(self.uri)}: the experiment {self._experiment_name!r} is deleted there. Restore it "
                    f"(`mlflow experiments restore -x {found.experiment_id}`) or name another in params.yaml "
                    "(tracking.experiment)."
                )
            self._experiment_id = str(found.experiment_id)
            mark = _mark(self._experiment_name)
            if dict(found.tags or {}).get(EXPERIMENT_TAG) != mark:  # made by an older edgealign, or renamed
                self._client.set_experiment_tag(self._experiment_id, EXPERIMENT_TAG, mark)
        return self._experiment_id

    def _check_renamed(self) -> None:
        """Raises TrackingError where the experiment is there under another name: a second one would part the runs."""
        from mlflow.entities import ViewType

        query = f"tags.`{EXPERIMENT_TAG}` = '{_mark(self._experiment_name)}'"
        for found in self._client.search_experiments(ViewType.ALL, 1, query):
            raise TrackingError(
                f"{redacted(self.uri)}: the experiment {self._experiment_name!r} is called {found.name!r} there now. Set "
                f"tracking.experiment: {found.name} in params.yaml, or rename it back (`mlflow experiments rename -x "
                f"{found.experiment_id} -n {self._experiment_name}`)"
            )

    def _ensure(self, wanted: Ancestor, parent: str | None) -> str:
        """The run of a record, created where no run carries its tag yet (a replay finds what it half sent)."""
        known = self._runs.get(wanted.record)
        if known is None:
            experiment = self._experiment()
            found = self._client.search_runs([experiment], f"tags.`{RECORD_TAG}` = '{wanted.record}'", max_results=1)
            if found:
                known = found[0].info.run_id
            else:
                self._tell_deleted(experiment, wanted)
                tags = {**wanted.tags, RECORD_TAG: wanted.record, **({"mlflow.parentRunId": parent} if parent else {})}
                created = self._client.create_run(experiment, wanted.start_ms, tags=tags, run_name=wanted.name)
                known = created.info.run_id
                self._created.add(known)
            self._runs[wanted.record] = str(known)
        return self._runs[wanted.record]

    def _tell_deleted(self, experiment: str, wanted: Ancestor) -> None:
        """A run that somebody deleted is made again: what comes now needs a place. What it held is in MLflow's bin."""
        from mlflow.entities import ViewType

        query = f"tags.`{RECORD_TAG}` = '{wanted.record}'"
        for run in self._client.search_runs([experiment], query, ViewType.DELETED_ONLY, max_results=1):
            log.warning(
                "tracking: the run %s was deleted in the store; another one is made for what comes now. `mlflow runs restore "
                "--run-id %s` brings the first one back",
                wanted.name,
                run.info.run_id,
            )

    def _log(self, run_id: str, record: Record, *, fresh: bool) -> None:
        from mlflow.entities import Metric, Param, RunTag

        # each write is a commit of its own in SQLite: a run that was made this moment has its tags and nothing else
        tags = {} if fresh else dict(record.tags)
        there = {} if fresh else self._client.get_run(run_id).data.params
        for key, value in record.params.items():
            if there.get(key, value) != value:  # MLflow's parameters never change; a record sent again may
                tags[f"changed.{key}"] = value
        for artifact in record.artifacts:
            if _as_recorded(artifact):
                self._client.log_artifact(run_id, artifact.source, artifact.folder or None)
            else:
                name = Path(artifact.source).name
                tags[f"artifact_changed.{name}"] = artifact.sha256
                log.warning(
                    "tracking: the run %s goes without %s: the file in the spool is not the one that was recorded (SHA-256 %s)."
                    " `dvc repro` of its stage records it again",
                    record.name,
                    name,
                    artifact.sha256[:12],
                )
        self._log_datasets(run_id, record)
        metrics = [Metric(*item) for item in record.metrics]
        params = [Param(key, value) for key, value in record.params.items() if key not in there]
        pairs = [RunTag(key, value) for key, value in tags.items()]
        while metrics or params or pairs:
            self._client.log_batch(run_id, metrics[:_BATCH_METRICS], params[:_BATCH_PAIRS], pairs[:_BATCH_PAIRS])
            metrics, params, pairs = metrics[_BATCH_METRICS:], params[_BATCH_PAIRS:], pairs[_BATCH_PAIRS:]

    def _log_datasets(self, run_id: str, record: Record) -> None:
        if not record.datasets:
            return
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag

        inputs = []
        for item in record.datasets:
            dataset = MetaDataset(CodeDatasetSource({"source": item.source}), name=item.name, digest=item.digest)
            inputs.append(DatasetInput(dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", item.context)]))
        self._client.log_inputs(run_id, inputs)

    def _settle(self, run_id: str, record: Record) -> None:
        """End the run of the whole `dvc repro`: it failed once any of its stages has. It bears what the stage says of all."""
        from mlflow.entities import Metric, Param

        whole = self._client.get_run(run_id)
        status, known = whole.info.status, whole.data.params
        params = [Param(key, value) for key, value in record.whole_params.items() if key not in known]
        metrics = [Metric(*item) for item in record.whole_metrics]
        while params or metrics:
            self._client.log_batch(run_id, metrics[:_BATCH_METRICS], params[:_BATCH_PAIRS])
            metrics, params = metrics[_BATCH_METRICS:], params[_BATCH_PAIRS:]
        if status != "FAILED":
            status = "FAILED" if record.status != "FINISHED" else "FINISHED"
        self._client.set_terminated(run_id, status, end_time=record.end_ms)


def pages(search: Callable[[str | None], Any]) -> Iterator[Any]:
    """All that ``search(page_token)`` of MLflow's client finds, a page after the other."""
    token: str | None = None
    while True:
        page = search(token)
        yield from page
        token = page.token
        if not token:
            return


def _mark(name: str) -> str:
    """An experiment's name as a query can hold it, whatever quotes are in it."""
    return sha256_bytes(name.encode())[:16]


def _as_recorded(artifact: Artifact) -> bool:
    """Whether a file in the spool still has the content that was recorded."""
    try:
        return not artifact.sha256 or sha256_file(Path(artifact.source)) == artifact.sha256
    except FileNotFoundError:
        return False


def check_reachable(uri: str) -> None:
    """Raises TrackingError at once where no MLflow server answers at an address, or where it does not take our account.

    MLflow itself would keep trying for minutes.
    """
    if not uri.startswith(("http://", "https://")):
        return
    try:
        connect(uri)
    except (OSError, ValueError) as error:
        raise TrackingError(
            f"{redacted(uri)}: {error}. Start the server (mlflow/serve.sh there), or set tracking.uri in params.yaml"
        ) from error
    with translated(uri):
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request, verify_rest_response

        path = "/api/2.0/mlflow/experiments/search"
        answer = http_request(get_default_host_creds(uri), path, "GET", params={"max_results": 1})
        if answer.status_code == 404:
            raise TrackingError(
                f"{redacted(uri)}: something answers there that is no MLflow server (404). Set tracking.uri in params.yaml"
            )
        verify_rest_response(answer, path)


def create_embedded(database: Path, artifacts: Path) -> None:
    """Create the embedded store once: processes that race to create an SQLite store break it.

    Made under another name, in a process of its own (MLflow's migrations set up logging for a whole process), and
    renamed, so that a store that is there is whole. Raises TrackingError.
    """
    if database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    artifacts.mkdir(parents=True, exist_ok=True)
    with FileLock(str(database.with_suffix(".lock"))):
        if database.exists():
            return
        part = database.with_suffix(".part")
        part.unlink(missing_ok=True)
        program = (
            "import sys; from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore\n"
            "SqlAlchemyStore(sys.argv[1], sys.argv[2])"
        )
        run = subprocess.run(
            [sys.executable, "-c", program, f"sqlite:///{part}", artifacts.as_uri()],
            capture_output=True,
            text=True,
            cwd=database.parent,  # nothing of the project is imported there
        )
        if run.returncode:
            reason = (run.stderr.strip().splitlines() or ["no reason given"])[-1]
            part.unlink(missing_ok=True)
            raise TrackingError(f"{database}: the tracking store could not be made: {reason}")
        with closing(sqlite3.connect(part)) as connection:
            # readers (the UI) and a writer do not wait for each other, and a commit costs one sync instead of three
            connection.execute("PRAGMA journal_mode=WAL")
        part.replace(database)
