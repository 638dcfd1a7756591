"""Trainings of ``embedlink`` with one of its choices changed, on the splits and by the clock of the methods' comparison.

Dimensions: B utterances, S steps, W BridgeFormer's width, T frames.
"""

from __future__ import annotations

import copy
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from benchmarks import corpora
from benchmarks.alignment import Trained
from benchmarks.methods_runs import Run, Split, example_frames, judge
from pipeline.progress import progress
from stages.alignment.methods.embedlink import EmbedLinkMethod
from stages.alignment.methods.protocol import Schedule, epoch_batches
from stages.alignment.methods.registry import Material, make_method
from stages.alignment.trainer import Example

log = logging.getLogger("edgealign")

JOINED = 4
"""Utterances that are joined to one, to judge a length that no training utterance has."""


@dataclass(frozen=True)
class Variant:
    """One training. Fields that are left alone are ``embedlink``'s as the comparison plans it."""

    schedule: Schedule
    stack: int | None = None  # frames stacked to a step
    positions: bool = False  # a sinusoidal positional encoding is added
    embedding: bool = True  # the embedding term
    warm: bool = False  # begins with the weights of a base that was trained on synthetic speech
    padded: bool = False  # frames come from Whisper's padded 30 s window; see ``padded_split``
    judge_every: int = 16  # steps


class AddPositions(nn.Module):
    """Vaswani et al.'s sinusoids (2017) added to a BridgeFormer's steps; holds no parameter.

    Stands before the blocks and has their signature, so that nothing else of BridgeFormer changes.
    """

    def forward(self, steps: Tensor, mask: Tensor) -> Tensor:
        """(B, S, W) -> (B, S, W); ``mask`` is not looked at."""
        return steps + sinusoids(steps.shape[1], steps.shape[2])


def sinusoids(length: int, width: int) -> Tensor:
    """(length, width): sines in the even channels, cosines in the odd, wavelengths from 2 pi to 10,000 times that."""
    places = torch.arange(length)[:, None]
    angles = places / 10_000 ** (torch.arange(0, width, 2) / width)  # (length, width / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(length, width)


def material_of(variant: Variant, split: Split, start: Trained | None) -> Material:
    """What the variant's method is made from. Raises ValueError where a warm start has no base to begin with."""
    material = split.material
    if variant.stack is not None:
        material = replace(material, bridge=replace(material.bridge, stack=variant.stack))
    if not variant.embedding:
        material = replace(material, embedding_weight=0.0)
    if variant.warm:
        if start is None:
            raise ValueError("a warm start needs a base to begin with, got none: train one on synthetic speech")
        from stages.models.llm import embedding_rows

        vocabulary = start.vocabulary.grown(material.tokenizer, [item.text for item in material.examples])
        examples = [
            replace(item, target=vocabulary.rows_of(material.tokenizer, item.text)) for item in material.examples
        ]
        rows = embedding_rows(split.bench.llm, vocabulary.ids)
        material = replace(material, vocabulary=vocabulary, rows=rows, examples=examples)
    return material


def make_variant(variant: Variant, material: Material, seed: int, start: Trained | None) -> EmbedLinkMethod:
    """``embedlink`` with the variant's changes, ready for its first step."""
    method = make_method("embedlink", material, replace(variant.schedule, seed=seed))
    if not isinstance(method, EmbedLinkMethod):
        raise TypeError(f"got {type(method).__name__} for embedlink, needed EmbedLinkMethod")
    bridge = method.trainer.bridge
    if variant.warm and start is not None:
        mean = bridge.frame_mean.clone()  # that of the speech it goes on with
        bridge.load_state_dict(start.trainer.bridge.state_dict())
        bridge.frame_mean.copy_(mean)
    if variant.positions:
        bridge.blocks.insert(0, AddPositions())
    return method


def run_variant(
    name: str,
    variant: Variant,
    split: Split,
    start: Trained | None = None,
    then: Callable[[EmbedLinkMethod], None] | None = None,
) -> Run:
    """Train on a split's speakers, judge on the unseen ones; ``then`` gets the trained method. As ``run_method`` does it, and
    judged once before the first step as well: a warm start may be good from there."""
    schedule = replace(variant.schedule, seed=split.seed)
    material = material_of(variant, split, start)
    method = make_variant(variant, material, split.seed, start)
    examples = material.examples
    total = schedule.steps(len(examples))
    spent = 0.0
    curve: list[tuple[float, float, int]] = []
    each: list[float] = []

    def judged(items: Sequence[Example]) -> tuple[float, int]:
        nonlocal spent
        before = time.perf_counter()
        errors = judge(method, items)
        spent += time.perf_counter() - before
        return round(errors.wer, 4), errors.words

    curve.append((0.0, judged(split.judged)[0], 0))
    while len(each) < total:
        for batch in epoch_batches(examples, schedule, len(each) // schedule.epoch_steps(len(examples))):
            before = method.seconds
            loss = method.step(batch)
            each.append(method.seconds - before)
            if len(each) % variant.judge_every == 0 or len(each) == total:
                curve.append((round(method.seconds, 2), judged(split.judged)[0], len(each)))
            if len(each) == total:
                break
    wer, words = judged(split.unseen)
    log.info("%s, seed %d: %d steps, %.1f s, loss %.3f, WER %.3f", name, split.seed, total, method.seconds, loss, wer)
    if then is not None:
        then(method)
    return Run(
        method=name,
        seed=split.seed,
        kind="ablation",
        stopped=f"schedule of {total} steps done",
        steps=total,
        seconds=round(method.seconds, 2),
        wer=wer,
        words=words,
        trainable_parameters=method.trainable_parameters(),
        batch_size=schedule.batch_size,
        step_seconds=round(statistics.median(each), 4),
        judge_seconds=round(spent, 1),
        curve=curve,
    )


def padded_split(split: Split) -> Split:
    """The same split with frames from the encoder's padded window, cut to as many as each utterance has on its own length.

    A training on them takes as long as one on the split itself. Encodes every recording: some minutes.
    """
    from stages.audio import load_audio
    from stages.models.encoder import SpeechEncoder

    encoder = SpeechEncoder.load(corpora.models()[0])
    files = {name: path for name, _, _, path in corpora.an4_recordings()}

    def padded(item: Example) -> Example:
        frames = encoder.encode_padded(load_audio(files[item.utterance], item.utterance))[: len(item.frames)]
        advance(1)
        return replace(item, frames=example_frames(frames))

    found = copy.copy(split)
    found.__dict__.pop("material", None)  # made anew, of the new frames
    with progress("encode an4, padded", len(split.training) + len(split.unseen), "utterances") as advance:
        found.training = [padded(item) for item in split.training]
        by_name = {item.utterance: padded(item) for item in split.unseen}
    found.unseen = [by_name[item.utterance] for item in split.unseen]
    found.judged = [by_name[item.utterance] for item in split.judged]
    return found


def joined(items: Sequence[Example], count: int = JOINED) -> list[Example]:
    """Utterances joined ``count`` and ``count``, frames and texts, in their order; a rest of fewer is left out."""
    groups = [items[start : start + count] for start in range(0, len(items) - count + 1, count)]
    return [
        Example(
            "+".join(item.utterance for item in group),
            torch.cat([item.frames for item in group]),
            group[0].target[:0],
            " ".join(item.text for item in group),
        )
        for group in groups
    ]
