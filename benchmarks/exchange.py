"""Sparse exchange: how few bytes two and four workers may send each other while the base they train stays as good.

The workers take turns in one process, with everything as it would be on as many machines: their own speakers' utterances,
their own optimisers, updates as bytes. So quality and bytes are real and no speed is claimed. The dense reference is one
training with the batch of all workers together, which is what data-parallel training with whole gradients computes.

    make bench AREA=exchange                            about twenty minutes
    EDGEALIGN_EXCHANGE_QUICK=1 make bench AREA=exchange whether it runs: figures of no worth, kept out of docs
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks import corpora
from benchmarks.alignment import Bench, speakers
from benchmarks.record import FOLDER, Figure, at_least, at_most, plain, write_area
from stages.alignment.exchange import ExchangeConfig, Participant
from stages.alignment.metrics import word_errors
from stages.alignment.trainer import Example, TrainConfig, Trainer, length_batches, read_out_all
from stages.alignment.vocabulary import Vocabulary
from stages.examples import LabelledUtterance

log = logging.getLogger("edgealign")

FLOAT_BYTES = 4
CHOSEN = ExchangeConfig(local_steps=8, density=0.1)
OTHERS = (
    ExchangeConfig(local_steps=1, density=0.1),
    ExchangeConfig(local_steps=8, density=1.0),
    ExchangeConfig(local_steps=16, density=0.25),
    ExchangeConfig(local_steps=32, density=0.5),
    ExchangeConfig(local_steps=8, density=0.02),
)
"""Beside the chosen one, with two workers: what more steps or more entries would cost."""
MORE = (ExchangeConfig(local_steps=8, density=0.17), ExchangeConfig(local_steps=16, density=0.25))
"""The same with four, whose trainings have half as many steps."""


@dataclass(frozen=True)
class Size:
    """How much is run."""

    train: int | None = None
    epochs: int = 5
    workers: tuple[int, ...] = (2, 4)
    others: tuple[ExchangeConfig, ...] = OTHERS
    seeds: tuple[int, ...] = (0,)
    folder: Path = FOLDER


@dataclass(frozen=True)
class Came:
    """What came of one training."""

    wer: float
    steps: int
    bytes_each: int  # what one worker sent in all


def size_asked() -> Size:
    """By the environment; see the module."""
    if not os.environ.get("EDGEALIGN_EXCHANGE_QUICK"):
        return Size()
    return Size(40, 1, (2,), OTHERS[:1], (0,), corpora.quick_folder())


def run() -> Path:
    """Measure everything and write docs/benchmarks/exchange.json."""
    size, bench = size_asked(), Bench.open()
    config = replace(bench.train_config(0), epochs=size.epochs)
    found: list[Figure] = []
    for workers in size.workers:
        for seed in size.seeds:
            training, unseen = speakers(corpora.an4(), seed)
            job = Job(bench, training[: size.train], unseen, workers, replace(config, seed=seed))
            dense = job.dense()
            log.info("%d workers, dense: %s", workers, dense)
            found += _against(dense, job.sparse(CHOSEN), CHOSEN, workers)
            for other in size.others if workers == size.workers[0] else MORE:
                found += _against(dense, job.sparse(other), other, workers, asked=False)
            found.append(
                plain(f"wer_dense_{workers}_workers", dense.wer, "", seeds=(seed,), note=f"{dense.steps} steps each")
            )
    return write_area("exchange", found, {}, size.folder)


class Job:
    """One training of the base by several workers."""

    def __init__(
        self,
        bench: Bench,
        training: Sequence[LabelledUtterance],
        unseen: Sequence[LabelledUtterance],
        workers: int,
        config: TrainConfig,
    ) -> None:
        self.bench, self.unseen, self.workers, self.config = bench, unseen, workers, config
        self.vocabulary = Vocabulary.of_texts(bench.tokenizer, [item.text for item in training])
        examples = bench.examples(training, self.vocabulary)
        self.examples = examples
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
        trainer = Trainer(self.bench.bridge, config, examples, self.bench.link(self.vocabulary).rows)
        trainer.bridge.frame_mean.copy_(
            Trainer(self.bench.bridge, config, self.examples, trainer.link.rows).bridge.frame_mean
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
        return Came(self._wer(trainer), steps, steps * FLOAT_BYTES * parameters)

    def sparse(self, exchange: ExchangeConfig) -> Came:
        """Local steps, then an exchange, until the shortest share's epochs are through."""
        trainers = [self._trainer(share, self.config.batch_size) for share in self.shares]
        workers = [Participant(trainer.bridge, exchange) for trainer in trainers]
        generators = [np.random.default_rng([self.config.seed, worker]) for worker in range(len(trainers))]
        batches: list[list[list[int]]] = [[] for _ in trainers]
        total = min(trainer.scheduler.total_steps - 1 for trainer in trainers)
        sent = 0
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
                for worker in workers:
                    worker.receive(updates)
        came = Came(self._wer(trainers[0]), total, sent)
        log.info("%d workers, %s: %s", self.workers, exchange, came)
        return came


def _against(dense: Came, came: Came, exchange: ExchangeConfig, workers: int, asked: bool = True) -> list[Figure]:
    ratio, worse = dense.bytes_each / came.bytes_each, came.wer - dense.wer
    note = (
        f"{workers} workers, {exchange.local_steps} local steps, density {exchange.density:g}, 8 bits, error feedback: WER "
        f"{came.wer:.4f} against {dense.wer:.4f}; each sent {came.bytes_each / 1e6:.2f} MB in {came.steps} steps, dense "
        f"{dense.bytes_each / 1e6:.0f} MB in {dense.steps}"
    )
    if asked:
        return [
            at_least(f"bytes_ratio_{workers}_workers", ratio, 100, "×", note=note),
            at_most(f"wer_over_dense_{workers}_workers", worse, 0.005, ""),
        ]
    key = f"{workers}_workers_{exchange.local_steps}_steps_density_{exchange.density:g}"
    return [plain(f"bytes_ratio_{key}", ratio, "×", note=note), plain(f"wer_over_dense_{key}", worse, "")]
