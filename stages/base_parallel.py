"""One worker of a base training that several devices share: local steps on its own part of the corpus, then an exchange.

Knows nothing of Ray. Everybody begins with the same weights and ends with the same weights, bit for bit; what crosses the
network is what ``stages.alignment.exchange`` packs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from stages.alignment.bridgeformer import BridgeFormer
from stages.alignment.exchange import ExchangeConfig, Head, Participant
from stages.alignment.trainer import Example, Trainer, length_batches, mean_frame, one_cycle
from stages.base import BaseSetup, Corpus, examples_of
from stages.yielding import between_steps


@dataclass(frozen=True)
class Share:
    """A worker's part of a training, and what it must know of the whole."""

    setup: BaseSetup  # ``training`` is its own part, ``held_out`` is empty
    exchange: ExchangeConfig
    frame_mean: np.ndarray  # (F,) float32, of all parts
    rounds: int  # of the whole training
    rank: int


def divide(setup: BaseSetup, workers: int, exchange: ExchangeConfig) -> list[Share]:
    """The parts of ``workers`` workers, by ``setup.training.users``: nobody is in two parts.

    People go to the part that has the fewest frames so far, those with most first. Raises ValueError where there are fewer
    people than workers.
    """
    frames: dict[str, int] = {}
    for user, item in zip(setup.training.users, setup.training.frames, strict=True):
        frames[user] = frames.get(user, 0) + len(item)
    if len(frames) < workers:
        raise ValueError(f"{len(frames)} people for {workers} workers: needed one for each at least")
    parts: list[set[str]] = [set() for _ in range(workers)]
    sizes = [0] * workers
    for user in sorted(frames, key=lambda user: (-frames[user], user)):
        smallest = sizes.index(min(sizes))
        parts[smallest].add(user)
        sizes[smallest] += frames[user]
    mean = mean_frame(examples_of(setup.training)).numpy()
    steps = setup.train.epochs * -(-len(setup.training.frames) // (workers * setup.train.batch_size))
    empty = Corpus([], [], [], [])
    return [
        Share(
            replace(setup, training=_part(setup.training, part), held_out=empty),
            exchange,
            mean,
            max(1, round(steps / exchange.local_steps)),
            rank,
        )
        for rank, part in enumerate(parts)
    ]


def _part(corpus: Corpus, part: set[str]) -> Corpus:
    mine = [place for place, user in enumerate(corpus.users) if user in part]
    return Corpus(
        [corpus.utterances[place] for place in mine],
        [corpus.texts[place] for place in mine],
        [corpus.frames[place] for place in mine],
        [corpus.targets[place] for place in mine],
        [corpus.users[place] for place in mine],
        [corpus.cuts[place] for place in mine] if corpus.cuts else [],
    )


class Worker:
    """Local steps, an update, what all updates came to, and again."""

    def __init__(self, share: Share, agreed: dict[str, np.ndarray] | None = None, done: int = 0) -> None:
        """``agreed``: the weights after ``done`` rounds, for one that is started again; its optimiser begins anew."""
        self._share = share
        train = share.setup.train
        self._trainer = share.setup.trainer()
        bridge = self._trainer.bridge
        bridge.frame_mean.copy_(torch.from_numpy(np.array(share.frame_mean)))
        if agreed is not None:
            bridge.load_state_dict(
                {name: torch.from_numpy(np.array(value)) for name, value in agreed.items()}, strict=False
            )
        bridge.train()
        self._schedule = _Schedule(self._trainer, share.rounds * share.exchange.local_steps)
        self._trainer.scheduler = self._schedule  # type: ignore[assignment]  # one that can be moved
        self._participant = Participant(bridge, share.exchange)
        self._generator = np.random.default_rng([train.seed, share.rank, done])
        torch.manual_seed(int(self._generator.integers(2**31)))
        self._queue: list[list[int]] = []
        self.done = done
        self.losses: list[float] = []  # of the last round

    def round(self, limit_s: float | None = None) -> tuple[bytes, int]:
        """(update, steps taken): as many steps as a round has, or as fit into ``limit_s``, one at least."""
        start = time.monotonic()
        # the rate follows the rounds of all, not the steps of this one: a slow worker must not learn at yesterday's rate
        self._schedule.move(self.done * self._share.exchange.local_steps)
        self.losses = []
        for _ in range(self._share.exchange.local_steps):
            between_steps()
            self.losses.append(self._trainer.step(self._batch(), self._generator))
            if limit_s is not None and time.monotonic() - start >= limit_s:
                break
        return self._participant.send(), len(self.losses)

    def receive(self, update: bytes) -> None:
        """The end of one round: what the head made of all workers' updates."""
        self._participant.receive(update)
        self.done += 1

    @property
    def loss(self) -> float:
        """Mean over the last round's steps."""
        return float(np.mean(self.losses)) if self.losses else 0.0

    def weights(self) -> dict[str, np.ndarray]:
        """What all agree on, while no step of its own came after."""
        return {name: value.detach().numpy().copy() for name, value in self._trainer.bridge.state_dict().items()}

    def _batch(self) -> list[Example]:
        trainer = self._trainer
        if not self._queue:
            lengths = [len(example.frames) for example in trainer.examples]
            self._queue = length_batches(lengths, trainer.config.batch_size, self._generator)
        return [trainer.examples[index] for index in self._queue.pop()]


class _Schedule:
    """The one-cycle rate by the rounds of all, not by the steps of one: a slow worker must not learn at yesterday's rate."""

    def __init__(self, trainer: Trainer, steps: int) -> None:
        self._optimizer = trainer.optimizer
        config = trainer.config
        # PyTorch's schedule cannot be entered in the middle without a warning: it is written down once
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
        scheduler = one_cycle(optimizer, config.learning_rate, steps, config.warm_up)
        self._rates = []
        for _ in range(steps):
            group = optimizer.param_groups[0]
            self._rates.append((group["lr"], group["betas"]))
            optimizer.step()
            scheduler.step()
        self.move(0)

    def move(self, position: int) -> None:
        """Take the rate of step ``position``, from 0 up."""
        self.last_epoch = min(position, len(self._rates) - 1)
        rate, betas = self._rates[self.last_epoch]
        self._optimizer.param_groups[0].update(lr=rate, betas=betas)

    def step(self) -> None:
        """After each step of the optimiser."""
        self.move(self.last_epoch + 1)


def head_of(share: Share) -> Head:
    """The side that keeps the books, with what all workers begin with."""
    worker = Worker(share)
    return Head(dict(worker._trainer.bridge.named_parameters()), share.exchange)


def state_of(setup: BaseSetup, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The whole state of a BridgeFormer: the parameters that workers agreed on, and the mean frame of the whole training."""
    bridge = BridgeFormer(setup.bridge)
    bridge.frame_mean.copy_(mean_frame(examples_of(setup.training)))
    state = {name: value.numpy() for name, value in bridge.state_dict().items()}
    return state | {name: np.array(value) for name, value in weights.items()}
