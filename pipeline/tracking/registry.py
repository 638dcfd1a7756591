"""The registry: MLflow's registered models, one a user, whose alias ``champion`` names the adapter that is in use.

A version points at the adapter's files in the run that trained it. Promoting moves two aliases: ``previous`` to the
champion before, then ``champion``; moving ``champion`` back undoes it.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.tracking.champions import embedded_champions
from pipeline.tracking.lineage import lineage_tags
from pipeline.tracking.models import PAGE, create_version
from pipeline.tracking.promotion import RULE_VERSION, Candidate, Champion, broken, candidates, champion_of, is_champion
from pipeline.tracking.store import MlflowStore, pages, patience, redacted
from pipeline.tracking.tracker import Tracker
from stages.atomic import sha256_file
from stages.errors import InputError, TrackingError
from stages.registered import CHAMPION, PREVIOUS, WITHDRAWN, model_name

_WEIGHTS = "adapter/adapter.safetensors"


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    version: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    run_id: str
    source: str


class Registry(MlflowStore):
    """The registered models of one tracking store: the embedded SQLite file or a server."""

    def __init__(self, tracker: Tracker) -> None:
        """Raises TrackingError where the store cannot be made or reached."""
        artifacts = tracker.prepare()
        try:
            super().__init__(tracker.uri, tracker.settings.experiment, artifacts)
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        except TrackingError:
            raise
        except Exception as error:  # a database that is broken or of another version: whatever SQLAlchemy says of it
            raise TrackingError(f"{redacted(tracker.uri)}: {str(error).splitlines()[0]}") from error

    def name_of(self, cohort: str, user: str) -> str:
        """Name of a user's registered model."""
        return model_name(self._experiment_name, cohort, user)

    def champions(self, cohort: str) -> dict[str, Champion]:
        """{user: champion} of a cohort. Raises TrackingError."""
        prefix, champions = self.name_of(cohort, ""), {}
        with self._told():
            for model in self._models(prefix):
                version = dict(model.aliases or {}).get(CHAMPION)
                if version is not None:
                    # most champions are the latest version, which comes with the model: asking for one takes some 20 ms
                    known = {str(item.version): item for item in model.latest_versions or ()}
                    found = known.get(str(version)) or self._client.get_model_version(model.name, str(version))
                    champions[model.name.removeprefix(prefix)] = champion_of(str(version), dict(found.tags or {}))
        return champions

    def aliases(self, cohort: str, user: str) -> dict[str, str]:
        """{alias: version} of a user's model; empty where there is none. Raises TrackingError."""
        with self._told():
            name = self.name_of(cohort, user)
            found = [model for model in self._models(name) if model.name == name]
            return {alias: str(version) for model in found for alias, version in dict(model.aliases or {}).items()}

    def versions(self, cohort: str | None, user: str | None) -> list[Version]:
        """Every version of a user's model, or of the base's, oldest first. Raises TrackingError."""
        name = model_name(self._experiment_name, cohort, user)
        with self._told():
            aliases: dict[str, list[str]] = {}
            for model in self._models(name):
                if model.name == name:
                    for alias, number in dict(model.aliases or {}).items():
                        aliases.setdefault(str(number), []).append(alias)
            found = self._client.search_model_versions(f"name = '{name}'", max_results=PAGE)
        listed = [
            Version(
                name,
                str(item.version),
                tuple(sorted(aliases.get(str(item.version), []))),
                dict(item.tags or {}),
                item.run_id or "",
                item.source or "",
            )
            for item in found
        ]
        return sorted(listed, key=lambda item: int(item.version))

    def fetch(self, version: Version, place: Path) -> Path:
        """The adapter's two files of a version, in a folder below ``place``. Raises TrackingError where they are gone."""
        import mlflow.artifacts

        with self._told():
            for name in ("adapter.safetensors", "adapter.json"):
                told = {"artifact_uri": f"{version.source}/{name}", "tracking_uri": self.uri}
                mlflow.artifacts.download_artifacts(**told, dst_path=str(place))
        return place

    def runs_with(self, digest: str, stage: str) -> list[Any]:
        """Runs of a stage that are of the adapter with this hash, newest first. Raises TrackingError."""
        with self._told():
            experiment = self._client.get_experiment_by_name(self._experiment_name)
            query = f"tags.adapter_sha256 = '{digest}' and tags.stage = '{stage}'"
            if experiment is None:
                return []
            return list(self._client.search_runs([experiment.experiment_id], query, order_by=["start_time DESC"]))

    def recorded_sha256(self, run_id: str) -> str | None:
        """The hash of the weights in a run's artifacts, computed anew; None where there are none. Raises TrackingError."""
        with self._told(), tempfile.TemporaryDirectory() as folder:
            there = {item.path for item in self._client.list_artifacts(run_id, "adapter")}
            if _WEIGHTS not in there:
                return None
            return sha256_file(Path(self._client.download_artifacts(run_id, _WEIGHTS, folder)))

    def tags(self, name: str, version: str) -> dict[str, str]:
        """A version's tags. Raises TrackingError."""
        with self._told():
            return dict(self._client.get_model_version(name, version).tags or {})

    def model_tags(self, name: str) -> dict[str, str]:
        """A registered model's own tags. Raises TrackingError."""
        with self._told():
            return dict(self._client.get_registered_model(name).tags or {})

    def set_tags(self, name: str, version: str, tags: dict[str, str]) -> None:
        """Set tags of a version. Raises TrackingError."""
        with self._told():
            for key, value in tags.items():
                self._client.set_model_version_tag(name, version, key, value)

    def drop_tag(self, name: str, version: str, tag: str) -> None:
        """Take a tag off a version, where it bears it. Raises TrackingError."""
        if tag in self.tags(name, version):
            with self._told():
                self._client.delete_model_version_tag(name, version, tag)

    def set_aliases(self, name: str, aliases: dict[str, str]) -> None:
        """Move aliases, in their order. Raises TrackingError."""
        with self._told():
            for alias, version in aliases.items():
                self._client.set_registered_model_alias(name, alias, version)

    def withdrawn(self, one: Candidate) -> str:
        """When and why a rollback took this adapter's championship away; empty where none did. Raises TrackingError."""
        with self._told():
            for version in self._client.search_model_versions(f"name = '{self.name_of(one.cohort, one.user)}'"):
                tags = dict(version.tags or {})
                if tags.get("adapter_sha256") == one.file_sha256 and tags.get(WITHDRAWN):
                    return str(tags[WITHDRAWN])
        return ""

    def run_of(self, one: Candidate) -> Any:
        """The run that carries exactly these weights in its artifacts; why none does, as a str.

        Of several the one that a registered version points at, else the newest.

        Raises TrackingError where the store is away.
        """
        wanted = {"adapter_sha256": one.file_sha256, "stage": "personalize", "cohort": one.cohort, "user": one.user}
        query = " and ".join(f"tags.{key} = '{value}'" for key, value in wanted.items())
        with self._told(), tempfile.TemporaryDirectory() as folder:
            experiment = self._client.get_experiment_by_name(self._experiment_name)
            known = [experiment.experiment_id] if experiment else []
            mine = self._client.search_runs(known, query, order_by=["start_time DESC"]) if known else []
            registered = {
                item.run_id
                for item in self._client.search_model_versions(f"name = '{self.name_of(one.cohort, one.user)}'")
                if dict(item.tags or {}).get("adapter_sha256") == one.file_sha256
            }
            mine = sorted(mine, key=lambda run: run.info.run_id not in registered)  # stable: else the newest
            for run in mine:
                there = {item.path for item in self._client.list_artifacts(run.info.run_id, "adapter")}
                if _WEIGHTS in there:
                    path = Path(self._client.download_artifacts(run.info.run_id, _WEIGHTS, folder))
                    if sha256_file(path) == one.file_sha256:
                        return run
        digest = one.file_sha256[:12]
        if mine:
            return (
                f"the run {mine[0].info.run_id} says that it made the adapter {digest}, but its files are missing or are not "
                f"these. Delete artifacts/adapters/{one.name}, then `dvc repro personalize@{one.cohort}` trains it again"
            )
        return (
            f"no run in {redacted(self.uri)} carries the adapter {digest}. If it waits in the spool, `edgealign tracking "
            "replay`; if another checkout trained it, promote it there, or let all record to one server (tracking.uri in "
            "params.yaml)"
        )

    def crown(self, one: Candidate, run: Any, before: Champion | None, tags: dict[str, str]) -> str:
        """Make the adapter the champion, registered where it was not yet; its version. Doing it again goes on.

        Raises TrackingError.
        """
        name, owner = self.name_of(one.cohort, one.user), {"cohort": one.cohort, "user": one.user}
        with self._told():
            known = self._client.search_model_versions(f"name = '{name}'", max_results=PAGE)
            same = [item for item in known if dict(item.tags or {}).get("adapter_sha256") == one.file_sha256]
            found = next((item for item in same if item.run_id == run.info.run_id), None)
            if found is None:  # its run was recorded before adapters were registered as they are trained
                source = f"{run.info.artifact_uri}/adapter"
                told = {**tags, **owner}
                version = create_version(self._client, name, source, run.info.run_id, told, owner, tags["why"])
            else:
                version = str(found.version)
                for key, value in {**tags, **owner}.items():
                    self._client.set_model_version_tag(name, version, key, value)
                if WITHDRAWN in dict(found.tags or {}):
                    self._client.delete_model_version_tag(name, version, WITHDRAWN)
                self._client.update_model_version(name, version, tags["why"])
            if before is not None:
                self._client.set_registered_model_alias(name, PREVIOUS, before.version)
            self._client.set_registered_model_alias(name, CHAMPION, version)
        return version

    def _models(self, prefix: str) -> Iterator[Any]:
        query = f"name LIKE '{prefix}%'"
        found = pages(lambda token: self._client.search_registered_models(query, PAGE, page_token=token))
        return (model for model in found if model.name.startswith(prefix))  # LIKE takes _ for any letter

    @contextmanager
    def _told(self) -> Iterator[None]:
        """MLflow's errors as ours."""
        from mlflow.exceptions import MlflowException

        try:
            with patience():
                yield
        except (MlflowException, OSError) as error:
            raise TrackingError(f"{redacted(self.uri)}: {str(error).splitlines()[0]}") from error


@dataclass(frozen=True)
class Standing:
    """An adapter, its user's champion, and what the rule says."""

    candidate: Candidate
    champion: Champion | None
    broken: dict[str, str]
    version: str = ""
    """Set where it was promoted."""

    @property
    def is_champion(self) -> bool:
        return is_champion(self.candidate, self.champion)


def open_registry(tracker: Tracker) -> Registry | None:
    """The registry; None where there is no store yet: no need to make one to learn that it is empty.

    Raises TrackingError.
    """
    embedded = tracker.project.private / "mlflow" / "mlflow.db"
    return Registry(tracker) if tracker.settings.uri or embedded.exists() else None


def standings(tracker: Tracker, cohorts: list[str]) -> list[Standing]:
    """Every personal adapter of the cohorts under the rule. Raises TrackingError where the registry cannot be read."""
    found = [(cohort, candidates(tracker.project, cohort)) for cohort in cohorts]
    listed = []
    for cohort, ones in found:
        champions = champions_of(tracker, cohort) if ones else {}
        listed += [Standing(one, champions.get(one.user), broken(one, champions.get(one.user))) for one in ones]
    return listed


def champions_of(tracker: Tracker, cohort: str) -> dict[str, Champion]:
    """{user: champion} of a cohort; empty where there is no store yet. Raises TrackingError."""
    embedded = tracker.project.private / "mlflow" / "mlflow.db"
    if not tracker.settings.uri and embedded.exists():
        found = embedded_champions(embedded, model_name(tracker.settings.experiment, cohort, ""))
        if found is not None:
            return found
    registry = open_registry(tracker)
    return registry.champions(cohort) if registry else {}


def promote(
    tracker: Tracker,
    cohort: str,
    user: str | None = None,
    *,
    dry_run: bool = False,
    again: bool = False,
    tell: Callable[[Standing], None] = lambda standing: None,
) -> list[Standing]:
    """Apply the rule to one user's adapter, or to all of a cohort's, and make champions of those that it takes.

    An adapter that no run carries is refused like one that the rule does not take (condition ``run``); ``tell`` gets each
    outcome as it comes. ``dry_run`` registers nothing; ``again`` takes an adapter, too, that a rollback withdrew. Raises
    InputError where there is no such adapter, TrackingError.
    """
    found = candidates(tracker.project, cohort)
    chosen = [one for one in found if user in (None, one.user)]
    if not chosen:
        known = ", ".join(one.name for one in found[:10]) or "none"
        raise InputError(
            f"{cohort}/{user or '*'}: no such adapter. Adapters of {cohort}: {known}. `dvc repro` trains them."
        )
    tracker.send()  # what waits in the spool may be the run that carries the adapter
    registry = Registry(tracker)
    champions, outcomes = registry.champions(cohort), []
    lines = lineage_tags(tracker.project.root)
    for one in chosen:
        champion = champions.get(one.user)
        standing = Standing(one, champion, broken(one, champion))
        if not standing.broken and not standing.is_champion:
            taken_back = "" if again else registry.withdrawn(one)
            run = f"rolled back {taken_back}" if taken_back else registry.run_of(one)
            if isinstance(run, str):
                standing = Standing(one, champion, {"withdrawn" if taken_back else "run": run})
            else:
                tags = _tags_of(one, champion, lines)
                version = "" if dry_run else registry.crown(one, run, champion, tags)
                standing = Standing(one, champion, {}, version)
        outcomes.append(standing)
        tell(standing)
    return outcomes


def _tags_of(one: Candidate, champion: Champion | None, lines: dict[str, str]) -> dict[str, str]:
    """Why it was promoted, by which rule, from what. Names nobody: an erasure deletes versions that name its person."""
    assert one.figures and one.base_figures and one.guard and one.base_guard  # the rule took it
    why = f"{one.figures} on {one.test_utterances} held-out utterances, the base {one.base_figures}"
    why += f"; on the guard WER {one.guard.wer:.4f}, the base {one.base_guard.wer:.4f}"
    if champion is not None:
        told = champion.retrain or str(champion.figures)
        why += f", the champion before (version {champion.version}) {told}"
    return {
        "rule": str(RULE_VERSION),
        "decision": "promoted",
        "decided": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "why": why,
        "adapter_sha256": one.file_sha256,
        "base_sha256": one.base_sha256,
        "held_out_sha256": one.held_out_sha256,
        "wer": repr(one.figures.wer),
        "cer": repr(one.figures.cer),
        "base_wer": repr(one.base_figures.wer),
        "base_cer": repr(one.base_figures.cer),
        "test_utterances": str(one.test_utterances),
        "guard_wer": repr(one.guard.wer),
        "base_guard_wer": repr(one.base_guard.wer),
        "guard_utterances": str(one.guard_utterances),
        "guard_tolerance": repr(one.guard_tolerance),
        "adapter_bytes": str(one.adapter_bytes),
        "champion_before": champion.version if champion else "none",
        "trained_git_commit": one.trained_git_commit,
        "trained_data_md5": one.trained_data_md5,
        **{key: lines[key] for key in ("git_commit", "git_dirty", "data_md5")},
    }
