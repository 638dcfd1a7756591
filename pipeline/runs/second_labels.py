"""The ``second_labels`` stage: the base adapter as a second teacher, on Ray over the shards' features.

Reading follows from the adapter and the frames and is kept a shard; the rules are cheap and may be turned: labels are made
anew each time. A cohort that people transcribed asks nobody, and no cluster is started for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.cluster.shipping import Shipment
from pipeline.runs.common import Context, log, pending_shards
from pipeline.runs.over_shards import over_shards
from pipeline.runs.pseudo_labels import tell_labels
from pipeline.runs.recorded import recorded
from stages.atomic import sha256_file
from stages.errors import InputError
from stages.schema import LABELS, READ_OUTS, read_metadata, read_table, write_table


class ReadOutWorker:
    """Holds the adapter, then reads one shard's features after another. Runs on any node."""

    def __init__(self, teacher: Any, threads: int) -> None:
        from stages.second_labels import Reader

        self.reader = Reader(teacher, threads)

    def work(self, features: Shipment, asked: frozenset[str], advance: Callable[[int], None] | None = None) -> Any:
        """One shard's features -> what the adapter reads in them."""
        from stages.second_labels import read_shard

        return read_shard(features.unpack(), asked, self.reader, advance)


def run(context: Context, cohort: str) -> None:
    """Read what is new of the cohort's utterances without a human transcript, and write the labels of all."""
    with recorded(context, "second_labels", cohort) as run:
        _run(context, cohort, run)


def _run(context: Context, cohort: str, run: Any) -> None:
    from pipeline.runs.configs import agreement_rules
    from stages.models.llm import load_tokenizer
    from stages.second_labels import asked_of, can_spell, second_labels

    project, settings = context.project, context.settings.pseudo_labels
    stage = f"second_labels@{cohort}"
    labels = read_table(project.labels(cohort), LABELS)
    project.read_outs(cohort).mkdir(parents=True, exist_ok=True)
    asked = asked_of(labels) if settings.agreement else set()
    run.metrics({"utterances_asked": len(asked)})
    if asked:
        teacher, read = _read(context, cohort, asked, run)
        rules, languages = agreement_rules(context.settings), languages_of(context, cohort)
        spells = can_spell(teacher.tokens, load_tokenizer(project.llm))
        found = second_labels(labels, read, teacher.name, languages, rules, spells, settings.unknown_word_users)
        labels = found.table
        run.params({"second_teacher": teacher.name})
        run.metrics({"compared": found.compared, "agreed": found.alike, "unknown_words": len(found.unknown)})
        tell_unknown(stage, cohort, found.unknown)
        if found.compared:
            run.metrics({"agreement_share": found.alike / found.compared})
        log.info("%s: the teachers agree in %d of %d utterance(s)", stage, found.alike, found.compared)
    elif settings.agreement:
        log.info("%s: no utterance without a human transcript may train: nothing to ask the base adapter", stage)
    else:
        log.info("%s: pseudo_labels.agreement is false: the transcriber's labels stand as they are", stage)
    write_table(labels.replace_schema_metadata(), project.second_labels(cohort))
    tell_labels(stage, labels, run)


def tell_unknown(stage: str, cohort: str, words: frozenset[str]) -> None:
    """Say which words the adapter learns from the transcriber alone."""
    if words:
        told = ", ".join(sorted(words))
        log.info(
            "%s: many users of %s say words that the adapter cannot spell, taken from Whisper: %s", stage, cohort, told
        )


def languages_of(context: Context, cohort: str) -> dict[str, str]:
    """{utterance: language} of everything in the cohort now."""
    from pipeline.cohorts.index import read_index

    columns = read_index(context.project.cohort(cohort)).select(["utterance", "language"]).to_pydict()
    return dict(zip(columns["utterance"], columns["language"], strict=True))


def _read(context: Context, cohort: str, asked: set[str], run: Any) -> tuple[Any, dict[str, tuple[str, float]]]:
    """(the AdapterTeacher, what it reads by utterance); only what is not kept from before is read."""
    from stages.second_labels import AdapterTeacher, read_outs_key

    project = context.project
    teacher = AdapterTeacher.load(project.base_adapter, project.llm)
    shards = sorted(project.features(cohort).glob("*.parquet"))
    if not shards:
        raise InputError(f"{project.features(cohort)}: no features there. Run `dvc repro features@{cohort}`.")
    folder = project.read_outs(cohort)
    of_shard = {shard: _asked_of(shard, asked) for shard in shards}
    keys = {shard: read_outs_key(teacher.name, _key_of(shard), of_shard[shard]) for shard in shards}

    def keep(shard: Path, table: Any, problems: list[Any] | None = None) -> None:
        write_table(table, folder / shard.name, {"key": keys[shard], "teacher": teacher.name})

    pending = pending_shards(folder, keys)
    todo = {shard: len(of_shard[shard]) for shard in pending if of_shard[shard]}
    for shard in pending:
        if shard not in todo:
            keep(shard, READ_OUTS.empty_table())
    log.info("second_labels@%s: %d of %d shard(s) to read", cohort, len(todo), len(shards))
    run.metrics({"shards": len(shards), "shards_computed": len(todo)})
    if todo:
        workers, total = context.settings.pseudo_labels.workers, sum(todo.values())
        stage, loaded, names = f"second_labels@{cohort}", (teacher, 1), frozenset(asked)
        over_shards(context, stage, list(todo), ReadOutWorker, loaded, names, workers, keep, run, total)
    read = {}
    for shard in shards:
        if (folder / shard.name).is_file():  # else it failed, and was told
            for row in read_table(folder / shard.name, READ_OUTS).to_pylist():
                read[row["utterance"]] = (row["text"], row["score"])
    return teacher, read


def _key_of(features: Path) -> str:
    """What a shard's features follow from."""
    return read_metadata(features).get("key") or sha256_file(features)


def _asked_of(features: Path, asked: set[str]) -> set[str]:
    """Those of a shard's utterances that are asked about."""
    import pyarrow.parquet as parquet

    return asked.intersection(parquet.read_table(features, columns=["utterance"])[0].to_pylist())
