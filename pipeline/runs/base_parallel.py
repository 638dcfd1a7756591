"""The ``base`` stage on several devices at once, through ``pipeline.cluster.data_parallel``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.cluster.data_parallel import train_parallel
from pipeline.cluster.placement import Placement
from pipeline.cluster.session import Session
from pipeline.cluster.work import Result, run_tasks
from pipeline.runs.common import Costs, log, tell_failures, worker_threads
from pipeline.settings import Base


@dataclass(frozen=True)
class ParallelBase:
    """What came of it."""

    state: dict[str, np.ndarray]  # as ``stages.base.EpochResult.state``: bridge.NAME
    dev_wer: float | None
    seconds: float  # from the first worker's start to the last one's end, Ray's own time included
    losses: list[tuple[int, float, float]]  # (epoch, seconds, mean loss of its last round) of each that ended with one
    sent_bytes: int  # by all workers
    rounds: int


def train_base(
    session: Session,
    setup: Any,
    base: Base,
    placement: Placement,
    costs: Costs,
    *,
    retries: int,
    advance: Callable[[int], None],
) -> ParallelBase:
    """Train on ``base.workers`` devices and judge once, at the end: what all agree on then is the base.

    ``advance`` is called with counts of epochs. Raises ClusterError, and InputError where there are fewer people than workers.
    """
    from stages.alignment.exchange import ExchangeConfig
    from stages.base import judge_base
    from stages.base_parallel import divide, state_of
    from stages.errors import InputError

    exchange = ExchangeConfig(local_steps=base.exchange_steps, density=base.exchange_density, bits=base.exchange_bits)
    try:
        shares = divide(setup, base.workers, exchange)
    except ValueError as error:
        raise InputError(f"base.workers is {base.workers}: {error}. Lower it.") from error
    told = 0

    def on_round(done: int) -> None:
        nonlocal told
        epochs = int(base.epochs * done / shares[0].rounds)
        advance(epochs - told)
        told = epochs

    start = time.time()
    found = train_parallel(session, shares, placement, retries=retries, threads=worker_threads(), on_round=on_round)
    seconds = time.time() - start
    advance(base.epochs - told)
    state = state_of(setup, found.weights)
    judged: list[float | None] = []

    def on_result(index: int, result: Result) -> None:
        costs.add(result)
        judged.append(result.value)

    failures = run_tasks(
        session,
        judge_base,
        [(setup, state, worker_threads())],
        placement,
        retries=retries,
        on_result=on_result,
        describe=lambda index: "the base's judging",
    )
    tell_failures("base", failures, 1)
    log.info(
        "base: %d devices, %d rounds of %d steps, %.2f MB sent in all, %d contributions late",
        *(base.workers, found.rounds, base.exchange_steps, sum(found.sent_bytes.values()) / 1e6, found.late),
    )
    named = {f"bridge.{name}": value for name, value in state.items()}
    by_epoch: dict[int, tuple[int, float, float]] = {}
    for number, (closed, loss) in enumerate(found.losses, 1):
        epoch = int(base.epochs * number / found.rounds)
        if epoch:
            by_epoch[epoch] = (epoch, closed - start, loss)
    return ParallelBase(
        named, judged[0], seconds, list(by_epoch.values()), sum(found.sent_bytes.values()), found.rounds
    )
