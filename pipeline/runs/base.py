"""The ``base`` stage: train the base adapter on a Jetson, one epoch a task, resumable."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cluster.placement import Placement
from pipeline.cluster.session import Session, connect
from pipeline.cluster.work import Result, run_tasks
from pipeline.progress import progress
from pipeline.runs.common import Context, Costs, log, tell_failures, worker_threads
from pipeline.runs.recorded import figures_of, recorded, tell_load, timed_curve
from pipeline.tracking.lineage import lineage_tags
from stages.atomic import atomic_path, sha256_file, sha256_json
from stages.errors import ClusterError, InputError

Curve = dict[str, list[list[Any]]]
"""loss: [epoch, loss]; dev_wer: [epoch, seconds of training, WER or None where nothing was judged]."""

BASE_VERSION = 1  # raise when the same inputs would train another adapter


@dataclass
class Best:
    """The best epoch so far."""

    wer: float | None = None
    epoch: int = 0
    state: dict[str, np.ndarray] | None = None


def run(context: Context) -> None:
    """Train the base adapter on the base cohorts and write it with its record."""
    with recorded(context, "base", method=context.settings.alignment.method) as run:
        _run(context, run)


def _run(context: Context, run: Any) -> None:
    project, settings = context.project, context.settings
    setup, facts = prepare(context)
    key = sha256_json([BASE_VERSION, sha256_file(project.base_inputs), facts, settings.base.model_dump()])
    checkpoint = project.private / "checkpoints" / f"base-{key[:16]}.safetensors"
    epochs = settings.base.epochs
    costs, best = Costs(), Best()
    curve: Curve = {"loss": [], "dev_wer": []}
    # MLflow's parameters cannot be taken back: they name no user, so that erasing one leaves this run as it is
    told = {name: value for name, value in facts.items() if name not in ("vocabulary", "held_out_users")}
    run.params({"base": settings.base.model_dump(), **told, "users_held_out": len(facts["held_out_users"])})
    state = _resume(checkpoint, curve, best)
    with connect(project, settings) as session, progress("base", epochs, "epochs") as advance:
        setup, placement = _planned(setup, session, run)
        exchanged = 0
        if settings.base.workers > 1:
            exchanged = _in_parallel(context, session, setup, placement, costs, curve, best, advance)
        else:
            _by_epochs(context, session, setup, placement, (costs, run), (checkpoint, state), curve, best, advance)
    metrics = {
        "dev_wer": best.wer,
        "epoch": best.epoch,
        "train_seconds": curve["dev_wer"][-1][1],
        "utterances": len(setup.training.utterances),
        "peak_rss_bytes": costs.peak_rss_bytes,
        "bytes_exchanged": exchanged,
        "curve": curve,
    }
    assert best.state is not None  # at least one epoch ran: epochs >= 1 by the settings' check
    _write(context, setup, best.state, facts, metrics, costs)
    # "dev_wer" is a curve whose last point need not be the best
    run.metrics({name: value for name, value in metrics.items() if name not in ("curve", "dev_wer")})
    run.metrics({"best_dev_wer": best.wer})
    timed = [(int(step), seconds, wer) for step, seconds, wer in curve["dev_wer"]]
    timed_curve(run, "dev_wer", timed)
    timed_curve(run, "loss", [(int(step), timed[place][1], loss) for place, (step, loss) in enumerate(curve["loss"])])
    run.metrics(costs.metrics())
    run.tags(costs.tags())
    _show_curve(context, metrics, run)
    run.adapter(project.base_adapter, "base", settings.features.padding_s)
    checkpoint.unlink(missing_ok=True)


def _by_epochs(
    context: Context,
    session: Session,
    setup: Any,
    placement: Placement,
    told: tuple[Costs, Any],
    begun: tuple[Path, dict[str, np.ndarray] | None],
    curve: Curve,
    best: Best,
    advance: Callable[[int], None],
) -> None:
    """One epoch after another on a device, from the last checkpoint on; fills ``curve`` and ``best``."""
    from stages.base import run_epoch

    (costs, run), (checkpoint, state) = told, begun
    advance(len(curve["loss"]))
    for _ in range(len(curve["loss"]), context.settings.base.epochs):
        outcome = _one_epoch(session, context, run_epoch, (setup, state, worker_threads()), placement, costs, run)
        state = outcome.state
        curve["loss"].append([outcome.epoch, outcome.loss])
        curve["dev_wer"].append([outcome.epoch, outcome.seconds, outcome.dev_wer])
        if best.wer is None or outcome.dev_wer is None or outcome.dev_wer < best.wer:
            best.wer, best.epoch, best.state = outcome.dev_wer, outcome.epoch, state
        _save_checkpoint(checkpoint, outcome.state, curve, best)
        advance(1)
        _tell_epoch(outcome)


def _in_parallel(
    context: Context,
    session: Session,
    setup: Any,
    placement: Placement,
    costs: Costs,
    curve: Curve,
    best: Best,
    advance: Callable[[int], None],
) -> int:
    """All epochs on several devices; fills ``curve`` and ``best``, gives the bytes that crossed the network as updates."""
    from pipeline.runs.base_parallel import train_base

    settings = context.settings
    retries = settings.ray.task_retries
    found = train_base(session, setup, settings.base, placement, costs, retries=retries, advance=advance)
    for epoch, seconds, loss in found.losses:
        curve["loss"].append([epoch, loss])
        curve["dev_wer"].append([epoch, seconds, None if epoch < settings.base.epochs else found.dev_wer])
    best.wer, best.epoch, best.state = found.dev_wer, settings.base.epochs, found.state
    return found.sent_bytes


def _planned(setup: Any, session: Session, run: Any) -> tuple[Any, Placement]:
    """The setup with batches that fit into a device's memory, and what it asks of one. Raises ClusterError where none does."""
    from pipeline.runs.memory import plan_all, work_of

    work = work_of("base", setup.bridge, setup.train.batch_size, setup.rows, setup.training, setup.held_out)
    [plan], placement = plan_all([work], session.nodes())
    if isinstance(plan, ClusterError):
        raise ClusterError(f"base: {plan}")
    log.info("base: memory planned: %s", plan.describe())
    run.params(plan.params())
    train = replace(setup.train, micro_batch=plan.micro_setting)
    return replace(setup, train=train, read_batch=plan.read_batch), placement


def _show_curve(context: Context, metrics: dict[str, Any], run: Any) -> None:
    from stages.plots import draw_base_curve

    with figures_of(context, run) as folder:
        path = folder / "base_curve.png"
        if draw_base_curve({"metrics": metrics}, path):
            run.artifact(path, "figures")


def prepare(context: Context) -> tuple[Any, dict[str, Any]]:
    """The setup of the training and the facts that it stands on. Raises InputError where there is nothing to learn."""
    from pipeline.runs.configs import bridge_config, train_config
    from stages.alignment.splits import hold_out_users
    from stages.alignment.vocabulary import Vocabulary
    from stages.base import BaseSetup
    from stages.features import read_features
    from stages.models.identity import read_identity
    from stages.models.llm import embedding_rows, load_tokenizer

    project, settings = context.project, context.settings
    encoder, llm = read_identity(project.encoder), read_identity(project.llm)
    tokenizer = load_tokenizer(project.llm)
    labelled = load_labelled(context, settings.base_cohorts, read_features, use="base")
    if not labelled:
        raise InputError("base: no utterance of the base cohorts has both features and an accepted label")
    users = {f"{item.cohort}/{item.user}" for item in labelled}
    held_out = hold_out_users(users, settings.base.dev_users, settings.base.seed)
    training = [item for item in labelled if f"{item.cohort}/{item.user}" not in held_out]
    # rows come from the training texts alone: a word that only held-out users say counts as an error, as it would in use
    vocabulary = Vocabulary.of_texts(tokenizer, [item.text for item in training])
    known = set(vocabulary.ids)
    dev = [item for item in labelled if f"{item.cohort}/{item.user}" in held_out]
    setup = BaseSetup(
        bridge=bridge_config(settings, encoder.width, llm.width),
        train=train_config(settings),
        training=corpus_of(training, vocabulary, tokenizer),
        held_out=corpus_of(dev, vocabulary, tokenizer, with_targets=False),
        rows=embedding_rows(project.llm, vocabulary.ids).numpy(),
        tokens=[tokenizer.decode([token]) for token in vocabulary.ids],
    )
    facts = {
        "encoder": str(encoder),
        "llm": str(llm),
        "vocabulary_size": len(known),
        "training_users": len(users) - len(held_out),
        "held_out_users": sorted(held_out),
        "alignment": settings.alignment.model_dump(),
    }
    log.info(
        "base: %d utterances of %d users train, %d of %d users judge, %d rows of the embedding table",
        len(training),
        len(users) - len(held_out),
        len(dev),
        len(held_out),
        len(vocabulary),
    )
    return setup, {**facts, "vocabulary": list(vocabulary.ids)}


def load_labelled(context: Context, cohorts: list[str], read_features: Any, use: str = "personal") -> list[Any]:
    """Every utterance of ``cohorts`` with features and an accepted label that the user's consent allows for ``use``.

    The base learns from the first labels, as it is the second teacher itself; personal adapters from the second ones.
    """
    from stages.examples import join
    from stages.schema import LABELS, read_table

    found = []
    for cohort in cohorts:
        path = context.project.labels(cohort) if use == "base" else context.project.second_labels(cohort)
        labels = read_table(path, LABELS)
        found += join(read_features(context.project.features(cohort)), labels, use)
    return found


def corpus_of(items: list[Any], vocabulary: Any, tokenizer: Any, with_targets: bool = True) -> Any:
    """Labelled utterances as arrays for a worker; without targets where they only judge."""
    from stages.base import Corpus

    empty = np.zeros(0, dtype=np.int64)
    return Corpus(
        [item.utterance for item in items],
        [item.text for item in items],
        [item.frames for item in items],
        [vocabulary.rows_of(tokenizer, item.text).numpy() if with_targets else empty for item in items],
        [f"{item.cohort}/{item.user}" for item in items],
    )


def _one_epoch(
    session: Session,
    context: Context,
    function: Any,
    arguments: tuple[Any, ...],
    placement: Placement,
    costs: Costs,
    run: Any,
) -> Any:
    found: list[Any] = []

    def done(index: int, result: Result) -> None:
        costs.add(result)
        tell_load(run, result, figures=False)  # the sums are the run's
        found.append(result.value)

    failures = run_tasks(
        session,
        function,
        [arguments],
        placement,
        retries=context.settings.ray.task_retries,
        on_result=done,
        describe=lambda index: "one epoch of the base",
    )
    tell_failures("base", failures, 1)
    return found[0]


def _tell_epoch(outcome: Any) -> None:
    wer = "" if outcome.dev_wer is None else f", WER on held-out users {outcome.dev_wer:.3f}"
    log.info("base: epoch %d, loss %.3f%s, %.0f s of training", outcome.epoch, outcome.loss, wer, outcome.seconds)


def _save_checkpoint(path: Path, state: dict[str, np.ndarray], curve: Curve, best: Best) -> None:
    import json

    from safetensors.numpy import save_file

    tensors = {f"state.{name}": value for name, value in state.items()}
    if best.epoch != len(curve["loss"]) and best.state is not None:
        tensors |= {f"best.{name}": value for name, value in best.state.items() if name.startswith("bridge.")}
    note = json.dumps({"curve": curve, "wer": best.wer, "epoch": best.epoch})
    with atomic_path(path) as temporary:
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, temporary, {"note": note})


def _resume(path: Path, curve: Curve, best: Best) -> dict[str, np.ndarray] | None:
    """The last checkpoint's state; fills ``curve`` and ``best``. None where there is none that can be read."""
    import json

    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as file:
            note = json.loads(file.metadata()["note"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping: keys() is its API)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        logging.getLogger("edgealign").warning("base: %s cannot be read (%s): starting over", path, error)
        return None
    state = {name[6:]: value for name, value in tensors.items() if name.startswith("state.")}
    kept = {name[5:]: value for name, value in tensors.items() if name.startswith("best.")}
    curve.update(note["curve"])
    best.wer, best.epoch, best.state = note["wer"], note["epoch"], kept or state
    log.info("base: going on after epoch %d", len(curve["loss"]))
    return state


def _write(
    context: Context,
    setup: Any,
    state: dict[str, np.ndarray],
    facts: dict[str, Any],
    metrics: dict[str, Any],
    costs: Costs,
) -> None:
    import torch

    from stages.alignment.adapter import AdapterRecord, save_base
    from stages.alignment.bridgeformer import BridgeFormer

    bridge = BridgeFormer(setup.bridge)
    bridge.load_state_dict(
        {name[7:]: torch.from_numpy(np.array(value)) for name, value in state.items() if name.startswith("bridge.")}
    )
    lines = lineage_tags(context.project.root)
    metrics["trainable_parameters"] = sum(parameter.numel() for parameter in bridge.parameters())
    record = AdapterRecord(
        kind="base",
        method=context.settings.alignment.method,
        bridge=setup.bridge.to_json(),
        encoder=facts["encoder"],
        llm=facts["llm"],
        vocabulary=facts["vocabulary"],
        train_utterances=setup.training.utterances,
        held_out_utterances=setup.held_out.utterances,
        data_md5=lines.get("data_md5"),
        git_commit=lines.get("git_commit"),
        settings={"base": context.settings.base.model_dump(), "alignment": context.settings.alignment.model_dump()},
        device={"nodes": sorted(costs.nodes), "kinds": sorted(costs.kinds)},
        metrics=metrics,
    )
    save_base(context.project.base_adapter, bridge, record)
    metrics["adapter_bytes"] = (context.project.base_adapter / "adapter.safetensors").stat().st_size
