"""Training of a base adapter: epochs over stored frames, resumable, with no LLM and no encoder loaded.

AdamW under a one-cycle rate, batches of similar length, gradient norm clipped. Every random choice of an epoch follows
from (seed, epoch), so a run that resumes from ``Trainer.state`` goes on exactly as one that was never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from stages.alignment.bridgeformer import BridgeFormer, BridgeFormerConfig, step_counts
from stages.alignment.embedlink import EmbedLink, can_align, ctc_loss, embedding_loss
from stages.alignment.rescoring import Chooser
from stages.alignment.resume import load_optimizer, optimizer_tensors, schedule_position
from stages.alignment.soft_tokens import ReadOut, read_out
from stages.alignment.spotting import ListedWords, read_with_words, spot
from stages.yielding import between_steps


@dataclass(frozen=True)
class Example:
    """One utterance to learn from."""

    utterance: str
    frames: Tensor  # (T, F) float32
    target: Tensor  # (N,) row indices
    text: str
    cuts: tuple[
        Tensor, ...
    ] = ()  # other row indices of the same text; each epoch learns from one of them, where there are any


@dataclass(frozen=True)
class Masking:
    """Parts of each utterance that are set to zero while training, as in SpecAugment (Park et al., 2019)."""

    time_masks: int = 2  # stretches of frames
    time_mask_frames: int = 6
    feature_masks: int = 2  # bands of encoder channels
    feature_mask_width: int = 24


@dataclass(frozen=True)
class TrainConfig:
    """How a base adapter is trained."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01
    warm_up: float = 0.1  # share of all steps
    clip: float = 1.0
    embedding_weight: float = 0.1
    seed: int = 0
    masking: Masking = Masking()
    tempo: float = 0.0  # share by which an utterance's frames are stretched or squeezed at most, drawn anew each time
    micro_batch: int = 0  # utterances that go through at once; 0: the whole batch. See memory_plan
    sampled_rows: int = 0  # rows of the whole table, drawn anew for each step, that a step's scores compete with


def length_batches(lengths: Sequence[int], batch_size: int, generator: np.random.Generator) -> list[list[int]]:
    """Indices in batches of similar length, in random order; lengths are jittered so that batches differ by epoch."""
    jittered = np.asarray(lengths) * generator.uniform(0.85, 1.15, len(lengths))
    order = np.argsort(jittered, kind="stable")
    batches = [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]
    generator.shuffle(batches)
    return batches


def collate(examples: Sequence[Example]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Examples -> (B, T, F) zero-padded frames, (B,) frame counts, B targets."""
    frames = pad_sequence([example.frames for example in examples], batch_first=True)
    lengths = torch.tensor([len(example.frames) for example in examples])
    return frames, lengths, [example.target for example in examples]


def mean_frame(examples: Sequence[Example]) -> Tensor:
    """The (F,) mean over all frames of all examples."""
    total = torch.stack([example.frames.sum(dim=0, dtype=torch.float64) for example in examples]).sum(dim=0)
    return (total / sum(len(example.frames) for example in examples)).float()


def mask_frames(frames: Tensor, lengths: Tensor, config: Masking, generator: np.random.Generator) -> Tensor:
    """A copy of (B, T, F) frames with random stretches of time and bands of channels set to zero."""
    if not config.time_masks and not config.feature_masks:
        return frames
    frames = frames.clone()
    for index, length in enumerate(lengths.tolist()):
        for _ in range(config.time_masks):
            width = int(generator.integers(0, config.time_mask_frames + 1))
            start = int(generator.integers(0, max(1, length - width)))
            frames[index, start : start + width] = 0.0
        for _ in range(config.feature_masks):
            width = int(generator.integers(0, config.feature_mask_width + 1))
            start = int(generator.integers(0, max(1, frames.shape[2] - width)))
            frames[index, :, start : start + width] = 0.0
    return frames


def stretch(frames: Tensor, factor: float) -> Tensor:
    """(T, F) frames -> (round(T * factor), F), at least one: the same speech slower or faster, between frames in a line."""
    length = max(1, round(len(frames) * factor))
    return functional.interpolate(frames.T[None], size=length, mode="linear", align_corners=False)[0].T


def one_cycle(
    optimizer: torch.optim.Optimizer, learning_rate: float, steps: int, warm_up: float
) -> torch.optim.lr_scheduler.OneCycleLR:
    """The one-cycle schedule for a run of ``steps`` steps, with a warm-up of at least two of them.

    PyTorch's own divides by zero where the warm-up comes to one step, as it does in very short runs.
    """
    total = max(steps + 1, 4)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=learning_rate, total_steps=total, pct_start=max(warm_up, 2 / total)
    )


class Trainer:
    """One base training: a BridgeFormer, its optimiser and its place in the schedule."""

    def __init__(
        self,
        bridge_config: BridgeFormerConfig,
        config: TrainConfig,
        examples: Sequence[Example],
        rows: Tensor,
        table: Tensor | None = None,
    ) -> None:
        """``rows``: (V, D) unnormalised embedding rows that the examples' targets index; ``table``: all rows of the LLM, which
        ``config.sampled_rows`` are drawn from. Raises ValueError where it is needed and missing."""
        if config.sampled_rows and table is None:
            raise ValueError(f"sampled_rows={config.sampled_rows} are drawn from the LLM's table: give it")
        self.table = table
        torch.manual_seed(config.seed)
        self.config = config
        self.examples = list(examples)
        self.bridge = BridgeFormer(bridge_config)
        self.bridge.frame_mean.copy_(mean_frame(self.examples))
        self.link = EmbedLink(rows)
        self.epoch = 0
        self.seconds = 0.0
        self.optimizer = torch.optim.AdamW(
            self.bridge.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        steps = config.epochs * max(1, -(-len(self.examples) // config.batch_size))
        self.scheduler = one_cycle(self.optimizer, config.learning_rate, steps, config.warm_up)

    def run_epoch(self) -> float:
        """Train one epoch; returns its mean loss and adds its time to ``seconds``."""
        start = time.perf_counter()
        generator = np.random.default_rng([self.config.seed, self.epoch])
        torch.manual_seed(int(generator.integers(2**31)))
        self.bridge.train()
        losses = []
        batches = length_batches([len(example.frames) for example in self.examples], self.config.batch_size, generator)
        for batch in batches:
            between_steps()
            losses.append(self.step([self.examples[index] for index in batch], generator))
        self.epoch += 1
        self.seconds += time.perf_counter() - start
        return float(np.mean(losses))

    def step(self, batch: Sequence[Example], generator: np.random.Generator) -> float:
        """One optimiser step on a batch, masks drawn from ``generator``; the loss before it."""
        config = self.config
        batch = [_paced(_cut(example, generator), config.tempo, generator) for example in batch]
        link = self.link
        if config.sampled_rows and self.table is not None:
            # a row that is drawn and is a target's too competes with itself: one in a hundred at most, and it costs little
            drawn = torch.from_numpy(generator.choice(len(self.table), config.sampled_rows, replace=False))
            link = EmbedLink(torch.cat([link.rows, self.table[drawn]]))
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for loss in batch_losses(
            self.bridge,
            link,
            batch,
            config.embedding_weight,
            config.micro_batch,
            lambda frames, lengths: mask_frames(frames, lengths, config.masking, generator),
        ):
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(self.bridge.parameters(), config.clip)
        self.optimizer.step()
        self.scheduler.step()
        return total

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on, as flat tensors (safetensors holds no pickles)."""
        flat = {f"bridge.{name}": value.clone() for name, value in self.bridge.state_dict().items()}
        flat |= optimizer_tensors(self.optimizer)
        position, *rates = schedule_position(self.optimizer, self.scheduler)
        progress = [self.epoch, position, self.seconds, *rates]
        flat["progress"] = torch.tensor(progress, dtype=torch.float64)
        return flat

    def load_state(self, flat: dict[str, Tensor]) -> None:
        """Go on from a ``state`` of a trainer with the same configuration and examples."""
        self.bridge.load_state_dict({key[7:]: value for key, value in flat.items() if key.startswith("bridge.")})
        epoch, position, self.seconds, *rates = flat["progress"].tolist()
        self.epoch = int(epoch)
        load_optimizer(self.optimizer, self.scheduler, flat, [position, *rates])


def _cut(example: Example, generator: np.random.Generator) -> Example:
    """The example with one of its cuts for a target; itself where it has none."""
    if not example.cuts:
        return example
    return replace(example, target=example.cuts[int(generator.integers(len(example.cuts)))])


def _paced(example: Example, tempo: float, generator: np.random.Generator) -> Example:
    """The example spoken up to ``tempo`` slower or faster. Stored frames are stretched: nothing is encoded again."""
    if not tempo:
        return example
    return replace(example, frames=stretch(example.frames, generator.uniform(1.0 - tempo, 1.0 + tempo)))


def alignment_loss(
    bridge: BridgeFormer,
    link: EmbedLink,
    frames: Tensor,
    lengths: Tensor,
    targets: list[Tensor],
    embedding_weight: float,
    ctc_weight: float = 1.0,
) -> Tensor:
    """CTC over the rows plus ``embedding_weight`` times the embedding term; shapes as in ``embedlink``."""
    log_posteriors, vectors, counts = link.log_posteriors(bridge, frames, lengths)
    loss = ctc_loss(log_posteriors, counts, targets)
    if ctc_weight != 1.0:
        loss = ctc_weight * loss
    if embedding_weight > 0.0:
        loss = loss + embedding_weight * embedding_loss(vectors, log_posteriors, counts, targets, link.unit_rows)
    return loss


def batch_losses(
    bridge: BridgeFormer,
    link: EmbedLink,
    examples: Sequence[Example],
    embedding_weight: float,
    micro_batch: int = 0,
    masked: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Iterator[Tensor]:
    """The loss of a batch in pieces of ``micro_batch`` utterances (0: in one) that add up to the loss of the whole.

    Each piece is to be used (``backward``) before the next is asked for: only one is in memory then. CTC is a mean over
    utterances, the embedding term one over the tokens that can be aligned, so pieces weigh by their share of each.
    ``masked`` changes (B, T, F) frames of (B,) counts, utterance by utterance in their order.
    """
    size = micro_batch or len(examples)
    tokens = [_aligned_tokens(example, bridge.config.stack) for example in examples]
    for start in range(0, len(examples), size):
        piece = examples[start : start + size]
        frames, lengths, targets = collate(piece)
        if masked is not None:
            frames = masked(frames, lengths)
        whole = len(piece) == len(examples)
        share = 1.0 if whole else len(piece) / len(examples)
        spoken = 1.0 if whole else sum(tokens[start : start + size]) / max(1, sum(tokens))
        yield alignment_loss(bridge, link, frames, lengths, targets, spoken * embedding_weight, share)


def _aligned_tokens(example: Example, stack: int) -> int:
    """Tokens of an example that count in the embedding term."""
    steps = int(step_counts(torch.tensor(len(example.frames)), stack))
    return len(example.target) if can_align(example.target, steps) else 0


@torch.inference_mode()
def read_out_all(
    bridge: BridgeFormer,
    link: EmbedLink,
    frames: Sequence[Tensor],
    batch_size: int = 32,
    words: ListedWords | None = None,
    chooser: Chooser | None = None,
) -> list[ReadOut]:
    """Read-outs of utterances' (T, F) frames, in the order given; batched by length for speed.

    ``words`` are listened for. ``chooser`` reads again what is unsure, but no utterance in which a listed word was found.
    """
    was_training = bridge.training
    bridge.eval()
    outputs: list[ReadOut | None] = [None] * len(frames)
    order = sorted(range(len(frames)), key=lambda index: len(frames[index]))
    for start in range(0, len(order), batch_size):
        between_steps()
        batch = order[start : start + batch_size]
        padded = pad_sequence([frames[index].float() for index in batch], batch_first=True)
        lengths = torch.tensor([len(frames[index]) for index in batch])
        log_posteriors, _, counts = link.log_posteriors(bridge, padded, lengths)
        for place, index in enumerate(batch):
            own = log_posteriors[place, : int(counts[place])]
            found = spot(own, words) if words else []
            if words and found:
                outputs[index] = read_with_words(own, link.rows, words, found)
                continue
            heard = read_out(own, link.rows)
            if chooser is not None:
                heard = chooser(own, link.rows, heard, partial(_at_tempo, bridge, link, frames[index]))
            outputs[index] = heard
    bridge.train(was_training)
    return [output for output in outputs if output is not None]


def _at_tempo(bridge: BridgeFormer, link: EmbedLink, frames: Tensor, tempo: float) -> Tensor:
    """(S, 1 + V) log posteriors of (T, F) frames stretched to ``tempo`` times their length."""
    stretched = stretch(frames.float(), tempo)
    log_posteriors, _, counts = link.log_posteriors(bridge, stretched[None], torch.tensor([len(stretched)]))
    return log_posteriors[0, : int(counts[0])]
