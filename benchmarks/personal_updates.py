"""Personal updates of our base: learning and judging on one fold."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.alignment import Bench
from benchmarks.personal_users import Fold, OurBase
from benchmarks.sparse import Candidate
from stages.alignment.adapter import apply_update
from stages.alignment.bridgeformer import BridgeFormer
from stages.alignment.metrics import ErrorCounts, word_errors
from stages.alignment.personal import PersonalConfig, PersonalResult, personalize
from stages.alignment.trainer import Masking

NO_MASKING = Masking(0, 0, 0, 0)


@dataclass(frozen=True)
class OurPlan:
    """How an update of ours learns. Fields that are left alone are params.yaml's."""

    candidate: Candidate
    learning_rate: float
    steps: int
    batch_size: int
    masked: bool = True
    strength: float = 1.0

    def config(self, settings: PersonalConfig) -> PersonalConfig:
        """For ``personalize``."""
        chosen = replace(
            settings,
            method=self.candidate.method,
            trainable_blocks=self.candidate.blocks,
            learning_rate=self.learning_rate,
            steps=self.steps,
            batch_size=self.batch_size,
            strength=self.strength,
        )
        if self.candidate.mask:
            chosen = replace(chosen, mask=self.candidate.mask, density=self.candidate.density)
        return chosen if self.masked else replace(chosen, masking=NO_MASKING)


def learn(
    bench: Bench,
    base: OurBase,
    fold: Fold,
    config: PersonalConfig,
    watch: Callable[[int, BridgeFormer], None] | None = None,
) -> PersonalResult:
    """A user's update, from the utterances that the fold learns from."""
    vocabulary = base.vocabulary.grown(bench.tokenizer, [item.text for item in fold.train])
    examples = bench.examples(fold.train, vocabulary)
    return personalize(base.bridge, bench.link(vocabulary), examples, config, watch=watch)


def errors_of(bench: Bench, base: OurBase, fold: Fold, bridge: BridgeFormer) -> ErrorCounts:
    """Word errors on the fold's held-out utterances."""
    vocabulary = base.vocabulary.grown(bench.tokenizer, [item.text for item in fold.train])
    heard = bench.heard(bridge, vocabulary, fold.held_out)
    return word_errors([item.text for item in fold.held_out], [text for text, _ in heard])


def judged(bench: Bench, base: OurBase, fold: Fold, plan: OurPlan | None, settings: PersonalConfig) -> tuple[int, int]:
    """(word errors, words) of a fold, as its update is stored and read back; without a plan, of the base."""
    bridge = base.bridge
    if plan is not None:
        config = plan.config(settings)
        result = learn(bench, base, fold, config)
        bridge = copy.deepcopy(base.bridge).eval()
        apply_update(bridge, result.tensors, config.method)
    found = errors_of(bench, base, fold, bridge)
    return found.errors, found.words


def judged_at(
    bench: Bench, base: OurBase, fold: Fold, plan: OurPlan, settings: PersonalConfig, strengths: Sequence[float]
) -> list[tuple[int, int]]:
    """The same of one training at each of ``strengths``, unrounded."""
    config = replace(plan, strength=1.0).config(settings)
    result = learn(bench, base, fold, config)
    whole = copy.deepcopy(base.bridge).eval()
    apply_update(whole, result.tensors, config.method)
    found = []
    for strength in strengths:
        part = copy.deepcopy(whole)
        with torch.no_grad():
            for (_, value), before in zip(part.named_parameters(), base.bridge.parameters(), strict=True):
                value.copy_(before + strength * (value - before))
        errors = errors_of(bench, base, fold, part)
        found.append((errors.errors, errors.words))
    return found


def piece(plan: Any, group: str, fold: Fold) -> str:
    """The name of what was measured of a plan (None: the base) on a fold."""
    return f"{plan} {group} {fold.name}"


def total(known: Mapping[str, Any], plan: Any, group: str, folds: Sequence[Fold]) -> tuple[int, int] | None:
    """(errors, words) over folds; None where one of them is not measured."""
    pairs = [known.get(piece(plan, group, fold)) for fold in folds]
    if not pairs or any(pair is None for pair in pairs):
        return None
    return sum(pair[0] for pair in pairs if pair), sum(pair[1] for pair in pairs if pair)


def best(known: Mapping[str, Any], plans: Sequence[Any], group: str, folds: Sequence[Fold]) -> Any | None:
    """The plan with the fewest errors over folds, of equals the one of the lower rate; None where one is not measured."""
    found = [(total(known, plan, group, folds), plan) for plan in plans]
    if not found or any(errors is None for errors, _ in found):
        return None
    return min(found, key=lambda pair: (pair[0][0] if pair[0] else 0, pair[1].learning_rate))[1]
