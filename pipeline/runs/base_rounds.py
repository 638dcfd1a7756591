"""The second round of a base ("noisy student", Xie et al., CVPR 2020): what it learned teaches the next one.

After a training the base is the second teacher for the utterances that nobody transcribed. What it and the transcriber agree on
replaces the transcriber's own labels, and the next training begins anew with those; masks and dropout are its noise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.cluster.placement import Placement
from pipeline.cluster.session import Session
from pipeline.cluster.work import Result, run_tasks
from pipeline.runs.base_setup import Split
from pipeline.runs.common import Context, Costs, log, tell_failures, worker_threads
from stages.atomic import sha256_json


@dataclass(frozen=True)
class Lesson:
    """What one round learns from."""

    training: list[Any]  # stages.examples.LabelledUtterance
    told: dict[str, Any]  # what was accepted, in numbers, for adapter.json and MLflow

    @property
    def digest(self) -> str:
        """SHA-256 of every text that is learned."""
        return sha256_json([[item.cohort, item.utterance, item.text] for item in self.training])


def lesson_of(training: Sequence[Any], **more: Any) -> Lesson:
    """The lesson with how many labels of each source it has."""
    counts = Counter(item.source for item in training)
    return Lesson(list(training), {"human": counts["human"], "pseudo": counts["pseudo"], **more})


@dataclass(frozen=True)
class Untold:
    """The base cohorts' labels without the people who judge, and the utterances in them to ask the base about."""

    features: dict[str, Any]  # {cohort: pa.Table}
    labels: dict[str, Any]
    frames: dict[tuple[str, str], Any]  # {(cohort, utterance): (T, F)}


def untold_of(context: Context, held_out: frozenset[str]) -> Untold:
    """What the base may be asked about: nothing of the people who judge, nothing that may not train a base."""
    import pyarrow as pa

    from stages.features import frames_of, read_features
    from stages.schema import LABELS, read_table
    from stages.second_labels import asked_of

    found = Untold({}, {}, {})
    for cohort in context.settings.base_cohorts:
        table = read_table(context.project.labels(cohort), LABELS)
        mine = [
            row["scope"] == "all" and f"{cohort}/{row['user']}" not in held_out
            for row in table.select(["user", "scope"]).to_pylist()
        ]
        labels = table.filter(pa.array(mine, pa.bool_()))
        features = read_features(context.project.features(cohort))
        asked = asked_of(labels)
        wanted = pa.array([name in asked for name in features.column("utterance").to_pylist()], pa.bool_())
        for row in features.filter(wanted).to_pylist():
            found.frames[cohort, row["utterance"]] = frames_of(row)
        found.features[cohort], found.labels[cohort] = features, labels
    return found


def next_lesson(
    context: Context,
    session: Session,
    setup: Any,
    state: dict[str, Any],
    split: Split,
    before: Lesson,
    costs: Costs,
) -> Lesson | None:
    """What the next round learns from, by the base in ``state``; None, and the log says why, where it would be nothing new."""
    from pipeline.runs.configs import agreement_rules
    from pipeline.runs.second_labels import languages_of, tell_unknown
    from stages.examples import join
    from stages.models.llm import load_tokenizer
    from stages.second_labels import can_spell, kind_of, second_labels

    untold = untold_of(context, split.held_out)
    if not untold.frames:
        log.info(
            "base: people transcribed every utterance that trains: another round would learn the same, there is none"
        )
        return None
    read = _read(context, session, setup, state, untold, costs)
    rules, training = agreement_rules(context.settings), []
    spells = can_spell(setup.tokens, load_tokenizer(context.project.llm))
    users = context.settings.pseudo_labels.unknown_word_users
    rejected: Counter[str] = Counter()
    compared, alike = 0, 0
    for cohort, labels in untold.labels.items():
        heard = {name: told for (where, name), told in read.items() if where == cohort}
        found = second_labels(labels, heard, "base", languages_of(context, cohort), rules, spells, users)
        tell_unknown("base", cohort, found.unknown)
        compared, alike = compared + found.compared, alike + found.alike
        rows = found.table.select(["accepted", "reason"]).to_pylist()
        rejected.update(kind_of(row["reason"]) for row in rows if not row["accepted"])
        joined = join(untold.features[cohort], found.table, "base")
        training += [item for item in joined if (item.cohort, item.utterance) not in split.reserved]
    lesson = lesson_of(training, compared=compared, agreed=alike, rejected=dict(sorted(rejected.items())))
    log.info(
        "base: the teachers agree in %d of %d utterance(s); the next round learns %d human and %d pseudo labels",
        *(alike, compared, lesson.told["human"], lesson.told["pseudo"]),
    )
    if not training:
        log.warning("base: nothing is left to learn from in another round: the one before stands")
        return None
    if lesson.digest == before.digest:
        log.info("base: another round would learn the very same labels: there is none")
        return None
    return lesson


def _read(
    context: Context, session: Session, setup: Any, state: dict[str, Any], untold: Untold, costs: Costs
) -> dict[tuple[str, str], tuple[str, float]]:
    """What the base in ``state`` reads, on a device, in batches that fit into it."""
    from pipeline.runs.memory import plan_all, work_of
    from stages.alignment.memory_plan import MemoryPlan
    from stages.base import Corpus
    from stages.second_labels import AdapterTeacher, read_frames

    names, frames = list(untold.frames), list(untold.frames.values())
    asked = Corpus([name for _, name in names], [""] * len(names), frames, [])
    [plan], placement = plan_all(
        [work_of("base", setup.bridge, setup.train.batch_size, setup.rows, setup.training, asked)], session.nodes()
    )
    batch = plan.read_batch if isinstance(plan, MemoryPlan) else 1
    weights = {name[7:]: value for name, value in state.items() if name.startswith("bridge.")}
    teacher = AdapterTeacher("base", setup.bridge, weights, setup.rows, setup.tokens)
    texts = _on_a_device(context, session, placement, (teacher, frames, batch), costs, read_frames)
    return dict(zip(names, texts, strict=True))


def _on_a_device(
    context: Context, session: Session, placement: Placement, arguments: tuple[Any, ...], costs: Costs, function: Any
) -> list[Any]:
    found: list[Any] = []

    def done(index: int, result: Result) -> None:
        costs.add(result)
        found.extend(result.value)

    failures = run_tasks(
        session,
        function,
        [(*arguments, worker_threads())],
        placement,
        retries=context.settings.ray.task_retries,
        on_result=done,
        describe=lambda index: "reading what nobody transcribed",
    )
    tell_failures("base", failures, 1)
    return found
