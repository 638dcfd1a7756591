"""Bytes that a shared training puts on the wire, by the counters of each device's own network interface.

A head and the devices are network namespaces with a switch between them; in each runs what an operator starts there, and the
training is that of ``pipeline.cluster.data_parallel``. The counters see everything: updates, TCP/IP, Ray's heart-beats,
telemetry. A stretch of the training is counted from the end of one round to the end of another, so that it holds as many
updates each way as it has rounds; what shipping code and data takes is told apart, and so is what the idle cluster says.

    python -m benchmarks.exchange_wire HOST:PORT '{...}'   the driver, on the head: trains, and prints when what was over
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from bisect import bisect_left, bisect_right
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stages.alignment.bridgeformer import BridgeFormerConfig
from stages.alignment.exchange import ExchangeConfig
from stages.alignment.trainer import TrainConfig
from stages.base import BaseSetup, Corpus

LOOK_S = 0.2
"""Between two readings of the counters."""
IDLE_S = 20.0
TIMEOUT_S = 1500.0
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Task:
    """What is trained."""

    workers: int
    exchange: ExchangeConfig
    epochs: int = 5
    learning_rate: float | None = None  # None: as in params.yaml
    scale: float | None = None
    an4: bool = True  # real speech and the base of params.yaml; else noise and a small one
    idle_s: float = IDLE_S


@dataclass(frozen=True)
class Traffic:
    """Bytes of one device over some time."""

    sent: float
    received: float

    @property
    def both(self) -> float:
        return self.sent + self.received


@dataclass(frozen=True)
class Counted:
    """What came of it; lists have an entry for each device, their order says nothing."""

    parameters: int
    steps: int  # of each worker in the stretch that was counted
    seconds: float  # that it took
    updates: list[Traffic]  # of the updates themselves, by what the head counts
    wire: list[Traffic]  # in that stretch
    idle: list[Traffic]  # a second, while nothing was trained
    before: list[Traffic]  # code, data and the first round
    wer: float | None  # of the base that came of it, on unseen speakers

    @property
    def dense_bytes(self) -> int:
        """Gradients of every step, one way."""
        return FLOAT_BYTES * self.parameters * self.steps

    @property
    def worst(self) -> Traffic:
        """The most that a device sent, the most that one received."""
        return Traffic(max(one.sent for one in self.wire), max(one.received for one in self.wire))


@dataclass(frozen=True)
class Reading:
    """Counters of every host, read at some time between two, in seconds since 1970."""

    began: float
    ended: float
    counts: list[tuple[int, int]]  # bytes sent and received so far


@dataclass
class Meter:
    """Reads the counters of hosts again and again in a thread of its own."""

    hosts: list[Any]
    readings: list[Reading] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Meter:
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _read(self) -> None:
        while not self._stop.is_set():
            began = time.time()
            counts = [host.traffic() for host in self.hosts]
            self.readings.append(Reading(began, time.time(), counts))
            self._stop.wait(LOOK_S)

    def between(self, start: float, end: float) -> list[Traffic]:
        """What each host sent and received from ``start`` to ``end``, in seconds since 1970, at the most.

        From the last reading before it to the first one after: nothing that was sent in that time is left out, however late
        a busy machine reads; what was sent just before or after it may be in it. Raises RuntimeError without such readings.
        """
        first = bisect_right([one.ended for one in self.readings], start) - 1
        last = bisect_left([one.began for one in self.readings], end)
        if first < 0 or last == len(self.readings):
            seen = f"{self.readings[0].ended:.1f} to {self.readings[-1].began:.1f}" if self.readings else "never"
            raise RuntimeError(f"counters were read from {seen}, needed from before {start:.1f} to after {end:.1f}")
        pairs = zip(self.readings[first].counts, self.readings[last].counts, strict=True)
        return [Traffic(after[0] - before[0], after[1] - before[1]) for before, after in pairs]


def count(task: Task) -> Counted:
    """Train with real processes on hosts of their own and count. Skips (pytest's way) where such hosts are not allowed."""
    from tests.helpers_fleet import REJOIN_S, fleet_of
    from tests.helpers_hosts import wait_for

    names = [f"device{number}" for number in range(task.workers)]
    with (
        tempfile.TemporaryDirectory(prefix="ea-wire-") as folder,
        fleet_of(Path(folder), devices=names) as fleet,
        Meter(fleet.devices) as meter,
    ):
        wait_for(fleet.all_there, REJOIN_S, fleet.logs)
        log = Path(folder) / "driver.log"
        words = [sys.executable, "-m", "benchmarks.exchange_wire", fleet.address, json.dumps(asdict(task))]
        driver = fleet.head.start(words, log, fleet.env, Path(__file__).resolve().parents[1])
        if driver.wait(TIMEOUT_S) != 0:
            raise RuntimeError(f"the training over the wire failed: {log.read_text()[-3000:]}")
        told = json.loads(log.read_text().splitlines()[-1])
        time.sleep(2 * LOOK_S)
    return _counted(task, told, meter)


def _counted(task: Task, told: dict[str, Any], meter: Meter) -> Counted:
    closed = told["closed"]
    rounds = len(closed)
    idle_s = told["began"] - told["idle_from"]
    share = (rounds - 1) / rounds  # of all updates: those of the stretch
    updates = [
        Traffic(share * sent, share * received) for sent, received in zip(told["sent"], told["received"], strict=True)
    ]
    return Counted(
        told["parameters"],
        (rounds - 1) * task.exchange.local_steps,
        closed[-1] - closed[0],
        updates,
        meter.between(closed[0], closed[-1]),
        [Traffic(one.sent / idle_s, one.received / idle_s) for one in meter.between(told["idle_from"], told["began"])],
        meter.between(told["began"], closed[0]),
        told["wer"],
    )


def _drive(address: str, asked: dict[str, Any]) -> dict[str, Any]:
    from pipeline.cluster.data_parallel import train_parallel
    from pipeline.cluster.placement import Placement
    from pipeline.cluster.session import connect
    from pipeline.project import Project
    from pipeline.settings import RaySettings, Settings
    from stages.base import judge_base
    from stages.base_parallel import divide, state_of

    task = Task(**{**asked, "exchange": ExchangeConfig(**asked["exchange"])})
    setup = _an4(task) if task.an4 else small(task)
    settings = Settings(cohorts=[], base_cohorts=[], personal_cohorts=[], ray=RaySettings(address=address))
    with connect(Project(Path.cwd()), settings) as session:
        shares = divide(setup, task.workers, task.exchange)
        idle_from = time.time()
        time.sleep(task.idle_s)
        began = time.time()
        found = train_parallel(session, shares, Placement(cpus=0, jetson=1), retries=0, threads=1)
    if found.late:
        raise RuntimeError(f"{found.late} updates came too late to be counted with their rounds: run it again")
    return {
        "idle_from": idle_from,
        "began": began,
        "closed": [closed for closed, _ in found.losses],
        "sent": [found.sent_bytes[rank] for rank in sorted(found.sent_bytes)],
        "received": [found.received_bytes[rank] for rank in sorted(found.received_bytes)],
        "parameters": sum(value.size for value in found.weights.values()),
        "wer": judge_base(setup, state_of(setup, found.weights), threads=1),
    }


def _an4(task: Task) -> BaseSetup:
    """The training of benchmarks.exchange with the first seed."""
    from dataclasses import replace

    from benchmarks import corpora
    from benchmarks.alignment import Bench, speakers
    from stages.alignment.vocabulary import Vocabulary
    from stages.models.llm import embedding_rows

    bench = Bench.open()
    training, unseen = speakers(corpora.an4(), 0)
    vocabulary = Vocabulary.of_texts(bench.tokenizer, [item.text for item in training])

    def corpus(items: list[Any], targets: bool) -> Corpus:
        return Corpus(
            [item.utterance for item in items],
            [item.text for item in items],
            [item.frames for item in items],
            [
                np.array(vocabulary.rows_of(bench.tokenizer, item.text) if targets else [], dtype=np.int64)
                for item in items
            ],
            [item.user for item in items],
        )

    config = replace(bench.train_config(0), epochs=task.epochs)
    return BaseSetup(
        replace(bench.bridge, scale=task.scale or bench.bridge.scale),
        replace(config, learning_rate=task.learning_rate or config.learning_rate),
        corpus(training, True),
        corpus(unseen, False),
        embedding_rows(bench.llm, vocabulary.ids).numpy(),
        [bench.tokenizer.decode([token]) for token in vocabulary.ids],
    )


def small(task: Task) -> BaseSetup:
    """Noise that nothing can be learned from, and a bridge large enough for its updates to stand out."""
    generator = np.random.default_rng(0)
    numbers = range(16 * task.workers)
    training = Corpus(
        [f"u{number:03d}" for number in numbers],
        ["a b" for _ in numbers],
        [generator.normal(size=(24, 16)).astype(np.float16) for _ in numbers],
        [generator.integers(0, 8, 2) for _ in numbers],
        [f"user{number % task.workers}" for number in numbers],
    )
    bridge = BridgeFormerConfig(
        encoder_width=16, llm_width=32, stack=2, width=256, layers=1, heads=2, feed_forward=1024
    )
    rows = generator.normal(size=(8, 32)).astype(np.float32)
    train = TrainConfig(epochs=task.epochs, batch_size=4, learning_rate=task.learning_rate or 7e-4)
    return BaseSetup(bridge, train, training, Corpus([], [], [], []), rows, [f" {row}" for row in range(8)])


if __name__ == "__main__":
    print(json.dumps(_drive(sys.argv[1], json.loads(sys.argv[2]))))
