"""The base stage: one BridgeFormer for all users of the base cohorts.

Plain data in, plain data out, one epoch a call: a device that vanishes costs at most the epoch that it was in, and the
next one goes on from the same state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from stages.alignment.bridgeformer import BridgeFormer, BridgeFormerConfig
from stages.alignment.embedlink import EmbedLink
from stages.alignment.memory_plan import READ_BATCH
from stages.alignment.metrics import word_errors
from stages.alignment.trainer import Example, TrainConfig, Trainer, read_out_all


@dataclass(frozen=True)
class Corpus:
    """Examples as arrays that may travel to any node; the texts are spelled by the token strings of the rows."""

    utterances: list[str]
    texts: list[str]
    frames: list[np.ndarray]  # (T, F) float16 each
    targets: list[np.ndarray]  # (N,) int64 each
    users: list[str] = field(default_factory=list)  # whose each is, where people are kept apart
    cuts: list[list[np.ndarray]] = field(
        default_factory=list
    )  # other targets of each text, see Example.cuts; may be empty


@dataclass(frozen=True)
class BaseSetup:
    """Everything that one epoch needs besides the state."""

    bridge: BridgeFormerConfig
    train: TrainConfig
    training: Corpus
    held_out: Corpus  # users that the training never sees; may be empty
    rows: np.ndarray  # (V, D) float32 rows of the embedding table
    tokens: list[str]  # the string of each row, with its leading space where it has one
    read_batch: int = READ_BATCH  # held-out utterances that are read out at once
    table: np.ndarray | None = None  # (T, D) the LLM's whole table, where train.sampled_rows are drawn from it

    def trainer(self) -> Trainer:
        """One at random weights that follow from the seed."""
        table = None if self.table is None else torch.from_numpy(self.table.astype(np.float32))
        rows = torch.from_numpy(np.array(self.rows))
        return Trainer(self.bridge, self.train, examples_of(self.training), rows, table)


@dataclass(frozen=True)
class EpochResult:
    """One epoch's outcome."""

    epoch: int
    loss: float
    seconds: float  # of training so far, without evaluation
    dev_wer: float | None  # on the held-out users; None where there are none
    state: dict[str, np.ndarray]  # to go on from


def examples_of(corpus: Corpus) -> list[Example]:
    """The corpus as tensors."""
    all_cuts = corpus.cuts or [[] for _ in corpus.utterances]
    return [
        Example(
            name,
            torch.from_numpy(frames.astype(np.float32)),
            torch.from_numpy(np.array(target)),
            text,
            tuple(torch.from_numpy(np.array(cut)) for cut in cuts),
        )
        for name, text, frames, target, cuts in zip(
            corpus.utterances, corpus.texts, corpus.frames, corpus.targets, all_cuts, strict=True
        )
    ]


def spell(tokens: Sequence[str], rows: Sequence[int]) -> str:
    """The text of a sequence of rows."""
    return " ".join("".join(tokens[row] for row in rows).split())


def run_epoch(setup: BaseSetup, state: dict[str, np.ndarray] | None, threads: int | None = None) -> EpochResult:
    """Train one epoch from ``state`` (None: from the start) and measure on the held-out users."""
    if threads:
        torch.set_num_threads(threads)
    trainer = setup.trainer()
    if state is not None:
        trainer.load_state({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    loss = trainer.run_epoch()
    dev_wer = _dev_wer(setup, trainer.bridge, trainer.link)
    arrays = {name: value.numpy() for name, value in trainer.state().items()}
    return EpochResult(trainer.epoch, loss, trainer.seconds, dev_wer, arrays)


def judge_base(setup: BaseSetup, weights: dict[str, np.ndarray], threads: int | None = None) -> float | None:
    """WER on the held-out users of a BridgeFormer with these weights (its whole state); None where there are none."""
    if threads:
        torch.set_num_threads(threads)
    bridge = BridgeFormer(setup.bridge)
    bridge.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    return _dev_wer(setup, bridge.eval(), EmbedLink(torch.from_numpy(np.array(setup.rows))))


def _dev_wer(setup: BaseSetup, bridge: BridgeFormer, link: EmbedLink) -> float | None:
    if not setup.held_out.utterances:
        return None
    frames = [example.frames for example in examples_of(setup.held_out)]
    outputs = read_out_all(bridge, link, frames, setup.read_batch)
    heard = [spell(setup.tokens, output.rows) for output in outputs]
    return word_errors(setup.held_out.texts, heard).wer
