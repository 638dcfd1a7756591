"""Many items over Ray workers: results as they come, bad items set aside, lost workers replaced.

A function or actor class knows nothing of Ray. Every item is at-least-once: a worker may die after it has done its
work, so only the driver writes (in ``on_result``), once an item.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pipeline.cluster.nodes import UNKNOWN, NodeInfo
from pipeline.cluster.placement import Placement, preflight
from pipeline.cluster.session import Session
from pipeline.cluster.worker import Actor, Load, Outcome, run_task
from stages.errors import ClusterError

logger = logging.getLogger(__name__)

NO_PROGRESS_TIMEOUT_S = 1800.0
REJOIN_S = 60.0
POLL_S = 0.5
NODES_S = 2.0


@dataclass(frozen=True)
class Result:
    """What one item came to, and where."""

    value: Any
    node: NodeInfo
    peak_rss_bytes: int
    """Largest resident memory of the worker process while it did this item; 0 where the system does not tell."""
    seconds: float
    load: Load | None = None
    """The device's telemetry meanwhile; of tasks only."""


@dataclass(frozen=True)
class Failure:
    """An item that came to nothing; the others went on."""

    index: int
    item: str
    """What ``describe`` calls it."""
    message: str


OnResult = Callable[[int, Result], None]


def run_tasks(
    session: Session,
    function: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    placement: Placement,
    *,
    retries: int,
    on_result: OnResult,
    describe: Callable[[int], str] = str,
    no_progress_timeout_s: float = NO_PROGRESS_TIMEOUT_S,
) -> list[Failure]:
    """Call ``function(*arguments[i])`` for every i, each in a task of its own, as many at once as the nodes hold.

    ``on_result(i, result)`` runs in this process, once an item, in the order of completion. An item whose function
    raises becomes a Failure at once; one whose worker or node dies (or that is silent for ``no_progress_timeout_s``)
    is repeated ``retries`` times first. Raises ClusterError where no node can run ``placement``.
    """
    import ray

    remote = ray.remote(run_task).options(max_retries=0, **placement.options())
    shared = ray.put(function)

    def start(index: int) -> _Flight:
        return _Flight(index, remote.remote(shared, arguments[index]))

    return _Run(session, placement, len(arguments), retries, on_result, describe, no_progress_timeout_s).drive(start)


def run_actors(
    session: Session,
    actor_class: Callable[..., Any],
    constructor_arguments: tuple[Any, ...],
    arguments: Sequence[tuple[Any, ...]],
    placement: Placement,
    *,
    workers: int,
    retries: int,
    on_result: OnResult,
    describe: Callable[[int], str] = str,
    on_advance: Callable[[int], None] | None = None,
    no_progress_timeout_s: float = NO_PROGRESS_TIMEOUT_S,
) -> list[Failure]:
    """Call ``actor_class(*constructor_arguments).work(*arguments[i])`` for every i, on ``workers`` processes that each
    construct once and take one item after another.

    Where ``on_advance`` is given, ``work`` gets a further keyword argument ``advance`` and calls it with counts of what
    it has done so far; ``on_advance(n)`` then runs in this process, about twice a second. What a dead worker had counted is
    taken back (negative n), so that the sum is exact in the end.

    A dead worker is replaced, its item repeated ``retries`` times, then a Failure. A constructor that raises ends the run with
    ClusterError: no other item would fare better. Else as ``run_tasks``.
    """
    import ray

    remote = ray.remote(max_restarts=0, concurrency_groups={"watch": 1}, **placement.options())(Actor)
    idle: deque[Any] = deque()

    def start(index: int) -> _Flight:
        handle = idle.popleft() if idle else remote.remote(actor_class, constructor_arguments)
        return _Flight(index, handle.work.remote(arguments[index], on_advance is not None), handle)

    run = _Run(session, placement, len(arguments), retries, on_result, describe, no_progress_timeout_s)
    run.most, run.on_advance, run.idle = workers, on_advance, idle
    try:
        return run.drive(start)
    finally:
        for handle in idle:
            ray.kill(handle)


@dataclass
class _Flight:
    """One item under way."""

    index: int
    reference: Any
    actor: Any = None
    advanced: int = 0
    watch: Any = None
    """The actor's answer to how far it is, once asked."""
    heard_s: float = field(default_factory=time.monotonic)


@dataclass
class _Run:
    """The driver's side of ``run_tasks`` and ``run_actors``."""

    session: Session
    placement: Placement
    count: int
    retries: int
    on_result: OnResult
    describe: Callable[[int], str]
    no_progress_timeout_s: float
    most: int | None = None
    on_advance: Callable[[int], None] | None = None
    idle: deque[Any] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.waiting = deque(range(self.count))
        self.deaths = [0] * self.count
        self.flights: dict[Any, _Flight] = {}
        self.failures: list[Failure] = []
        self.nodes: dict[str, NodeInfo] = {}
        self.looked_s = 0.0
        self.slots = 0

    def drive(self, start: Callable[[int], _Flight]) -> list[Failure]:
        """Until every item has come to a result or a failure."""
        if not self.count:
            return []
        self._look(force=True)
        preflight(self.placement, list(self.nodes.values()))
        try:
            while self.waiting or self.flights:
                while self.waiting and len(self.flights) < self._width():
                    flight = start(self.waiting.popleft())
                    self.flights[flight.reference] = flight
                self._settle_ready()
                self._watch()
                self._drop_silent()
        finally:
            for flight in self.flights.values():
                _end(flight)
        return sorted(self.failures, key=lambda failure: failure.index)

    def _look(self, force: bool = False) -> None:
        """Refresh what is known of the nodes; at most every two seconds unless forced."""
        if force or time.monotonic() - self.looked_s > NODES_S:
            living = self.session.nodes()
            self.slots = sum(self.placement.slots(node) for node in living)
            self.nodes.update({node.node_id: node for node in living})  # results of a node that is gone keep its name
            self.looked_s = time.monotonic()

    def _width(self) -> int:
        """How many items may be under way. Waits for a device to come back where none is left, then gives up."""
        self._look()
        deadline = time.monotonic() + REJOIN_S
        while not self.slots and not self.flights:
            if time.monotonic() > deadline:
                preflight(self.placement, self.session.nodes())
            time.sleep(POLL_S)
            self._look()
        return self.slots if self.most is None else min(self.slots, self.most)

    def _settle_ready(self) -> None:
        import ray

        ready, _ = ray.wait(list(self.flights), num_returns=1, timeout=POLL_S)
        for reference in ready:
            flight = self.flights.pop(reference)
            try:
                outcome = ray.get(reference)
            except (ray.exceptions.LocalRayletDiedError, ray.exceptions.RaySystemError) as error:
                _end(flight)
                raise ClusterError(f"the connection to Ray is lost ({_line(error)}). Run the command again.") from error
            except ray.exceptions.RayTaskError as error:  # outside the caller's code: arguments or result do not pickle
                _end(flight)
                self._fail(flight, _line(error.cause))
            except ray.exceptions.RayError as error:
                self._lost(flight, _line(error))
            else:
                self._settle(flight, outcome)

    def _settle(self, flight: _Flight, outcome: Outcome) -> None:
        if outcome.unusable:
            _end(flight)
            raise ClusterError(f"a worker could not be set up: {outcome.error}")
        if flight.actor is not None:
            self.idle.append(flight.actor)
        self._advance_to(flight, outcome.advanced)
        if outcome.error is not None:
            self._fail(flight, outcome.error)
            return
        if outcome.node_id not in self.nodes:
            self._look(force=True)
        node = self.nodes.get(outcome.node_id) or NodeInfo(UNKNOWN, UNKNOWN, UNKNOWN, outcome.node_id)
        self.on_result(flight.index, Result(outcome.value, node, outcome.peak_rss_bytes, outcome.seconds, outcome.load))

    def _fail(self, flight: _Flight, message: str) -> None:
        self.failures.append(Failure(flight.index, self.describe(flight.index), message))

    def _lost(self, flight: _Flight, why: str) -> None:
        """The worker is gone: once more, unless this item has cost too many already."""
        _end(flight)
        self._advance_to(flight, 0)
        self.deaths[flight.index] += 1
        item = self.describe(flight.index)
        if self.deaths[flight.index] > self.retries:
            times = self.deaths[flight.index]
            self._fail(flight, f"its worker was lost {times} time(s), the last time: {why}")
            return
        logger.warning("%s: its worker was lost (%s); repeating it", item, why)
        self._look(force=True)
        self.waiting.appendleft(flight.index)

    def _advance_to(self, flight: _Flight, count: int) -> None:
        if self.on_advance is not None and count != flight.advanced:
            self.on_advance(count - flight.advanced)
            flight.heard_s = time.monotonic()
        flight.advanced = count

    def _watch(self) -> None:
        """Ask each busy actor how far it is; one question at a time."""
        import ray

        if self.on_advance is None:
            return
        for flight in self.flights.values():
            if flight.watch is None:
                flight.watch = flight.actor.advanced.options(concurrency_group="watch").remote()
            elif ray.wait([flight.watch], timeout=0)[0]:
                with suppress(ray.exceptions.RayError):  # a dead actor: its item tells
                    self._advance_to(flight, ray.get(flight.watch))
                flight.watch = None

    def _drop_silent(self) -> None:
        now = time.monotonic()
        for reference, flight in list(self.flights.items()):
            if now - flight.heard_s > self.no_progress_timeout_s:
                del self.flights[reference]
                self._lost(flight, f"no progress for {self.no_progress_timeout_s:g} s")


def _end(flight: _Flight) -> None:
    """Stop what is still running for this item."""
    import ray

    with suppress(Exception):  # it may have ended, or its node with it
        if flight.actor is not None:
            ray.kill(flight.actor)
        else:
            ray.cancel(flight.reference, force=True)


def _line(error: BaseException) -> str:
    """The first sentence: Ray's others name log files of a folder that ends with the session."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].partition('. ')[0].rstrip('.') if lines else 'no message'}"
