"""One base on several devices: Ray Train starts the workers and starts them again, a keeper on the head lets them exchange.

Ray Train places a worker on each device, and after a failure begins all of them again; the keeper, which outlives them, tells
them where they were. No file is shared and no gradient is sent: only the packed changes of ``stages.alignment.exchange``.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.cluster.placement import Placement, preflight
from pipeline.cluster.session import Session
from stages.errors import ClusterError

log = logging.getLogger(__name__)

LOOK_S = 1.0


@dataclass(frozen=True)
class Trained:
    """What the workers came to."""

    weights: dict[str, np.ndarray]  # the parameters that all agreed on at the end
    rounds: int
    sent_bytes: dict[int, int]  # updates, by rank
    received_bytes: dict[int, int]  # what the head made of them, by rank
    late: int  # contributions that came after their round had closed, or never
    losses: list[tuple[float, float]]  # (when it closed in seconds since 1970, mean loss) of each round


@dataclass(frozen=True)
class Told:
    """What a worker goes on with."""

    updates: list[bytes]  # one for each round since those that it has seen, oldest first
    limit_s: float | None  # see ``rounds.Next``


class Keeper:
    """The actor on the head: the rounds, and what all agree on, for workers that are started again."""

    def __init__(self, share: Any, workers: int) -> None:
        """``share``: any worker's, for what all begin with."""
        from pipeline.cluster.rounds import Rounds
        from stages.base_parallel import head_of

        self._rounds = Rounds(workers, total=share.rounds)
        self._head = head_of(share)
        self._merged: dict[int, bytes] = {}  # what each round came to, as long as a worker may still ask for it
        self._received = 0
        self._seen = dict.fromkeys(range(workers), 0)
        self._received_bytes = dict.fromkeys(range(workers), 0)

    async def contribute(self, rank: int, seen: int, content: bytes, steps: int, loss: float) -> Told:
        """See ``Rounds.contribute``. Raises InputError for an update that is not of this training."""
        from stages.alignment.packing import unpack

        unpack(content, self._head.weights)
        self._seen[rank] = seen
        told = await self._rounds.contribute(rank, seen, content, steps, loss)
        self._receive()
        updates = [self._merged[one.number] for one in told.rounds]
        self._received_bytes[rank] += sum(len(update) for update in updates)
        return Told(updates, told.limit_s)

    async def where(self) -> tuple[int, dict[str, np.ndarray] | None]:
        """(rounds done, what all agree on after them; None at the beginning)."""
        self._receive()
        weights = {name: value.numpy() for name, value in self._head.weights.items()}
        return self._received, weights if self._received else None

    async def done(self) -> int:
        """Rounds that are over."""
        return len(self._rounds.done)

    async def trained(self) -> Trained:
        """All that is known by now."""
        number, weights = await self.where()
        missing = sum(self._rounds.workers - len(one.contributions) for one in self._rounds.done)
        losses = [(one.closed, one.loss) for one in self._rounds.done]
        return Trained(
            weights or {}, number, dict(self._rounds.sent_bytes), dict(self._received_bytes), missing, losses
        )

    def _receive(self) -> None:
        for place, one in enumerate(self._rounds.done[self._received :], self._received):
            self._merged[place] = self._head.merge(one.updates, one.shares)
            self._rounds.done[place] = one.emptied()
            self._received += 1
        for place in [place for place in self._merged if place < min(self._seen.values())]:
            del self._merged[place]


def train_parallel(
    session: Session,
    shares: Sequence[Any],
    placement: Placement,
    *,
    retries: int,
    threads: int,
    on_round: Callable[[int], None] | None = None,
) -> Trained:
    """Train one base on ``len(shares)`` devices, a ``stages.base_parallel.Share`` each; ``placement`` is that of one worker.

    ``retries``: how often workers are started again after one has died. ``on_round(n)`` runs in this process with the number of
    rounds that are done. Raises ClusterError where there are fewer devices than shares, or the workers died too often.
    """
    import ray

    nodes = session.nodes()
    preflight(placement, nodes)
    slots = sum(placement.slots(node) for node in nodes)
    if slots < len(shares):
        raise ClusterError(
            f"base.workers is {len(shares)}, the cluster has room for {slots} (one a Jetson). Let more devices join, or lower "
            "base.workers."
        )
    keeper = ray.remote(Keeper).options(num_cpus=0, scheduling_strategy=_here()).remote(shares[0], len(shares))
    references = [ray.put(share) for share in shares]
    stop = threading.Event()
    watching = threading.Thread(target=_watch, args=(keeper, stop, on_round), daemon=True)
    watching.start()
    try:
        _fit(keeper, references, placement, retries, threads)
        found: Trained = ray.get(keeper.trained.remote())
    finally:
        stop.set()
        watching.join()
        ray.kill(keeper)
    if found.rounds < shares[0].rounds:
        raise ClusterError(
            f"the base's training ended after {found.rounds} of {shares[0].rounds} rounds. Run it again."
        )
    return found


def _here() -> Any:
    """This driver's node: the keeper must outlive any device."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _fit(keeper: Any, references: list[Any], placement: Placement, retries: int, threads: int) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")  # it would ask for a Prometheus that nobody started
    options = placement.options()
    resources = {"CPU": options.get("num_cpus", 0), **options.get("resources", {})}
    if options.get("memory"):
        resources["memory"] = options["memory"]
    with tempfile.TemporaryDirectory(prefix="edgealign-train-") as folder:
        trainer = DataParallelTrainer(
            _work,
            train_loop_config={"keeper": keeper, "shares": references, "threads": threads},
            scaling_config=ScalingConfig(
                num_workers=len(references), resources_per_worker=resources, placement_strategy="SPREAD"
            ),
            run_config=RunConfig(name="base", storage_path=folder, failure_config=FailureConfig(max_failures=retries)),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            reason = str(error).strip().splitlines()[-1]  # above it are the traces of every attempt
            raise ClusterError(f"the base's training on {len(references)} devices failed: {reason}") from error


def _watch(keeper: Any, stop: threading.Event, on_round: Callable[[int], None] | None) -> None:
    import ray

    seen = 0
    while not stop.wait(LOOK_S):
        done = ray.get(keeper.done.remote())
        if on_round is not None and done > seen:
            on_round(done)
            seen = done


def _work(config: dict[str, Any]) -> None:
    """One worker, within its device's budgets, from where the keeper says that all are."""
    import ray
    import ray.train

    from pipeline.cluster.worker import run_task

    rank = ray.train.get_context().get_world_rank()
    outcome = run_task(_rounds, (config["keeper"], config["shares"][rank], rank, config["threads"]))
    if outcome.error is not None:
        raise RuntimeError(f"worker {rank}: {outcome.error}")


def _rounds(keeper: Any, reference: Any, rank: int, threads: int) -> int:
    import ray
    import torch

    from stages.base_parallel import Worker

    torch.set_num_threads(threads)
    share = ray.get(reference)
    done, agreed = ray.get(keeper.where.remote())
    worker, limit_s = Worker(share, agreed, done), None
    while worker.done < share.rounds:
        content, steps = worker.round(limit_s)
        told = ray.get(keeper.contribute.remote(rank, worker.done, content, steps, worker.loss))
        for update in told.updates:
            worker.receive(update)
        limit_s = told.limit_s
    return worker.done
