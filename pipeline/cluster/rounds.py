"""The meeting place of workers that train together: who is there exchanges, who is late is not waited for for ever.

Knows nothing of Ray and of what is exchanged; ``pipeline.cluster.data_parallel`` runs it as an actor on the head. A round
closes when every worker has contributed, or when the others have waited ``patience`` times as long as rounds take. What comes
too late counts in the round that is open then, so that nobody's work is lost.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Contribution:
    """What one worker did in a round."""

    rank: int
    content: bytes
    steps: int  # that it took: its weight in the mean
    loss: float = 0.0  # mean over them


@dataclass(frozen=True)
class Round:
    """A round that is over; contributions by rank."""

    number: int
    contributions: tuple[Contribution, ...]
    closed: float = 0.0  # seconds since 1970

    @property
    def updates(self) -> list[bytes]:
        return [one.content for one in self.contributions]

    @property
    def loss(self) -> float:
        """Mean over the steps of all workers."""
        return sum(one.loss * one.steps for one in self.contributions) / sum(one.steps for one in self.contributions)

    @property
    def shares(self) -> list[float]:
        return [float(one.steps) for one in self.contributions]

    def emptied(self) -> Round:
        """The same without what was contributed, which takes memory."""
        return replace(self, contributions=tuple(replace(one, content=b"") for one in self.contributions))


@dataclass(frozen=True)
class Next:
    """What a worker goes on with."""

    rounds: list[Round]  # all since those that it has seen, oldest first
    limit_s: float | None  # time for its next steps, so that a slow worker takes fewer; None: not known yet


@dataclass
class Rounds:
    """See the module. ``first_s``: how long the first round waits; workers load their libraries meanwhile."""

    workers: int
    total: int | None = None  # rounds after which nothing is opened again
    patience: float = 2.0
    least_s: float = 0.5
    first_s: float = 120.0
    done: list[Round] = field(default_factory=list)
    sent_bytes: dict[int, int] = field(default_factory=dict)
    """By rank, in all."""
    _open: dict[int, Contribution] = field(default_factory=dict)
    _durations: list[float] = field(default_factory=list)
    _began: float = 0.0
    _first: float = 0.0
    _closing: asyncio.TimerHandle | None = None
    _closed: asyncio.Event | None = None

    async def contribute(self, rank: int, seen: int, content: bytes, steps: int, loss: float = 0.0) -> Next:
        """Hand in one worker's work and wait for the round's end. ``seen``: how many rounds this worker has received.

        Raises ValueError for a rank that is none of the workers', or a worker that has seen more than there is.
        """
        if not 0 <= rank < self.workers or seen > len(self.done):
            raise ValueError(f"worker {rank} of {self.workers} has seen {seen} rounds, {len(self.done)} are over")
        if self.over:  # it was too slow for the last round
            return Next(self.done[seen:], self.limit_s())
        self.sent_bytes[rank] = self.sent_bytes.get(rank, 0) + len(content)
        if self._closed is None:
            self._closed, self._first = asyncio.Event(), time.monotonic()
            self._closing = asyncio.get_running_loop().call_later(self._patience_s(), self._close)
        closed = self._closed
        # one that was started again contributes again: its steps before were never counted
        self._open[rank] = Contribution(rank, content, steps, loss)
        if len(self._open) == self.workers:
            self._close()
        await closed.wait()
        return Next(self.done[seen:], self.limit_s())

    @property
    def over(self) -> bool:
        """Whether all rounds there are to be are done."""
        return self.total is not None and len(self.done) >= self.total

    def limit_s(self) -> float | None:
        """As long as a worker may take for its steps before others would wait for it."""
        return max(self.least_s, statistics.median(self._durations)) if self._durations else None

    def _patience_s(self) -> float:
        limit = self.limit_s()
        return self.first_s if limit is None else max(self.least_s, (self.patience - 1.0) * limit)

    def _close(self) -> None:
        if self._closed is None:
            return
        if self._closing is not None:
            self._closing.cancel()
        now = time.monotonic()
        if self.done:  # the first round is loading, not work
            self._durations.append(self._first - self._began)
        self._began = now
        contributions = tuple(self._open[rank] for rank in sorted(self._open))
        self.done.append(Round(len(self.done), contributions, time.time()))
        self._open, closed = {}, self._closed
        self._closed = self._closing = None
        closed.set()
