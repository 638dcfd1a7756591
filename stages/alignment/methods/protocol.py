"""What every method has in common: the same examples in, one optimiser, seconds counted the same way, texts out.

Dimensions: B utterances, T encoder frames (50 Hz), F encoder width.

A method learns by ``step`` and is judged by ``read``; who trains decides on batches, budgets and when to stop, so that all
methods meet the same ones. ``seconds`` counts what happens inside ``step`` and nothing else: no evaluation, no loading.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from stages.alignment.trainer import Example, length_batches, one_cycle
from stages.yielding import between_steps


@dataclass(frozen=True)
class Schedule:
    """How a method learns. The one-cycle rate ends after ``epochs``, so a shorter schedule is another run, not a part."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01
    warm_up: float = 0.1  # share of all steps
    clip: float = 1.0
    limit: int | None = None  # at most so many steps; the rate ends with them
    seed: int = 0

    def epoch_steps(self, examples: int) -> int:
        """Optimiser steps of an epoch."""
        return max(1, -(-examples // self.batch_size))

    def steps(self, examples: int) -> int:
        """Optimiser steps of the whole schedule."""
        total = self.epochs * self.epoch_steps(examples)
        return total if self.limit is None else min(total, self.limit)


class Method(Protocol):
    """One way to let a frozen LLM hear."""

    name: str
    needs_llm: bool
    """Whether the LLM runs while the method learns."""
    seconds: float
    """Of learning so far."""

    def trainable_parameters(self) -> int:
        """How many weights learn."""

    def step(self, batch: Sequence[Example]) -> float:
        """Learn from one batch; its loss before the step. Raises ValueError where the method does not learn."""

    def read(self, heard: Sequence[Example]) -> list[str]:
        """What was said, by the frames alone (``text`` and ``target`` are not looked at), in the order given."""


class Learner:
    """A method that learns by gradients: AdamW under a one-cycle rate, gradient norm clipped, steps timed.

    A subclass names itself, hands over its trainable modules and computes ``loss``.
    """

    name: str
    needs_llm = False

    def __init__(self, modules: Mapping[str, nn.Module], schedule: Schedule, examples: int) -> None:
        """``modules``: what learns; of each, the parameters that require gradients. ``examples``: utterances in an epoch."""
        self.schedule = schedule
        self.modules = dict(modules)
        self.seconds = 0.0
        self.optimizer = torch.optim.AdamW(
            self.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
        )
        self.scheduler = one_cycle(self.optimizer, schedule.learning_rate, schedule.steps(examples), schedule.warm_up)

    def parameters(self) -> list[nn.Parameter]:
        """What learns."""
        return [weight for module in self.modules.values() for weight in module.parameters() if weight.requires_grad]

    def trainable_parameters(self) -> int:
        return sum(weight.numel() for weight in self.parameters())

    def loss(self, batch: Sequence[Example]) -> Tensor:
        """The batch's loss, with gradients."""
        raise NotImplementedError

    def step(self, batch: Sequence[Example]) -> float:
        between_steps()
        start = time.perf_counter()
        self.train(True)
        loss = self.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), self.schedule.clip)
        self.optimizer.step()
        self.scheduler.step()
        value = loss.item()
        self.seconds += time.perf_counter() - start
        return value

    def train(self, on: bool) -> None:
        """Whether dropout and the like are on; a frozen LLM stays in evaluation mode."""
        for module in self.modules.values():
            module.train(on)


def epoch_batches(examples: Sequence[Example], schedule: Schedule, epoch: int) -> Iterator[list[Example]]:
    """The batches of an epoch, of similar length, as ``Trainer`` makes them: they follow from (seed, epoch)."""
    generator = np.random.default_rng([schedule.seed, epoch])
    torch.manual_seed(int(generator.integers(2**31)))
    for batch in length_batches([len(example.frames) for example in examples], schedule.batch_size, generator):
        yield [examples[index] for index in batch]
