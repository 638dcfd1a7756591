"""The ``pseudo_labels`` stage: a text for every utterance that deserves one, on Ray over the shards.

Transcribing is dear and depends on the audio; the rules are cheap and may be turned: transcripts are kept a shard, the
labels are made from them anew each time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.cluster.shipping import Shipment
from pipeline.runs.common import Context, log, pending_shards
from pipeline.runs.over_shards import over_shards
from pipeline.runs.recorded import recorded
from stages.atomic import sha256_file
from stages.errors import InputError
from stages.schema import LABELS, write_table


class TranscriptWorker:
    """Loads the transcriber once, then transcribes one shard after another. Runs on any node."""

    def __init__(self, model: str, beam_size: int, threads: int, prompt: str) -> None:
        from stages.models.prepare import prepare_transcriber
        from stages.pseudo_labels import Transcriber

        # the name, not the folder: another node finds the package in its own environment
        self.transcriber = Transcriber(prepare_transcriber(model), beam_size, threads, prompt)

    def work(self, shard: Shipment, told_too: bool, advance: Callable[[int], None] | None = None) -> Any:
        """One shard -> its transcripts."""
        from stages.pseudo_labels import transcribe_shard

        return transcribe_shard(shard.unpack(), self.transcriber, told_too, advance)


def run(context: Context, cohort: str) -> None:
    """Transcribe the cohort's new shards and write the labels of all."""
    with recorded(context, "pseudo_labels", cohort) as run:
        _run(context, cohort, run)


def _run(context: Context, cohort: str, run: Any) -> None:
    import pyarrow as pa

    from stages.models.prepare import locate_transcriber
    from stages.pseudo_labels import Rules, label_table, transcriber_identity, transcripts_key

    settings = context.settings.pseudo_labels
    rules = Rules(
        min_confidence=settings.min_confidence,
        max_no_speech=settings.max_no_speech,
        max_words_per_second=settings.max_words_per_second,
    )
    shards = context.shards(cohort)
    folder = context.project.transcripts(cohort)
    teacher = transcriber_identity(locate_transcriber(context.settings.models.transcriber))
    told_too = cohort not in settings.untold_only
    told = (teacher, settings.beam_size, told_too, settings.prompt)
    keys = {shard: transcripts_key(sha256_file(shard), *told) for shard in shards}
    todo = pending_shards(folder, keys)
    log.info("pseudo_labels@%s: %d of %d shard(s) to transcribe", cohort, len(todo), len(shards))
    run.params({"pseudo_labels": settings.model_dump(), "transcriber": context.settings.models.transcriber})
    run.tags({"transcriber": teacher})
    run.metrics({"shards": len(shards), "shards_computed": len(todo)})
    if todo:
        _transcribe(context, cohort, todo, keys, teacher, run)
    tables = []
    for shard in shards:
        transcripts = folder / f"{shard.stem}.parquet"
        if transcripts.is_file():
            tables.append(label_table(shard, transcripts, rules))
            continue
        try:  # its work failed, and was told; what people transcribed is a label all the same
            tables.append(label_table(shard, None, rules))
        except InputError as error:  # and may have failed since nobody can read the shard
            log.warning("pseudo_labels@%s: no labels of %s: %s", cohort, shard.name, error)
    table = pa.concat_tables(tables) if tables else LABELS.empty_table()
    table = table.sort_by("utterance")
    write_table(table, context.project.labels(cohort))
    tell_labels(f"pseudo_labels@{cohort}", table, run)


def _transcribe(context: Context, cohort: str, todo: list[Path], keys: dict[Path, str], teacher: str, run: Any) -> None:
    settings = context.settings.pseudo_labels

    def keep(shard: Path, table: Any, problems: list[Any]) -> None:
        made_from = {"key": keys[shard], "transcriber": teacher}
        write_table(table, context.project.transcripts(cohort) / f"{shard.stem}.parquet", made_from)

    loaded = (context.settings.models.transcriber, settings.beam_size, 1, settings.prompt)
    stage, told_too = f"pseudo_labels@{cohort}", cohort not in settings.untold_only
    over_shards(context, stage, todo, TranscriptWorker, loaded, told_too, settings.workers, keep, run)


def tell_labels(stage: str, table: Any, run: Any) -> None:
    """How many labels of each kind there are, and why others were rejected: to the log and the run."""
    rows = table.select(["source", "accepted", "reason"]).to_pylist()
    human = sum(row["source"] == "human" and row["accepted"] for row in rows)
    pseudo = sum(row["source"] == "pseudo" and row["accepted"] for row in rows)
    reasons: dict[str, int] = {}
    for row in rows:
        if not row["accepted"]:
            reason = row["reason"].split(":")[0]
            reasons[reason] = reasons.get(reason, 0) + 1
    run.metrics({"human": human, "pseudo_accepted": pseudo, "rejected": sum(reasons.values())})
    run.metrics({f"rejected.{reason.replace(' ', '_')}": count for reason, count in reasons.items()})
    run.tags({f"rejected.{reason}": count for reason, count in reasons.items()})
    log.info(
        "%s: %d human, %d pseudo accepted, %d rejected%s",
        stage,
        human,
        pseudo,
        sum(reasons.values()),
        "".join(f"; {reason}: {count}" for reason, count in sorted(reasons.items())),
    )
