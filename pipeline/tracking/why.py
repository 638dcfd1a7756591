"""Why an adapter is what it is: its whole lineage, from the recordings to the devices, each link checked by its hash.

Nothing is raised for a link that is missing or does not fit: it is told as a problem, and the rest goes on.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.runs.common import Context
from pipeline.runs.keys import personalize_key
from pipeline.tracking.lineage_sources import BROKEN, MISSING, TOLD, VERIFIED, Sources
from pipeline.tracking.reference import Opened, Reference, opened
from pipeline.tracking.registry import Registry, Version, open_registry
from stages.atomic import sha256_file
from stages.errors import EdgealignError, TrackingError

TOLD_EACH = 3
"""Utterances that a problem names; how many there are is said."""


class Walk:
    """Walks adapters of one project back. Shards, tables and the base are read once for all of them."""

    def __init__(self, context: Context) -> None:
        self._context, self._project = context, context.project
        self._sources = Sources(context.project)
        self._registry: Registry | None = None
        self._no_store = ""
        try:
            context.tracker.send()  # a run that waits in the spool is part of the lineage
            self._registry = open_registry(context.tracker)
            if self._registry is None:
                self._no_store = "no tracking store: no run of it is recorded here"
        except TrackingError as error:
            self._no_store = str(error)
        self._base: dict[str, dict[str, Any]] = {}

    def everyone(self) -> list[Reference]:
        """The base and every personal adapter in the workspace."""
        found = [Reference(None, None)] if self._project.base_adapter.is_dir() else []
        for cohort in self._context.settings.personal_cohorts:
            folders = sorted(path for path in self._project.adapters(cohort).glob("[!.]*") if path.is_dir())
            found += [Reference(cohort, path.name) for path in folders]
        return found

    def of(self, reference: Reference) -> dict[str, Any]:
        """The lineage of one adapter; ``complete`` says whether every link is there and fits, ``problems`` what does not."""
        told: dict[str, Any] = {"adapter": str(reference), "problems": []}
        problems: list[str] = told["problems"]
        try:
            with opened(self._project, self._registry, reference) as found:
                self._tell(found, told, problems)
        except EdgealignError as error:
            problems.append(str(error))
        told["complete"] = not problems
        return told

    def _tell(self, found: Opened, told: dict[str, Any], problems: list[str]) -> None:
        from stages.alignment.record import read_record

        record = read_record(found.folder)
        told["adapter_sha256"] = record.weights_sha256
        told["weights"] = self._weights(found.folder, record, problems)
        if record.kind == "base":
            told["recordings"] = self._of_base(record, problems)
        else:
            told["recordings"] = self._recordings(record, problems)
            told["labels"] = self._labels(record, problems)
            told["features"] = self._features(record, problems)
            told["inputs"] = self._inputs(record, problems)
            told["base"] = self._base_of(record, problems)
        told["training"] = {
            "method": record.method,
            "encoder": record.encoder,
            "llm": record.llm,
            "settings": {name: value for name, value in record.settings.items() if name != "key"},
            "git_commit": record.git_commit or "unknown",
            "data_md5": record.data_md5 or "unknown",
        }
        told["run"] = self._run(found, record, problems)
        if record.kind != "base":
            told["evaluation"] = self._evaluation(record, problems)
        mine = [item for item in found.versions if item.tags.get("adapter_sha256") == record.weights_sha256]
        told["versions"] = [_version(item) for item in mine]
        told["devices"] = {
            "trained_on": record.device,
            "aliases": sorted({alias for item in mine for alias in item.aliases}),
        }

    def _weights(self, folder: Path, record: Any, problems: list[str]) -> dict[str, Any]:
        path = folder / "adapter.safetensors"
        if not path.is_file():
            problems.append(f"{path}: not there: `dvc repro` or `dvc pull`")
            return {"sha256": None, "status": MISSING}
        found = sha256_file(path)
        if found != record.weights_sha256:
            problems.append(
                f"{path}: its hash is {found[:12]}, adapter.json says {record.weights_sha256[:12]}: it was changed. `dvc repro`"
            )
        return {"sha256": found, "status": VERIFIED if found == record.weights_sha256 else BROKEN}

    def _recordings(self, record: Any, problems: list[str]) -> list[dict[str, Any]]:
        cohort = self._sources.cohort(str(record.cohort))
        problems += cohort.problems
        rows = []
        for role, names in (("trained", record.train_utterances), ("held out", record.held_out_utterances)):
            for name in names:
                there = cohort.recordings.get(name)
                status = MISSING
                if there and there.user == record.user:
                    fits = cohort.indexed.get(name) == there.audio_sha256 and there.shard not in cohort.changed_shards
                    status = VERIFIED if fits else BROKEN
                row = {"utterance": name, "role": role, "cohort": record.cohort, "status": status}
                if there:
                    row |= {
                        "shard": there.shard,
                        "source_sha256": there.source_sha256,
                        "audio_sha256": there.audio_sha256,
                    }
                rows.append(row)
        if cohort.recordings:  # else it is told already
            _say(rows, problems, f"of the recordings are not in the cohort {record.cohort} as they were: `dvc pull`")
        return rows

    def _labels(self, record: Any, problems: list[str]) -> list[dict[str, Any]]:
        cohort, rows = self._sources.cohort(str(record.cohort)), []
        for name in [*record.train_utterances, *record.held_out_utterances]:
            label, there = cohort.label(str(record.user), name), cohort.recordings.get(name)
            if label is None or not label["accepted"]:
                rows.append({"utterance": name, "status": MISSING})
                continue
            status = TOLD  # a pseudo-label is what the teachers heard
            if label["source"] == "human":
                status = VERIFIED if there and there.said == label["text"] else BROKEN
            row = {"utterance": name, "source": label["source"], "confidence": label["confidence"], "status": status}
            if label["source"] != "human":
                row["teachers"] = [one["name"] for one in label["teachers"] or []]
            rows.append(row)
        if cohort.labels:
            again = f"`dvc repro second_labels@{record.cohort}`"
            _say(
                rows, problems, f"of the labels are not accepted or do not say what the recording's text does: {again}"
            )
        return rows

    def _features(self, record: Any, problems: list[str]) -> list[dict[str, Any]]:
        cohort, rows = self._sources.cohort(str(record.cohort)), []
        for name in [*record.train_utterances, *record.held_out_utterances]:
            there, recording = cohort.features.get(name), cohort.recordings.get(name)
            if there is None:
                rows.append({"utterance": name, "status": MISSING})
                continue
            fits = there["encoder"] == record.encoder and recording and recording.audio_sha256 == there["audio_sha256"]
            told = {key: there[key] for key in ("encoder", "audio_sha256", "frames_sha256")}
            rows.append({"utterance": name, **told, "status": VERIFIED if fits else BROKEN})
        if cohort.features:
            _say(
                rows,
                problems,
                f"of the features are of other audio or another encoder: `dvc repro features@{record.cohort}`",
            )
        return rows

    def _inputs(self, record: Any, problems: list[str]) -> dict[str, Any]:
        """Whether the features and labels as they are now are those that trained: their key, computed anew."""
        cohort, wanted = self._sources.cohort(str(record.cohort)), record.settings.get("key")
        learned = []
        for name in record.train_utterances:
            label, there = cohort.label(str(record.user), name), cohort.features.get(name)
            if label is None or there is None:
                return {"key": wanted, "status": MISSING}  # told already
            learned.append((name, label["text"], there["frames_sha256"]))
        key = personalize_key(
            str(record.base_sha256),
            record.settings.get("personalize", {}),
            self._embedding_weight(),
            learned,
            record.held_out_utterances,
        )
        if key != wanted:
            problems.append(
                "the features and labels are not those that trained it, or a setting is another: `dvc repro`"
            )
        return {"key": wanted, "status": VERIFIED if key == wanted else BROKEN}

    def _embedding_weight(self) -> float:
        return float(self._context.settings.alignment.embedding_weight)

    def _of_base(self, record: Any, problems: list[str]) -> dict[str, Any]:
        """How many recordings of each cohort trained and judged a base, and how many of them are gone."""
        counts: Counter[str] = Counter()
        left = {*record.train_utterances, *record.held_out_utterances}
        for name in self._context.settings.base_cohorts:
            cohort = self._sources.recordings(name)
            problems += cohort.problems
            fit = {
                utterance
                for utterance, item in cohort.recordings.items()
                if cohort.indexed.get(utterance) == item.audio_sha256 and item.shard not in cohort.changed_shards
            }
            counts[name] = len(left & fit)
            left -= fit
        if not counts.total() and not left:
            problems.append("base: its record names no recording that trained it: `dvc repro`")
            return {"by_cohort": {}, "missing": 0, "status": MISSING}
        if left:
            named = ", ".join(sorted(left)[:TOLD_EACH])
            problems.append(
                f"base: {len(left)} of its recordings are in none of the base cohorts as they were ({named}): `dvc repro`"
            )
        return {"by_cohort": dict(counts), "missing": len(left), "status": MISSING if left else VERIFIED}

    def _base_of(self, record: Any, problems: list[str]) -> dict[str, Any]:
        """The base of a personal adapter with its own lineage in short; told once for all adapters of it."""
        wanted = str(record.base_sha256)
        if wanted not in self._base:
            base = self.of(self._where_base(wanted))
            fits = base.get("adapter_sha256") == wanted
            if not fits and base.get("adapter_sha256"):
                base["problems"].append(
                    f"made for the base {wanted[:12]}, artifacts/adapters/base is {base['adapter_sha256'][:12]}: `dvc repro`"
                )
            kept = ("adapter_sha256", "weights", "recordings", "run", "training", "versions", "problems")
            self._base[wanted] = {"sha256": wanted, **{key: base[key] for key in kept if key in base}}
            self._base[wanted]["status"] = VERIFIED if not base["problems"] else BROKEN if fits else MISSING
        found = dict(self._base[wanted])
        problems += [item if item.startswith("base: ") else f"base: {item}" for item in found.pop("problems")]
        return found

    def _where_base(self, digest: str) -> Reference:
        """The base in the workspace if it is this one, else its registered version, else the workspace's all the same."""
        from stages.alignment.record import read_record

        try:
            if read_record(self._project.base_adapter).weights_sha256 == digest:
                return Reference(None, None)
        except EdgealignError:
            pass
        versions = self._registry.versions(None, None) if self._registry else []
        mine = [item.version for item in versions if item.tags.get("adapter_sha256") == digest]
        return Reference(None, None, mine[-1] if mine else "")

    def _run(self, found: Opened, record: Any, problems: list[str]) -> dict[str, Any] | None:
        """The run that trained it, with its files as they are recorded there."""
        if self._registry is None:
            problems.append(self._no_store)
            return None
        try:
            runs = self._registry.runs_with(record.weights_sha256, "base" if record.kind == "base" else "personalize")
            if not runs:
                problems.append(
                    f"no run in the store carries the adapter {record.weights_sha256[:12]}: `edgealign tracking replay`, or "
                    "let all record to one server (tracking.uri in params.yaml)"
                )
                return None
            run = next((item for item in runs if found.version and item.info.run_id == found.version.run_id), runs[0])
            digest = self._registry.recorded_sha256(run.info.run_id)
        except TrackingError as error:
            problems.append(f"the run's files cannot be read: {error}")
            return None
        fits = digest == record.weights_sha256
        if not fits:
            problems.append(
                f"the weights in the run {run.info.run_id} have the hash {(digest or 'none')[:12]}, needed "
                f"{record.weights_sha256[:12]}: they were changed after they were recorded"
            )
        tags = run.data.tags
        kept = {
            key: tags.get(key, "unknown") for key in ("git_commit", "git_dirty", "data_md5", "device", "device_kind")
        }
        return {"id": run.info.run_id, "status": VERIFIED if fits else BROKEN, **kept}

    def _evaluation(self, record: Any, problems: list[str]) -> dict[str, Any]:
        from pipeline.tracking.promotion import read_evaluation
        from stages.alignment.splits import held_out_digest

        cohort, user = str(record.cohort), str(record.user)
        entry: dict[str, Any] = {}
        why = f"the evaluation did not judge this adapter: `dvc repro evaluate@{cohort}`"
        try:
            entry = read_evaluation(self._project.evaluation(cohort)).get(user) or {}
        except EdgealignError as error:
            why = str(error)
        if entry.get("adapter_sha256") != record.weights_sha256:
            runs = self._registry.runs_with(record.weights_sha256, "evaluate") if self._registry else []
            if runs:  # an older adapter: its run keeps the figures
                wanted = ["wer", "cer", "base_wer", "base_cer"]
                figures = {key: runs[0].data.metrics[key] for key in wanted if key in runs[0].data.metrics}
                return {**figures, "run": runs[0].info.run_id, "status": TOLD}
            problems.append(why)
        table = self._sources.cohort(cohort)
        texts = [(name, (table.label(user, name) or {}).get("text") or "") for name in record.held_out_utterances]
        judged = entry.get("adapter_sha256") == record.weights_sha256
        fits = judged and entry.get("held_out_sha256") == held_out_digest(texts)
        if judged and not fits:
            problems.append(f"the evaluation judged it on other utterances or texts: `dvc repro evaluate@{cohort}`")
        names = ["base", "personal", "guard", "test_utterances"]
        kept = {key: entry[key] for key in names if judged and key in entry}
        return {**kept, "status": VERIFIED if fits else BROKEN if entry else MISSING}


def _version(item: Version) -> dict[str, Any]:
    names = "rule decision why decided champion_before restored withdrawn retrain".split()
    kept = {key: item.tags[key] for key in names if key in item.tags}
    return {"name": item.name, "version": item.version, "aliases": list(item.aliases), "run_id": item.run_id, **kept}


def _say(rows: list[dict[str, Any]], problems: list[str], what: str) -> None:
    """One problem for all rows that are missing or do not fit."""
    bad = [row["utterance"] for row in rows if row["status"] in (MISSING, BROKEN)]
    if bad:
        problems.append(f"{len(bad)} of {len(rows)} {what} ({', '.join(bad[:TOLD_EACH])})")
