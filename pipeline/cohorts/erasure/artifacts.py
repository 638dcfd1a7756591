"""The person out of what was made of the recordings. What was computed for others is kept, under the key of its new shard."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.cohorts.erasure.content import is_adapter, parse_json
from pipeline.cohorts.erasure.data import belongs, drop_rows
from pipeline.cohorts.erasure.person import Matcher, is_evaluation
from pipeline.cohorts.erasure.state import Erasure
from pipeline.settings import Settings
from stages.atomic import sha256_file, write_json
from stages.errors import InputError
from stages.pseudo_labels import TRANSCRIPTS
from stages.schema import FEATURES, LABELS, READ_OUTS, read_metadata, read_table, write_table


def erase_artifacts(erasure: Erasure, settings: Settings, found: Iterable[str]) -> None:
    """Rewrite or delete every file of the workspace that was found to hold the person."""
    project, matcher = erasure.project, erasure.matcher()
    for cohort in erasure.person.slugs:
        _erase_shard_tables(erasure, settings, cohort, matcher)
        shutil.rmtree(project.adapters(cohort) / erasure.person.slugs[cohort], ignore_errors=True)
        _rewrite_evaluation(erasure, cohort)
    drawn = False
    for name in found:
        path = project.root / name
        drawn = drawn or path.parent in (project.plots, project.summary.parent)
        if project.dvc_plots in path.parents:
            shutil.rmtree(project.dvc_plots, ignore_errors=True)  # `dvc plots show` draws it again
        if not path.is_file():
            continue
        if project.cohort("x").parent not in path.parents:
            _rewrite(erasure, path, matcher)
        elif not belongs(erasure, path):
            path.unlink()
    for folder in (project.root / "artifacts", project.root / "data"):
        _sweep(folder, matcher)
    if drawn or not project.plots.is_dir():
        _draw_again(erasure)


def _erase_shard_tables(erasure: Erasure, settings: Settings, cohort: str, matcher: Matcher) -> None:
    """Features and what teachers heard: the rows go, the others' stay valid for the shard as it is now."""
    from stages.features import features_key
    from stages.pseudo_labels import transcripts_key
    from stages.second_labels import read_outs_key

    project = erasure.project
    pseudo, told_too = settings.pseudo_labels, cohort not in settings.pseudo_labels.untold_only
    for name, old in erasure.shards.get(cohort, {}).items():
        shard = project.cohort(cohort) / name
        features = project.features(cohort) / f"{shard.stem}.parquet"
        transcripts = project.transcripts(cohort) / f"{shard.stem}.parquet"
        read_outs = project.read_outs(cohort) / f"{shard.stem}.parquet"
        if not shard.is_file():
            for path in (features, transcripts, read_outs):
                path.unlink(missing_ok=True)
            continue
        now = sha256_file(shard)
        meta = read_metadata(features)

        def feature_key(digest: str, encoder: str = meta.get("encoder", "")) -> str:
            return features_key(encoder, digest, settings.features.padding_s, settings.features.max_duration_s)

        def transcript_key(digest: str, teacher: str = read_metadata(transcripts).get("transcriber", "")) -> str:
            return transcripts_key(digest, teacher, pseudo.beam_size, told_too, pseudo.prompt)

        def read_key(digest: str, asked: list[str], teacher: str = read_metadata(read_outs).get("teacher", "")) -> str:
            return read_outs_key(teacher, feature_key(digest), asked)

        was_asked, is_asked = _utterances(read_outs, matcher, cohort)
        _rewrite_table(features, FEATURES, matcher, cohort, {feature_key(old): feature_key(now)})
        _rewrite_table(read_outs, READ_OUTS, matcher, cohort, {read_key(old, was_asked): read_key(now, is_asked)})
        _rewrite_table(transcripts, TRANSCRIPTS, matcher, cohort, {transcript_key(old): transcript_key(now)})
    there = project.cohort(cohort).is_dir()
    for labels in (project.labels(cohort), project.second_labels(cohort)):
        _rewrite_table(labels, LABELS, matcher, cohort, {}, of_others=there)


def _utterances(path: Path, matcher: Matcher, cohort: str) -> tuple[list[str], list[str]]:
    """Those of a table with what a teacher read, and those of them that are not the person's; none of one to be made anew."""
    try:
        table = read_table(path, READ_OUTS)
    except InputError:
        return [], []
    before, after = (one.column("utterance").to_pylist() for one in (table, drop_rows(table, matcher, cohort)))
    return before, after


def _rewrite_table(
    path: Path, schema: Any, matcher: Matcher, cohort: str, keys: dict[str, str], *, of_others: bool = True
) -> None:
    """Drop the person's rows; a file whose key is in ``keys`` was made for the shard before and gets the new one's.

    Without ``of_others`` (a cohort that is gone) a table in which nothing remains goes as well.
    """
    if not path.is_file():
        return
    try:
        table = read_table(path, schema)
    except InputError:  # broken, or of an older edgealign: `dvc repro` makes it anew
        path.unlink()
        return
    meta = read_metadata(path)
    after = {**meta, "key": keys.get(meta["key"], meta["key"])} if "key" in meta else dict(meta)
    if "problems" in meta:
        after["problems"] = json.dumps(
            [item for item in json.loads(meta["problems"]) if not matcher.in_json(item, cohort)]
        )
    kept = drop_rows(table, matcher, cohort)
    if not of_others and kept.num_rows == 0:
        path.unlink()
        return
    if kept.num_rows != table.num_rows or after != meta:
        write_table(kept.replace_schema_metadata(), path, after)


def _rewrite_evaluation(erasure: Erasure, cohort: str) -> None:
    """The cohort's evaluation and metrics without the user; the figures of all are those of the others."""
    from pipeline.runs.evaluate import figures_alone

    project, user = erasure.project, erasure.person.slugs[cohort]
    path = project.evaluation(cohort)
    content = parse_json(path.read_bytes()) if path.is_file() else None
    if not isinstance(content, dict) or not is_evaluation(content):
        path.unlink(missing_ok=True)
        project.metrics(cohort).unlink(missing_ok=True)
        return
    if user in content["users"] or user in content.get("skipped", {}):
        from stages.evaluate import pool

        content["users"].pop(user, None)
        content.setdefault("skipped", {}).pop(user, None)
        write_json(path, {**content, "all": pool(content["users"])})
    figures, metrics = figures_alone(json.loads(path.read_text(encoding="utf-8"))), project.metrics(cohort)
    if not metrics.is_file() or parse_json(metrics.read_bytes()) != figures:
        write_json(metrics, figures)


def _rewrite(erasure: Erasure, path: Path, matcher: Matcher) -> None:
    """A file that still holds the person: cleaned where others need it, else deleted."""
    content = parse_json(path.read_bytes()) if path.suffix == ".json" and not path.name.startswith(".") else None
    cleaned = clean_record(content, matcher)
    if cleaned is not None:
        write_json(path, cleaned)
        return
    if path.name == "skipped.json" and isinstance(content, dict):
        cohort = path.parent.name
        write_json(path, {user: why for user, why in content.items() if not matcher.is_user(user, cohort)})
        return
    project = erasure.project
    for cohort in erasure.person.slugs if path.suffix == ".parquet" else ():
        # of a shard that is not the cohort's any more; those of its shards were rewritten above
        kept = (
            (project.features(cohort), FEATURES),
            (project.transcripts(cohort), TRANSCRIPTS),
            (project.read_outs(cohort), READ_OUTS),
        )
        for folder, schema in kept:
            if path.parent == folder and not path.name.startswith("."):
                _rewrite_table(path, schema, matcher, cohort, {}, of_others=project.cohort(cohort).is_dir())
                return
        if path in (project.labels(cohort), project.second_labels(cohort)):
            return
    if any(path in (project.evaluation(cohort), project.metrics(cohort)) for cohort in erasure.person.slugs):
        return
    path.unlink()


def clean_record(content: Any, matcher: Matcher) -> dict[str, Any] | None:
    """A base adapter's record without the ids of the person's utterances; None where JSON is something else.

    The weights are left: who learned what from whom cannot be taken out of them. They are to be trained again.
    """
    if not is_adapter(content) or content["kind"] != "base":
        return None
    lists = ("train_utterances", "held_out_utterances")
    return {
        key: [name for name in value if not matcher.is_utterance(name)] if key in lists else value
        for key, value in content.items()
    }


def _sweep(folder: Path, matcher: Matcher) -> None:
    """Remove empty folders that are called like the person, halves of atomic writes too."""
    for path in sorted((item for item in folder.rglob("*") if item.is_dir()), reverse=True):
        mine = path.parent.name in matcher.person.slugs and matcher.in_path([path.name], path.parent.name)
        if mine and not any(path.iterdir()):
            path.rmdir()


def _draw_again(erasure: Erasure) -> None:
    """The report's tables and figures without the user, from the others' evaluations."""
    from pipeline.runs.common import Context
    from pipeline.runs.report import read_results
    from stages.report import write_report

    project = erasure.project
    had = project.plots.is_dir()
    shutil.rmtree(project.plots, ignore_errors=True)
    try:
        context = Context.open(project.root)
        cohorts, base = read_results(context)
    except (InputError, ValueError):
        project.summary.unlink(missing_ok=True)  # `dvc repro` makes the report again
        return
    if had or project.summary.is_file():
        write_report(cohorts, base, project.summary, project.plots, context.recordings)
