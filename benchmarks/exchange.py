"""Sparse exchange: how few bytes two and four workers may send each other while the base they train stays as good.

The workers take turns in one process, with everything as it would be on as many machines: their own speakers' utterances,
their own optimisers, updates as bytes. So quality and bytes are real and no speed is claimed. The dense reference is one
training with the batch of all workers together, which is what data-parallel training with whole gradients computes. What the
network's interfaces count beside the updates is measured with real processes, see ``benchmarks.exchange_wire``.

    make bench AREA=exchange                            some twenty minutes; goes on with what an earlier run had finished
    EDGEALIGN_EXCHANGE_ONLY=wire_4 make bench ...       one piece, kept for a run of all: workers_2, workers_4, wire_2, wire_4
    EDGEALIGN_EXCHANGE_QUICK=1 make bench AREA=exchange whether it runs: figures of no worth, kept out of docs
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import corpora, exchange_wire
from benchmarks.alignment import Bench, speakers
from benchmarks.exchange_wire import Counted, Task, Traffic
from benchmarks.record import FOLDER, Figure, at_least, at_most, machine, plain, versions, write_area
from stages.alignment.bridgeformer import BridgeFormerConfig
from stages.alignment.exchange import ExchangeConfig, Head, Participant
from stages.alignment.metrics import word_errors
from stages.alignment.trainer import Example, TrainConfig, Trainer, length_batches, read_out_all
from stages.alignment.vocabulary import Vocabulary
from stages.atomic import sha256_file, sha256_json, write_json
from stages.examples import LabelledUtterance

log = logging.getLogger("edgealign")

FLOAT_BYTES = 4
CHOSEN = ExchangeConfig()
TUNED: Mapping[int, Mapping[str, float]] = {2: {}, 4: {"learning_rate": 1.4e-3, "scale": 20.0}}
"""What the trainings of so many workers, the dense one as well, have unlike params.yaml: by training speakers, see notes.md."""


@dataclass(frozen=True)
class Size:
    """How much is run."""

    train: int | None = None
    epochs: int = 5
    workers: tuple[int, ...] = (2, 4)
    seeds: tuple[int, ...] = (0,)
    wire: bool = True
    folder: Path = FOLDER


@dataclass(frozen=True)
class Came:
    """What came of one training."""

    wer: float
    steps: int
    bytes_each: int  # what one worker sent in all
    received_each: int = 0


def size_asked() -> Size:
    """By the environment; see the module."""
    if not os.environ.get("EDGEALIGN_EXCHANGE_QUICK"):
        return Size()
    return Size(40, 1, (2,), (0,), False, corpora.quick_folder())


def run() -> Path:
    """Measure everything and write docs/benchmarks/exchange.json."""
    size, only = size_asked(), os.environ.get("EDGEALIGN_EXCHANGE_ONLY")
    found: list[Figure] = []
    for workers in size.workers:
        if only in (None, "", f"workers_{workers}"):
            found += _quality(size, workers)
        if size.wire and only in (None, "", f"wire_{workers}"):
            found += _wire(size, workers)
    return write_area("exchange", found, {}, corpora.quick_folder() if only else size.folder)


def _kept(asked: Any, measure: Callable[[], Any]) -> Any:
    """What ``measure`` gave, or what it gave before for the same question, code, machine and libraries."""
    root = corpora.ROOT
    code = [
        *root.glob("benchmarks/exchange*.py"),
        *root.glob("stages/alignment/*.py"),
        root / "stages/base_parallel.py",
    ]
    code += [root / "params.yaml", root / "pipeline/cluster/data_parallel.py", root / "pipeline/cluster/rounds.py"]
    hashes = {str(path.relative_to(root)): sha256_file(path) for path in sorted(code)}
    path = corpora.CACHE / f"exchange-{sha256_json([asked, hashes, machine(), versions()])[:16]}.json"
    if not path.is_file():
        write_json(path, measure())
    return json.loads(path.read_text(encoding="utf-8"))


def _quality(size: Size, workers: int) -> list[Figure]:
    """WER and bytes of the chosen exchange against whole gradients."""
    tuned = dict(TUNED[workers])

    def job(seed: int) -> Job:
        bench = Bench.open()
        bridge = replace(bench.bridge, scale=tuned.get("scale", bench.bridge.scale))
        config = replace(bench.train_config(seed), epochs=size.epochs)
        config = replace(config, learning_rate=tuned.get("learning_rate", config.learning_rate))
        training, unseen = speakers(corpora.an4(), seed)
        return Job(bench, bridge, training[: size.train], unseen, workers, config)

    def measured(seed: int, exchange: ExchangeConfig | None) -> Came:
        asked = [size.train, size.epochs, workers, seed, tuned, asdict(exchange) if exchange else "dense"]
        measure = Job.dense if exchange is None else lambda one: one.sparse(exchange)
        return Came(**_kept(asked, lambda: asdict(measure(job(seed)))))

    dense = [measured(seed, None) for seed in size.seeds]
    came = [measured(seed, CHOSEN) for seed in size.seeds]
    settings = "".join(f", {name} {value:g}" for name, value in tuned.items())
    note = f"{dense[0].steps} steps each{settings}"
    return [
        *_against(dense, came, workers, size.seeds),
        plain(f"wer_dense_{workers}_workers", _mean(dense), "", seeds=size.seeds, note=note),
    ]


class Job:
    """One training of the base by several workers."""

    def __init__(
        self,
        bench: Bench,
        bridge: BridgeFormerConfig,
        training: Sequence[LabelledUtterance],
        unseen: Sequence[LabelledUtterance],
        workers: int,
        config: TrainConfig,
    ) -> None:
        self.bench, self.bridge, self.unseen, self.workers, self.config = bench, bridge, unseen, workers, config
        self.vocabulary = Vocabulary.of_texts(bench.tokenizer, [item.text for item in training])
        self.examples = examples = bench.examples(training, self.vocabulary)
        # speakers stay together, as recordings do on the devices that they were made on
        people = sorted({item.user for item in training})
        mine = [
            {person for place, person in enumerate(people) if place % workers == worker} for worker in range(workers)
        ]
        self.shares = [
            [example for example, item in zip(examples, training, strict=True) if item.user in users] for users in mine
        ]

    def _trainer(self, examples: Sequence[Example], batch_size: int) -> Trainer:
        config = replace(self.config, batch_size=batch_size)
        trainer = Trainer(self.bridge, config, examples, self.bench.link(self.vocabulary).rows)
        trainer.bridge.frame_mean.copy_(
            Trainer(self.bridge, config, self.examples, trainer.link.rows).bridge.frame_mean
        )
        trainer.bridge.train()
        return trainer

    def _wer(self, trainer: Trainer) -> float:
        frames = [torch.from_numpy(item.frames.astype(np.float32)) for item in self.unseen]
        heard = [
            self.vocabulary.text_of(self.bench.tokenizer, out.rows)
            for out in read_out_all(trainer.bridge, trainer.link, frames)
        ]
        return word_errors([item.text for item in self.unseen], heard).wer

    def dense(self) -> Came:
        """Whole gradients at every step: one training with all workers' batches together."""
        trainer = self._trainer(self.examples, self.workers * self.config.batch_size)
        for _ in range(self.config.epochs):
            trainer.run_epoch()
        steps = trainer.scheduler.last_epoch
        parameters = sum(parameter.numel() for parameter in trainer.bridge.parameters())
        return Came(self._wer(trainer), steps, steps * FLOAT_BYTES * parameters, steps * FLOAT_BYTES * parameters)

    def sparse(self, exchange: ExchangeConfig) -> Came:
        """Local steps, then an exchange, until the shortest share's epochs are through."""
        trainers = [self._trainer(share, self.config.batch_size) for share in self.shares]
        workers = [Participant(trainer.bridge, exchange) for trainer in trainers]
        head = Head(dict(trainers[0].bridge.named_parameters()), exchange)
        generators = [np.random.default_rng([self.config.seed, worker]) for worker in range(len(trainers))]
        batches: list[list[list[int]]] = [[] for _ in trainers]
        total = min(trainer.scheduler.total_steps - 1 for trainer in trainers)
        sent = received = 0
        for step in range(1, total + 1):
            for place, trainer in enumerate(trainers):
                if not batches[place]:
                    lengths = [len(example.frames) for example in trainer.examples]
                    batches[place] = length_batches(lengths, self.config.batch_size, generators[place])
                chosen = batches[place].pop()
                trainer.step([trainer.examples[index] for index in chosen], generators[place])
            if step % exchange.local_steps == 0 or step == total:
                updates = [worker.send() for worker in workers]
                sent += max(len(update) for update in updates)
                update = head.merge(updates)
                received += len(update)
                for worker in workers:
                    worker.receive(update)
        came = Came(self._wer(trainers[0]), total, sent, received)
        log.info("%d workers, %s: %s", self.workers, exchange, came)
        return came


def _mean(came: Sequence[Came]) -> float:
    return float(np.mean([one.wer for one in came]))


def _against(dense: Sequence[Came], came: Sequence[Came], workers: int, seeds: Sequence[int]) -> list[Figure]:
    worse = _mean(came) - _mean(dense)
    ratio = min(one.bytes_each / other.bytes_each for one, other in zip(dense, came, strict=True))
    back = min(one.received_each / other.received_each for one, other in zip(dense, came, strict=True))
    wers = ", ".join(f"{other.wer:.4f} against {one.wer:.4f}" for one, other in zip(dense, came, strict=True))
    note = (
        f"{workers} workers, {CHOSEN.local_steps} local steps, density {CHOSEN.density:g}, bits an entry {CHOSEN.bits}, error "
        f"feedback: WER {wers}; each sent {came[0].bytes_each / 1e6:.2f} MB in {came[0].steps} steps, dense "
        f"{dense[0].bytes_each / 1e6:.0f} MB in {dense[0].steps}"
    )
    return [
        at_least(f"bytes_ratio_{workers}_workers", ratio, 100, "×", note=note, seeds=seeds),
        plain(f"bytes_ratio_received_{workers}_workers", back, "×", note="one update of all of them a round"),
        at_most(f"wer_over_dense_{workers}_workers", worse, 0.005, "", seeds=seeds),
    ]


def _wire(size: Size, workers: int) -> list[Figure]:
    """What the interfaces of the workers counted."""
    import pytest

    name = f"bytes_on_the_wire_{workers}_workers"
    task = Task(workers, CHOSEN, size.epochs, **TUNED[workers])  # type: ignore[arg-type]  # rate and scale alone
    try:
        kept = _kept(["wire", asdict(task)], lambda: asdict(exchange_wire.count(task)))
    except pytest.skip.Exception as reason:  # network namespaces are not allowed here
        return [Figure(name, None, "MB", "", None, note=f"not measured: {reason}")]
    lists = ("updates", "wire", "idle", "before")
    read: dict[str, Any] = {name: [Traffic(**one) for one in kept[name]] for name in lists}
    counted = Counted(**{**kept, **read})
    most, updates, idle = counted.worst, counted.updates[0], max(counted.idle, key=lambda one: one.both)
    note = (
        f"network namespaces, each worker's interface, {counted.steps} steps in {counted.seconds:.0f} s: the one that sent "
        f"most sent {most.sent / 1e6:.2f} MB and received {most.received / 1e6:.2f}, its updates {updates.sent / 1e6:.2f} and "
        f"{updates.received / 1e6:.2f}; dense gradients {counted.dense_bytes / 1e6:.0f} MB each way"
    )
    quiet = f"{idle.sent / 1e3:.1f} kB sent and {idle.received / 1e3:.1f} received a second while nothing is trained"
    return [
        Figure(name, round(most.both / 1e6, 3), "MB", "", None, note=note, details=kept),
        plain(f"updates_of_the_wire_{workers}_workers", updates.both / 1e6, "MB", note="the updates alone, both ways"),
        plain(f"idle_on_the_wire_{workers}_workers", idle.both * counted.seconds / 1e6, "MB", note=f"so long: {quiet}"),
        at_least(
            f"wire_ratio_sent_{workers}_workers",
            counted.dense_bytes / most.sent,
            100,
            "×",
            note="dense gradients, without headers or heart-beats, to all that the interface sent",
        ),
        plain(f"wire_ratio_received_{workers}_workers", counted.dense_bytes / most.received, "×"),
        plain(f"wire_wer_{workers}_workers", counted.wer or 0.0, "", note="of the base of that run, seed 0"),
    ]
