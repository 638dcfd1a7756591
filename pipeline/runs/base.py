"""The ``base`` stage: train the base adapter on a Jetson, one epoch a task, resumable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cluster.placement import Placement
from pipeline.cluster.session import Session, connect
from pipeline.cluster.work import Result, run_tasks
from pipeline.progress import progress
from pipeline.runs.base_checkpoint import Best, Curve, resume, save_checkpoint
from pipeline.runs.base_rounds import Lesson, lesson_of, next_lesson
from pipeline.runs.base_setup import Split, prepare, prepare_speller, split_people
from pipeline.runs.common import Context, Costs, log, tell_failures, worker_threads
from pipeline.runs.recorded import figures_of, recorded, tell_load, timed_curve
from pipeline.tracking.lineage import lineage_tags
from stages.atomic import sha256_file, sha256_json
from stages.errors import ClusterError

BASE_VERSION = 1  # raise when the same inputs would train another adapter
SPELLER_VERSION = 1  # the same for its speller


@dataclass
class Round:
    """One training from random weights, of a base or of its speller."""

    number: int
    lesson: Lesson
    setup: Any  # stages.base.BaseSetup
    facts: dict[str, Any]
    checkpoint: Path
    curve: Curve = field(default_factory=lambda: {"loss": [], "dev_wer": []})
    best: Best = field(default_factory=Best)
    exchanged_bytes: int = 0
    of: str = "base"

    @property
    def prefix(self) -> str:
        """Of what MLflow is told of it."""
        return "" if self.of == "base" else f"{self.of}_"

    @property
    def seconds(self) -> float:
        """Of training."""
        return float(self.curve["dev_wer"][-1][1])


def run(context: Context) -> None:
    """Train the base adapter on the base cohorts and write it with its record."""
    with recorded(context, "base", method=context.settings.alignment.method) as run:
        _run(context, run)


def _run(context: Context, run: Any) -> None:
    split = split_people(context)
    one = _begin(context, split, lesson_of(split.training), 1)
    # MLflow's parameters cannot be taken back: they name no user, so that erasing one leaves this run as it is
    told = {name: value for name, value in one.facts.items() if name not in ("vocabulary", "held_out_users")}
    run.params({"base": context.settings.base.model_dump(), **told, "users_held_out": len(split.held_out)})
    costs = Costs()
    rounds: list[Round] = []
    speller: Round | None = None
    costs_spelling = Costs()
    with connect(context.project, context.settings) as session:
        while True:
            _train(context, session, one, costs, run)
            rounds.append(one)
            if len(rounds) == context.settings.base.rounds:
                break
            assert one.best.state is not None  # at least one epoch ran: epochs >= 1 by the settings' check
            lesson = next_lesson(context, session, one.setup, one.best.state, split, one.lesson, costs)
            if lesson is None:
                break
            one = _begin(context, split, lesson, len(rounds) + 1)
        if context.settings.base.speller:
            speller = _begin_speller(context, split, best_round(rounds))
            told = {name: speller.facts[name] for name in ("vocabulary_size", "cannot_spell")}
            run.params({f"{speller.prefix}{name}": value for name, value in told.items()})
            _train(context, session, speller, costs_spelling, run)
    spells = None if speller is None else _spells(context, speller, costs_spelling, run)
    _keep(context, rounds, costs, run, spells)
    for one in [*rounds, *([speller] if speller else [])]:
        one.checkpoint.unlink(missing_ok=True)


def _begin(context: Context, split: Split, lesson: Lesson, number: int) -> Round:
    """A round with its setup, nothing trained yet."""
    setup, facts = prepare(context, split, lesson.training)
    private, inputs = context.project.private, sha256_file(context.project.base_inputs)
    key = sha256_json([BASE_VERSION, inputs, facts, _settings_of_base(context), number, lesson.digest])
    return Round(number, lesson, setup, facts, private / "checkpoints" / f"base-{key[:16]}.safetensors")


def _begin_speller(context: Context, split: Split, taken: Round) -> Round:
    """The speller of the base that was taken, nothing trained yet: it learns from the same utterances."""
    setup, facts = prepare_speller(context, split, taken.lesson.training, taken.setup.bridge, taken.facts)
    private, inputs = context.project.private, sha256_file(context.project.base_inputs)
    key = sha256_json([SPELLER_VERSION, inputs, facts, _settings_of_base(context), taken.lesson.digest])
    path = private / "checkpoints" / f"base-speller-{key[:16]}.safetensors"  # an erasure looks for base-*
    return Round(1, taken.lesson, setup, facts, path, of="speller")


def _settings_of_base(context: Context) -> dict[str, Any]:
    """What a base follows from: with a speller or without, it is the same one."""
    return context.settings.base.model_dump(exclude={"speller"})


def _train(context: Context, session: Session, one: Round, costs: Costs, run: Any) -> None:
    """All epochs of a round, from its last checkpoint on; those of the rounds before stay until the last one is done."""
    settings = context.settings
    state = resume(one.checkpoint, one.curve, one.best)
    name = one.of if one.number == 1 else f"{one.of}, round {one.number}"
    with progress(name, settings.base.epochs, "epochs") as advance:
        one.setup, placement = _planned(one, session, run)
        if settings.base.workers > 1 and one.of == "base":
            one.exchanged_bytes = _in_parallel(context, session, one, placement, costs, advance)
        else:
            _by_epochs(context, session, one, state, placement, (costs, run), advance)


def _spells(context: Context, speller: Round, costs: Costs, run: Any) -> tuple[Any, Any]:
    """The speller and its record, of which the run is told."""
    best, curve = speller.best, speller.curve
    metrics: dict[str, Any] = {
        "dev_wer": best.wer,
        "epoch": best.epoch,
        "train_seconds": speller.seconds,
        "utterances": len(speller.setup.training.utterances),
        "cannot_spell": speller.facts["cannot_spell"],
        "peak_rss_bytes": costs.peak_rss_bytes,
        "curve": curve,
    }
    wer = "unknown" if best.wer is None else f"{best.wer:.3f}"
    log.info("speller: epoch %d is taken, WER on held-out users of its letters alone %s", best.epoch, wer)
    told = {name: value for name, value in metrics.items() if name not in ("curve", "dev_wer", "peak_rss_bytes")}
    told |= {"best_dev_wer": best.wer, **costs.metrics()}
    run.metrics({f"{speller.prefix}{name}": value for name, value in told.items()})
    timed = [(int(step), seconds, wer) for step, seconds, wer in curve["dev_wer"]]
    timed_curve(run, f"{speller.prefix}dev_wer", timed)
    return _made(context, speller, metrics, costs)


def _keep(
    context: Context, rounds: list[Round], costs: Costs, run: Any, speller: tuple[Any, Any] | None = None
) -> None:
    """Write the best round's adapter, with what every round learned and with its speller, and record the run."""
    from stages.alignment.adapter import save_base

    project, settings = context.project, context.settings
    taken = best_round(rounds)
    metrics: dict[str, Any] = {
        "dev_wer": taken.best.wer,
        "epoch": taken.best.epoch + (taken.number - 1) * settings.base.epochs,
        "round": taken.number,
        "rounds": [{"round": one.number, "dev_wer": one.best.wer, **one.lesson.told} for one in rounds],
        "train_seconds": sum(one.seconds for one in rounds),
        "utterances": len(taken.setup.training.utterances),
        "peak_rss_bytes": costs.peak_rss_bytes,
        "bytes_exchanged": sum(one.exchanged_bytes for one in rounds),
        "curve": whole_curve(rounds, settings.base.epochs),
    }
    if len(rounds) > 1:
        wers = ", ".join(f"{one.number}: {one.best.wer:.3f}" for one in rounds if one.best.wer is not None)
        log.info("base: round %d is taken, WER on held-out users by round %s", taken.number, wers or "unknown")
    curve = metrics["curve"]
    bridge, record = _made(context, taken, metrics, costs)
    save_base(project.base_adapter, bridge, record, speller)
    metrics["adapter_bytes"] = (project.base_adapter / "adapter.safetensors").stat().st_size
    # "dev_wer" is a curve whose last point need not be the best
    run.metrics({name: value for name, value in metrics.items() if name not in ("curve", "dev_wer", "rounds")})
    run.metrics({"best_dev_wer": taken.best.wer})
    for told in metrics["rounds"]:
        numbers = {**told, **{f"rejected.{kind}": count for kind, count in told.get("rejected", {}).items()}}
        of_round = {f"round_{told['round']}.{name}": value for name, value in numbers.items() if name != "round"}
        run.metrics({name: value for name, value in of_round.items() if isinstance(value, (int, float))})
    timed = [(int(step), seconds, wer) for step, seconds, wer in curve["dev_wer"]]
    timed_curve(run, "dev_wer", timed)
    timed_curve(run, "loss", [(int(step), timed[place][1], loss) for place, (step, loss) in enumerate(curve["loss"])])
    run.metrics(costs.metrics())
    run.tags(costs.tags())
    _show_curve(context, metrics, run)
    run.adapter(project.base_adapter, "base", settings.features.padding_s)


def best_round(rounds: Sequence[Round]) -> Round:
    """The round with the lowest WER on the held-out users; the latest of equals, and where nobody judges."""
    return min(reversed(rounds), key=lambda one: 0.0 if one.best.wer is None else one.best.wer)


def whole_curve(rounds: Sequence[Round], epochs: int) -> Curve:
    """The curves of all rounds as one: epochs and seconds go on counting."""
    whole: Curve = {"loss": [], "dev_wer": []}
    seconds = 0.0
    for one in rounds:
        first = (one.number - 1) * epochs
        whole["loss"] += [[first + epoch, loss] for epoch, loss in one.curve["loss"]]
        whole["dev_wer"] += [[first + epoch, seconds + at, wer] for epoch, at, wer in one.curve["dev_wer"]]
        seconds += one.seconds
    return whole


def _by_epochs(
    context: Context,
    session: Session,
    one: Round,
    state: dict[str, np.ndarray] | None,
    placement: Placement,
    told: tuple[Costs, Any],
    advance: Callable[[int], None],
) -> None:
    """One epoch after another on a device, from the last checkpoint on."""
    from stages.base import run_epoch

    (costs, run), curve, best = told, one.curve, one.best
    advance(len(curve["loss"]))
    for _ in range(len(curve["loss"]), context.settings.base.epochs):
        work = (one.setup, state, worker_threads())
        outcome = _one_epoch(session, context, run_epoch, work, placement, costs, run, of=one.of)
        state = outcome.state
        curve["loss"].append([outcome.epoch, outcome.loss])
        curve["dev_wer"].append([outcome.epoch, outcome.seconds, outcome.dev_wer])
        if best.wer is None or outcome.dev_wer is None or outcome.dev_wer < best.wer:
            best.wer, best.epoch, best.state = outcome.dev_wer, outcome.epoch, state
        save_checkpoint(one.checkpoint, outcome.state, curve, best)
        advance(1)
        _tell_epoch(one.of, outcome)


def _in_parallel(
    context: Context,
    session: Session,
    one: Round,
    placement: Placement,
    costs: Costs,
    advance: Callable[[int], None],
) -> int:
    """All epochs on several devices; gives the bytes that crossed the network as updates."""
    from pipeline.runs.base_parallel import train_base

    settings = context.settings
    retries = settings.ray.task_retries
    found = train_base(session, one.setup, settings.base, placement, costs, retries=retries, advance=advance)
    for epoch, seconds, loss in found.losses:
        one.curve["loss"].append([epoch, loss])
        one.curve["dev_wer"].append([epoch, seconds, None if epoch < settings.base.epochs else found.dev_wer])
    one.best.wer, one.best.epoch, one.best.state = found.dev_wer, settings.base.epochs, found.state
    return found.sent_bytes


def _planned(one: Round, session: Session, run: Any) -> tuple[Any, Placement]:
    """The setup with batches that fit into a device's memory, and what it asks of one. Raises ClusterError where none does."""
    from pipeline.runs.memory import plan_all, work_of

    setup = one.setup
    table = 0 if setup.table is None else len(setup.table)
    work = work_of(
        "base",
        setup.bridge,
        setup.train.batch_size,
        setup.rows,
        setup.training,
        setup.held_out,
        drawn_rows=setup.train.sampled_rows,
        table_rows=table,
        tempo=setup.train.tempo,
    )
    [plan], placement = plan_all([work], session.nodes())
    if isinstance(plan, ClusterError):
        raise ClusterError(f"{one.of}: {plan}")
    log.info("%s: memory planned: %s", one.of, plan.describe())
    run.params({f"{one.prefix}{name}": value for name, value in plan.params().items()})
    train = replace(setup.train, micro_batch=plan.micro_setting)
    return replace(setup, train=train, read_batch=plan.read_batch), placement


def _show_curve(context: Context, metrics: dict[str, Any], run: Any) -> None:
    from stages.plots import draw_base_curve

    with figures_of(context, run) as folder:
        path = folder / "base_curve.png"
        if draw_base_curve({"metrics": metrics}, path):
            run.artifact(path, "figures")


def _one_epoch(
    session: Session,
    context: Context,
    function: Any,
    arguments: tuple[Any, ...],
    placement: Placement,
    costs: Costs,
    run: Any,
    of: str = "base",
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
        describe=lambda index: f"one epoch of the {of}",
    )
    tell_failures(of, failures, 1)
    return found[0]


def _tell_epoch(of: str, outcome: Any) -> None:
    wer = "" if outcome.dev_wer is None else f", WER on held-out users {outcome.dev_wer:.3f}"
    log.info("%s: epoch %d, loss %.3f%s, %.0f s of training", of, outcome.epoch, outcome.loss, wer, outcome.seconds)


def _made(context: Context, one: Round, metrics: dict[str, Any], costs: Costs) -> tuple[Any, Any]:
    """The best epoch's BridgeFormer and its record, which holds ``metrics``."""
    import torch

    from stages.alignment.adapter import AdapterRecord
    from stages.alignment.bridgeformer import BridgeFormer

    setup, facts, state = one.setup, one.facts, one.best.state
    assert state is not None  # at least one epoch ran
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
        settings={"base": _settings_of_base(context), "alignment": context.settings.alignment.model_dump()},
        device={"nodes": sorted(costs.nodes), "kinds": sorted(costs.kinds)},
        metrics=metrics,
    )
    return bridge, record
