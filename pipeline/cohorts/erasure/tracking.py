"""The person out of MLflow: own runs, models and versions go, others lose what names the person, shared adapters are marked.

MLflow is imported only where there is a store to look into.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.cohorts.erasure import sqlite_store
from pipeline.cohorts.erasure.content import Notes, blob_of, holds, read_kind
from pipeline.cohorts.erasure.person import Matcher
from pipeline.cohorts.erasure.private import clean_file, clean_pairs
from pipeline.cohorts.erasure.state import Erasure
from pipeline.cohorts.erasure.survey import learn_adapters
from pipeline.project import Project
from pipeline.settings import Settings
from pipeline.tracking.store import check_reachable, pages, patience, redacted
from pipeline.tracking.sweep import collect, scrub
from stages.errors import EdgealignError, TrackingError
from stages.registered import RETRAIN

PAGE = 1000


@dataclass
class Found:
    """What a tracking store has of the person."""

    runs: list[str] = field(default_factory=list)
    """Ids of runs that go: the person's own, and those whose parameters or inputs name the person (these cannot be edited)."""
    gone: list[str] = field(default_factory=list)
    """Of ``runs``, those that somebody deleted already; they wait for `mlflow gc`."""
    tags: list[tuple[str, str]] = field(default_factory=list)
    """(run, tag) of others' runs."""
    artifacts: list[tuple[str, str]] = field(default_factory=list)
    """(run, path) of others' runs: files that name the person, and pictures beside them."""
    logged: list[str] = field(default_factory=list)
    """Ids of logged models."""
    versions: list[tuple[str, str]] = field(default_factory=list)
    """(registered model, version)."""
    models: list[str] = field(default_factory=list)
    """Registered models of which nothing else remains."""
    rest: list[str] = field(default_factory=list)
    """Places of an embedded store that no call of MLflow reaches."""

    def places(self, label: str) -> list[str]:
        """One line a place, for people."""
        return [
            *(f"{label}: run {run}" for run in self.runs if run not in self.gone),
            *(f"{label}: deleted run {run}" for run in self.gone),
            *(f"{label}: run {run}, tag {tag!r}" for run, tag in self.tags),
            *(f"{label}: run {run}, file {path}" for run, path in self.artifacts),
            *(f"{label}: logged model {model}" for model in self.logged),
            *(f"{label}: registered model {name}, version {version}" for name, version in self.versions),
            *(f"{label}: registered model {name}" for name in self.models),
            *(f"{label}: {place}" for place in self.rest),
        ]


@dataclass
class TrackingStore:
    """One MLflow store: the embedded one, another SQLite file, or a server."""

    uri: str
    database: Path | None
    """The SQLite file, where there is one: it can be searched and vacuumed."""
    artifacts: Path | None
    """The embedded store's folder of artifacts."""

    def __post_init__(self) -> None:
        from mlflow import MlflowClient

        self.client: Any = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"MLflow ({self.database.name})" if self.database else f"MLflow at {redacted(self.uri)}"


def open_stores(project: Project, settings: Settings) -> list[TrackingStore]:
    """The stores that may know the person. Raises TrackingError where the configured server does not answer."""
    found = []
    for database, artifacts in (
        (project.private / "mlflow" / "mlflow.db", project.private / "mlflow" / "artifacts"),
        (project.root / "mlflow.db", project.root / "mlruns"),  # what MLflow makes where nobody tells it an address
    ):
        if database.is_file():
            found.append(TrackingStore(f"sqlite:///{database}", database, artifacts))
    uri = settings.tracking.uri
    if uri and uri not in {store.uri for store in found}:
        check_reachable(uri)
        path = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
        found.append(TrackingStore(uri, path, None))
    return found


def look(store: TrackingStore, erasure: Erasure, *, finished: bool = False) -> Found:
    """Search one store. ``erasure.person`` learns the adapters that its runs carry.

    With ``finished``, runs that a server has deleted are passed over: only its operator can delete them for good.
    Raises TrackingError.
    """
    from mlflow.exceptions import MlflowException

    found, notes = Found(), Notes()
    try:
        with patience():
            _look_at_runs(store, erasure, found, notes, deleted=store.database is not None or not finished)
            _look_at_models(store, erasure, found)
    except MlflowException as error:
        raise TrackingError(f"{store.label}: {str(error).splitlines()[0]}") from error
    if store.database is not None:
        found.rest += _left_files(store, erasure, found)
        if not found.places(""):  # else its tables name the person of course
            found.rest += sqlite_store.mentions(store.database, erasure.matcher())
    return found


def _look_at_runs(store: TrackingStore, erasure: Erasure, found: Found, notes: Notes, *, deleted: bool) -> None:
    from mlflow.entities import ViewType

    client, matcher = store.client, erasure.matcher()
    kind = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    experiments = [
        experiment.experiment_id
        for experiment in pages(lambda token: client.search_experiments(kind, PAGE, page_token=token))
    ]
    others = []
    for run in (
        pages(lambda token: client.search_runs(experiments, "", kind, PAGE, page_token=token)) if experiments else ()
    ):
        tags, cohort = run.data.tags, run.data.tags.get("cohort")
        own = matcher.is_user(tags.get("user"), cohort)
        if own and tags.get("adapter_sha256"):
            erasure.person.adapters.add(tags["adapter_sha256"])
        gone = run.info.lifecycle_stage == "deleted"
        named = [key for key, value in tags.items() if not clean_pairs({key: value}, matcher, cohort)]
        fixed = clean_pairs(run.data.params, matcher, cohort) != run.data.params or _inputs_name(run, matcher)
        if own or fixed or (gone and named):
            found.runs.append(run.info.run_id)
            found.gone += [run.info.run_id] if gone else []
        else:
            found.tags += [(run.info.run_id, key) for key in named]
            if not tags.get("user"):  # another user's run holds that user's files
                others.append(run)
    for run in others:
        found.artifacts += [(run.info.run_id, path) for path in _named_files(store, erasure, run, notes)]
    learn_adapters(erasure.person, matcher, notes)


def _inputs_name(run: Any, matcher: Matcher) -> bool:
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return any(matcher.in_json([item.dataset.name, item.dataset.source]) for item in inputs)


def _files_of(store: TrackingStore, run_id: str) -> list[str]:
    found: list[str] = []
    folders = [""]
    while folders:
        for item in store.client.list_artifacts(run_id, folders.pop() or None):
            (folders if item.is_dir else found).append(item.path)
    return sorted(found)


def _named_files(store: TrackingStore, erasure: Erasure, run: Any, notes: Notes) -> list[str]:
    """Files of a run that name the person, and the pictures in the same run: they may show the name."""
    matcher, cohort = erasure.matcher(), run.data.tags.get("cohort")
    named, pictures = [], []
    with tempfile.TemporaryDirectory(dir=erasure.project.private) as folder:
        for path in _files_of(store, run.info.run_id):
            blob = blob_of(Path(store.client.download_artifacts(run.info.run_id, path, folder)), cohort)
            kind = read_kind(blob)
            if kind == "picture":
                pictures.append(path)
            elif holds(blob, kind, erasure.person, matcher, notes) or matcher.in_path(path.split("/"), cohort):
                named.append(path)
    return named + pictures if named else []


def _look_at_models(store: TrackingStore, erasure: Erasure, found: Found) -> None:
    client, matcher = store.client, erasure.matcher()
    from mlflow.entities import ViewType

    experiments = [item.experiment_id for item in client.search_experiments(ViewType.ACTIVE_ONLY, PAGE)]
    for model in pages(lambda token: client.search_logged_models(experiments, page_token=token)) if experiments else ():
        tags = dict(model.tags or {})
        if (
            model.source_run_id in found.runs
            or matcher.is_user(tags.get("user"), tags.get("cohort"))
            or _names(matcher, [model.name, *tags.values(), *dict(model.params or {}).values()])
        ):
            found.logged.append(model.model_id)
    kept: set[str] = set()
    for version in pages(lambda token: client.search_model_versions(page_token=token)):
        tags = dict(version.tags or {})
        own = (
            version.run_id in found.runs
            or tags.get("adapter_sha256") in erasure.person.adapters
            or matcher.is_user(tags.get("user"), tags.get("cohort"))
            or getattr(version, "model_id", None) in found.logged
            or any(run in (version.source or "") for run in found.runs)
            or _names(matcher, [version.source or "", version.description or "", *tags.values()])
        )
        if own:
            found.versions.append((version.name, version.version))
        else:
            kept.add(version.name)
    emptied = {name for name, _ in found.versions} - kept
    for model in pages(lambda token: client.search_registered_models(page_token=token)):
        tags = dict(model.tags or {})
        own = matcher.is_user(tags.get("user"), tags.get("cohort")) or _names(
            matcher, [model.name, model.description or "", *tags.values()]
        )
        if model.name in emptied or (own and model.name not in kept):
            found.models.append(model.name)


def _names(matcher: Matcher, texts: list[str]) -> bool:
    """Whether a text names the person, also joined with the cohort: ``home-ann``."""
    pairs = [rf"{re.escape(cohort)}[-._/:]{re.escape(slug)}" for cohort, slug in matcher.person.slugs.items()]
    joined = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(pairs) or '(?!)'})(?![A-Za-z0-9_-])")
    return any(matcher.in_text(text) or joined.search(text) for text in texts)


def _left_files(store: TrackingStore, erasure: Erasure, found: Found) -> list[str]:
    """Files in an embedded store's folder that belong to no run that it lists."""
    if store.artifacts is None or not store.artifacts.is_dir():
        return []
    matcher, left = erasure.matcher(), []
    known = set(found.runs) | set(found.logged)
    named = {f"{run}/artifacts/{path}" for run, path in found.artifacts}
    for path in sorted(item for item in store.artifacts.rglob("*") if item.is_file()):
        parts = path.relative_to(store.artifacts).parts
        if known.isdisjoint(parts) and not any("/".join(parts).endswith(place) for place in named):
            blob = blob_of(path)
            if holds(blob, read_kind(blob), erasure.person, matcher, Notes()) or matcher.in_path(parts):
                left.append(str(path))
    return left


def erase(store: TrackingStore, erasure: Erasure, found: Found) -> None:
    """Delete what was found and mark what is to be retrained. Raises TrackingError; doing it again goes on.

    A server only hides deleted runs: for good they go with `mlflow gc` on its machine, and the erasure notes the command.
    """
    from mlflow.exceptions import MlflowException

    erasure.runs = sorted({*erasure.runs, *found.runs})
    erasure.save()
    try:
        with patience():
            _delete(store, erasure, found)
            _mark(store, erasure, {*erasure.person.bases, *erasure.person.descendants})
    except MlflowException as error:
        raise TrackingError(f"{store.label}: {str(error).splitlines()[0]}") from error
    if store.database is not None and store.artifacts is not None:
        collect(store.uri, found.runs, found.logged)
        for place in found.rest:
            if Path(place).is_file() and store.artifacts in Path(place).parents:
                Path(place).unlink()
        for run in {*found.runs, *erasure.runs}:
            for folder in store.artifacts.glob(f"**/{run}"):
                shutil.rmtree(folder, ignore_errors=True)
    if store.database is not None:
        scrub(store.database)
    elif found.runs or found.logged:
        erasure.waits = sorted({*erasure.waits, _for_the_operator(store, erasure, found)})


def _delete(store: TrackingStore, erasure: Erasure, found: Found) -> None:
    client = store.client
    for name, version in found.versions:
        for alias, target in dict(client.get_registered_model(name).aliases or {}).items():
            if str(target) == str(version):
                client.delete_registered_model_alias(name, alias)
        client.delete_model_version(name, version)
    for name in found.models:
        client.delete_registered_model(name)
    for model in found.logged:
        if store.artifacts is None:
            _repository(store, client.get_logged_model(model).artifact_location).delete_artifacts()
        client.delete_logged_model(model)
    for run, key in found.tags:
        client.delete_tag(run, key)
    for run, path in found.artifacts:
        _clean_artifact(store, erasure, run, path)
    for run in found.runs:
        if run not in found.gone:
            if store.artifacts is None:  # `mlflow gc` does it for an embedded store
                _repository(store, client.get_run(run).info.artifact_uri).delete_artifacts()
            client.delete_run(run)


def _repository(store: TrackingStore, location: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(location, tracking_uri=store.uri)


def _clean_artifact(store: TrackingStore, erasure: Erasure, run: str, path: str) -> None:
    """Delete a file of a run; a base adapter's record is put back without the person's utterances."""
    with tempfile.TemporaryDirectory(dir=erasure.project.private) as folder:
        source = Path(store.client.download_artifacts(run, path, folder))
        copy = Path(folder) / "cleaned" / source.name
        copy.parent.mkdir()
        shutil.copyfile(source, copy)
        stays = clean_file(copy, erasure.matcher(), None)
        _repository(store, store.client.get_run(run).info.artifact_uri).delete_artifacts(path)
        if stays:
            store.client.log_artifact(run, str(copy), path.rpartition("/")[0] or None)


def _mark(store: TrackingStore, erasure: Erasure, adapters: set[str]) -> None:
    """Tag the runs, and the model versions, of adapters that learned from the person."""
    from mlflow.entities import ViewType

    client = store.client
    experiments = [item.experiment_id for item in client.search_experiments(ViewType.ACTIVE_ONLY, PAGE)]
    value, marked = f"erasure {erasure.id}", set()
    for digest in sorted(adapters):
        query = f"tags.adapter_sha256 = '{digest}'"
        for run in pages(lambda token, q=query: client.search_runs(experiments, q, page_token=token)):  # type: ignore[misc]
            client.set_tag(run.info.run_id, RETRAIN, value)
            marked.add(run.info.run_id)
    for version in pages(lambda token: client.search_model_versions(page_token=token)):
        if version.run_id in marked or dict(version.tags or {}).get("adapter_sha256") in adapters:
            client.set_model_version_tag(version.name, version.version, RETRAIN, value)


def _for_the_operator(store: TrackingStore, erasure: Erasure, found: Found) -> str:
    command = f"mlflow gc --backend-store-uri <the server's store> --tracking-uri {redacted(store.uri)}"
    command += f" --run-ids {','.join(erasure.runs)}" if erasure.runs else ""
    command += f" --logged-model-ids {','.join(found.logged)}" if found.logged else ""
    return (
        f"{store.label}: its database still holds the deleted runs. Its operator has to run `{command}`, delete the rows of "
        "the tables inputs and datasets that no run refers to, have the database reclaim its free pages (VACUUM), and delete "
        "the server's log of requests: those for a user's registered model name the user."
    )


def trouble(error: Exception) -> EdgealignError:
    """A failure of MLflow as one message with what to do."""
    return EdgealignError(f"{error}. What could be erased is erased: mend the cause and run the command again.")
