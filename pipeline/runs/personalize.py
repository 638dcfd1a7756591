"""The ``personalize`` stage: one sparse adapter a user, each trained on a Jetson."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.cluster.session import connect
from pipeline.cluster.work import Failure, Result, run_tasks
from pipeline.progress import progress
from pipeline.runs.base_setup import corpus_of, load_labelled, most_judging
from pipeline.runs.common import Context, Costs, log, tell_failures, worker_threads
from pipeline.runs.keys import personalize_key
from pipeline.runs.recorded import figures_of, recorded, tell_load
from pipeline.tracking.lineage import lineage_tags
from stages.atomic import sha256_bytes, write_json
from stages.errors import InputError


@dataclass(frozen=True)
class Job:
    """One user's training: what it reads and the key of that."""

    user: str
    split: Any  # stages.personalize.UserSplit
    vocabulary: Any
    key: str


def run(context: Context, cohort: str) -> None:
    """Train the adapters that are missing or whose inputs changed; drop the old ones of these, and of users who are gone."""
    with recorded(context, "personalize", cohort, context.settings.personalize.method) as run:
        _run(context, cohort, run)


def _run(context: Context, cohort: str, run: Any) -> None:
    from stages.alignment.adapter import load_base

    project, settings = context.project, context.settings
    base, vocabulary, record = load_base(project.base_adapter)
    jobs, skipped = plan(context, cohort, vocabulary, record)
    folder = project.adapters(cohort)
    folder.mkdir(parents=True, exist_ok=True)
    todo = [job for job in jobs if _key_of(folder / job.user) != job.key]
    # whom training fails has no adapter then: one of before would be judged as if it were of these settings and this base
    standing = {job.user for job in jobs} - {job.user for job in todo}
    for stale in folder.iterdir():
        if stale.is_dir() and stale.name not in standing:
            shutil.rmtree(stale)
    write_json(folder / "skipped.json", skipped)
    log.info("personalize@%s: %d of %d user(s) to train, %d skipped", cohort, len(todo), len(jobs), len(skipped))
    for user, reason in skipped.items():
        log.warning("personalize@%s: %s gets no adapter: %s", cohort, user, reason)
    run.params({"personalize": settings.personalize.model_dump(), "base": record.weights_sha256})
    run.params({"encoder": record.encoder, "llm": record.llm})
    run.metrics({"users": len(jobs), "users_trained": len(todo), "users_skipped": len(skipped)})
    if todo:
        _train(context, cohort, todo, base, record, run)


def plan(context: Context, cohort: str, vocabulary: Any, record: Any) -> tuple[list[Job], dict[str, str]]:
    """Each user's job, and why users are skipped."""
    from stages.examples import by_user
    from stages.features import read_features
    from stages.models.llm import load_tokenizer
    from stages.personalize import split_user

    settings = context.settings.personalize
    tokenizer = load_tokenizer(context.project.llm)
    jobs, skipped = [], {}
    users = by_user(load_labelled(context, [cohort], read_features))
    for user in sorted(set(_users_of(context, cohort)) | set(users)):
        split = split_user(
            users.get(user, []),
            *(settings.train_utterances, settings.min_utterances, settings.seed, most_judging(context, cohort)),
        )
        if isinstance(split, str):
            skipped[user] = split
            continue
        key = personalize_key(
            record.weights_sha256,
            settings.model_dump(),
            context.settings.alignment.embedding_weight,
            [(item.utterance, item.text, sha256_bytes(item.frames.tobytes())) for item in split.train],
            [item.utterance for item in split.held_out],
        )
        grown = vocabulary.grown(tokenizer, [item.text for item in split.train])
        jobs.append(Job(user, split, grown, key))
    return jobs, skipped


def _users_of(context: Context, cohort: str) -> list[str]:
    """Every user of the cohort that has features, labelled or not."""
    from stages.features import read_features

    column = read_features(context.project.features(cohort), ["user"]).column("user")
    return sorted(set(column.to_pylist()))


def _key_of(folder: Path) -> str | None:
    from stages.alignment.adapter import read_record, read_tensors

    try:
        record = read_record(folder)
        read_tensors(folder, record)  # a folder whose weights are broken is trained again
    except InputError:
        return None
    return record.settings.get("key")


def _train(context: Context, cohort: str, todo: list[Job], base: Any, base_record: Any, run: Any) -> None:
    from pipeline.runs.configs import personal_config
    from pipeline.runs.memory import plan_all, work_of
    from stages.alignment.memory_plan import MemoryPlan
    from stages.models.llm import embedding_rows, load_tokenizer
    from stages.personalize import train_user

    settings = context.settings
    tokenizer = load_tokenizer(context.project.llm)
    config = personal_config(settings)
    weights = {name: value.detach().numpy() for name, value in base.state_dict().items()}
    costs = Costs()
    inputs = [
        (
            embedding_rows(context.project.llm, job.vocabulary.ids).numpy(),
            corpus_of(job.split.train, job.vocabulary, tokenizer),
        )
        for job in todo
    ]
    works = [work_of("personal", base.config, config.batch_size, *both) for both in inputs]
    with (
        connect(context.project, settings) as session,
        progress(f"personalize@{cohort}", len(todo), "users") as advance,
    ):
        plans, placement = plan_all(works, session.nodes())
        fitting = [(index, plan) for index, plan in enumerate(plans) if isinstance(plan, MemoryPlan)]
        failures = [
            Failure(index, f"{cohort}/{todo[index].user}", str(plan))
            for index, plan in enumerate(plans)
            if not isinstance(plan, MemoryPlan)
        ]
        arguments = []
        for index, plan in fitting:
            mine = replace(config, micro_batch=plan.micro_setting, score_batch=plan.score_batch)
            arguments.append((weights, base.config, *inputs[index], mine, worker_threads()))
        _tell_plans(cohort, [plan for _, plan in fitting], run)

        def done(place: int, result: Result) -> None:
            index, plan = fitting[place]
            costs.add(result)
            _keep(context, cohort, todo[index], result, base_record, run, plan)
            advance(1)

        lost = run_tasks(
            session,
            train_user,
            arguments,
            placement,
            retries=settings.ray.task_retries,
            on_result=done,
            describe=lambda place: f"{cohort}/{todo[fitting[place][0]].user}",
        )
        failures += [replace(failure, index=fitting[failure.index][0]) for failure in lost]
    run.metrics(costs.metrics())
    run.tags(costs.tags())
    _show_curves(context, cohort, run)
    for failure in failures:
        with run.child(f"personalize@{cohort}", user=todo[failure.index].user) as child:
            child.failed(failure.message)
    tell_failures(f"personalize@{cohort}", failures, len(todo))


def _tell_plans(cohort: str, plans: list[Any], run: Any) -> None:
    """The stage's log and run get the user that takes most; each user's run has its own."""
    if plans:
        largest = max(plans, key=lambda plan: plan.planned_bytes)
        log.info("personalize@%s: memory planned a user: %s", cohort, largest.describe())
        run.params(largest.params())


def _show_curves(context: Context, cohort: str, run: Any) -> None:
    """The learning curves of all users of the cohort, as a figure and, with their names, as a table."""
    from stages.alignment.record import read_record
    from stages.plots import draw_personal_curves
    from stages.report import write_csvs

    users = {
        path.parent.name: {"curve": (read_record(path.parent).metrics.get("curve") or {}).get("loss") or []}
        for path in sorted(context.project.adapters(cohort).glob("*/adapter.json"))
    }
    cohorts = {cohort: {"users": users}}
    with figures_of(context, run) as folder:
        if draw_personal_curves(cohorts, folder / "personal_curves.png"):
            write_csvs(cohorts, {}, folder)
            for file in ("personal_curves.png", "personal_curves.csv"):
                run.artifact(folder / file, "figures")


def _keep(context: Context, cohort: str, job: Job, result: Result, base_record: Any, run: Any, plan: Any) -> None:
    """Write one user's adapter and record it."""
    from stages.alignment.adapter import AdapterRecord, save

    trained, settings = result.value, context.settings
    lines = lineage_tags(context.project.root)
    folder = context.project.adapters(cohort) / job.user
    metrics = {
        "train_seconds": trained.seconds,
        "utterances": len(job.split.train),
        "trainable_parameters": trained.trainable_parameters,
        "density": trained.density,
        "peak_rss_bytes": result.peak_rss_bytes,
        "bytes_exchanged": 0,
        "curve": {"loss": [[step, loss] for step, loss in trained.curve]},
    }
    record = AdapterRecord(
        kind="personal",
        method=settings.personalize.method,
        bridge=base_record.bridge,
        encoder=base_record.encoder,
        llm=base_record.llm,
        vocabulary=list(job.vocabulary.ids),
        base_sha256=base_record.weights_sha256,
        cohort=cohort,
        user=job.user,
        train_utterances=[item.utterance for item in job.split.train],
        held_out_utterances=[item.utterance for item in job.split.held_out],
        data_md5=lines.get("data_md5"),
        git_commit=lines.get("git_commit"),
        settings={"personalize": settings.personalize.model_dump(), "key": job.key},
        device={"node": result.node.name, "kind": result.node.kind, "model": result.node.model},
        metrics=metrics,
    )
    save(folder, trained.tensors, record)
    with run.child(
        f"personalize@{cohort}", user=job.user, device=result.node.model, device_kind=result.node.kind, key=job.key
    ) as child:
        child.lasted(result.seconds)
        child.params({**run.record.params, **plan.params()})
        child.metrics({name: value for name, value in metrics.items() if name != "curve"})
        child.metrics({"adapter_bytes": (folder / "adapter.safetensors").stat().st_size})
        child.curve("loss", trained.curve)
        tell_load(child, result)
        child.dataset(f"{cohort}/{job.user}", job.key[:32], context.project.cohort(cohort).name)
        child.adapter(folder, f"{cohort}/{job.user}", settings.features.padding_s)
