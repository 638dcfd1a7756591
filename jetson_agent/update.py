"""One update of a user's adapter on the device: learn from what is remembered, judge, take it or leave things as they are.

Every update starts at the base and learns from all that the replay buffer holds, so that errors do not pile up over the
rounds. What keeps other people understood is the method:

- ``none``: the user's utterances alone.
- ``replay``: each step also learns from as many utterances of other people.
- ``ewc``: a change of a weight costs as much as it matters to other people's speech (Kirkpatrick et al., PNAS 2017).
- ``average``: the change is scaled down until the guard is no worse (weight averaging with the base, as WiSE-FT,
  Wortsman et al., CVPR 2022).
- ``replay+average``: both; the default.

The frames are not shifted to the base's mean, as a personal adapter from ``personalize`` does: the shift moves everybody's.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jetson_agent.home import Home
from jetson_agent.replay import Remembered
from jetson_agent.settings import LearnSettings
from stages.alignment import sparse
from stages.alignment.adapter import load_base, load_personal, pack_sparse, save
from stages.alignment.bridgeformer import BridgeFormer
from stages.alignment.embedlink import EmbedLink
from stages.alignment.metrics import word_errors
from stages.alignment.personal import MASKING, user_loss
from stages.alignment.trainer import Example, alignment_loss, collate, mask_frames, one_cycle, read_out_all
from stages.alignment.vocabulary import Vocabulary
from stages.atomic import sha256_bytes

LEAST_JUDGING = 3
"""The user's utterances that an update is judged by, at least: fewer say nothing."""
SCALES = (1.0, 0.75, 0.5, 0.25)
EMBEDDING_WEIGHT = 0.1


@dataclass(frozen=True)
class Outcome:
    """What an update came to."""

    taken: bool
    why: str
    figures: dict[str, Any]


def judges(text: str) -> bool:
    """Whether utterances of this text judge, as one text in four: the same sentence never does both, whenever it is said."""
    return sha256_bytes(text.encode())[0] in "048c"


def split(items: Sequence[Remembered]) -> tuple[list[Remembered], list[Remembered]]:
    """(to learn from, to judge by). Only corrections judge; where too few texts would, the newest corrected ones do as well."""
    corrected = [item for item in items if item.source == "correction" and item.text]
    texts = {item.text for item in corrected if judges(item.text)}
    for item in reversed(corrected):
        if len(texts) >= LEAST_JUDGING:
            break
        texts.add(item.text)
    guard = [item for item in corrected if item.text in texts]
    return [item for item in items if item.text and item.text not in texts], guard


def changes(items: Sequence[Remembered]) -> set[str]:
    """Digests of the corrections: what an update has seen, to tell what is new."""
    return {sha256_bytes(f"{item.utterance}\0{item.text}".encode()) for item in items if item.source == "correction"}


def train(
    base: BridgeFormer,
    link: EmbedLink,
    own: Sequence[Example],
    general: Sequence[Example],
    settings: LearnSettings,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer -> (flat indices, values): the change of ``base`` that the user's examples ask for; ``base`` stays as it is."""
    torch.manual_seed(settings.seed)
    bridge = copy.deepcopy(base).eval()
    total = sum(parameter.numel() for parameter in bridge.parameters())
    scores = sparse.weight_scores(
        bridge, "gradient", lambda: user_loss(bridge, link, own, EMBEDDING_WEIGHT), settings.seed
    )
    chosen = sparse.choose_weights(scores, max(1, round(settings.density * total)))
    layers = sparse.linear_weights(bridge)
    frozen = {name: layers[name].detach().clone() for name in chosen}
    for parameter in bridge.parameters():
        parameter.requires_grad_(False)
    values = {name: nn.Parameter(torch.zeros(len(indices))) for name, indices in chosen.items()}
    importance = _importance(bridge, link, general, chosen) if settings.method == "ewc" else None
    replays = "replay" in settings.method and bool(general)
    optimizer = torch.optim.AdamW(values.values(), lr=settings.learning_rate, weight_decay=0.0)
    scheduler = one_cycle(optimizer, settings.learning_rate, settings.steps, 0.1)
    generator = np.random.default_rng(settings.seed)
    for _ in range(settings.steps):
        changed = {
            f"{name}.weight": frozen[name].view(-1).index_add(0, chosen[name], value).view_as(frozen[name])
            for name, value in values.items()
        }
        loss = torch.zeros(())
        # apart, so that the long utterances of some do not pad the others'
        for side in (own, general) if replays else (own,):
            frames, lengths, targets = collate(_pick(side, settings.batch_size, generator))
            frames = mask_frames(frames, lengths, MASKING, generator)
            loss = loss + _functional_loss(bridge, link, changed, frames, lengths, targets)
        if importance is not None:
            penalty = sum((importance[name] * value.square()).sum() for name, value in values.items())
            loss = loss + settings.ewc_weight * penalty
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(values.values(), 1.0)
        optimizer.step()
        scheduler.step()
    return {name: (chosen[name], value.detach()) for name, value in values.items()}


class _Loss(nn.Module):
    """The loss as a module, so that it can be called with other weights than its own."""

    def __init__(self, bridge: BridgeFormer, link: EmbedLink) -> None:
        super().__init__()
        self.bridge, self.link = bridge, link

    def forward(self, frames: Tensor, lengths: Tensor, targets: list[Tensor]) -> Tensor:
        return alignment_loss(self.bridge, self.link, frames, lengths, targets, EMBEDDING_WEIGHT)


def _functional_loss(
    bridge: BridgeFormer,
    link: EmbedLink,
    changed: dict[str, Tensor],
    frames: Tensor,
    lengths: Tensor,
    targets: list[Tensor],
) -> Tensor:
    weights = {f"bridge.{name}": value for name, value in changed.items()}
    return torch.func.functional_call(_Loss(bridge, link), weights, (frames, lengths, targets))


def _pick(examples: Sequence[Example], most: int, generator: np.random.Generator) -> list[Example]:
    return [examples[index] for index in generator.permutation(len(examples))[:most]]


def _importance(
    bridge: BridgeFormer, link: EmbedLink, general: Sequence[Example], chosen: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The chosen weights' diagonal Fisher information: mean squared gradient over other people's utterances."""
    weights = {name: weight for name, weight in sparse.linear_weights(bridge).items() if name in chosen}
    found = {name: torch.zeros(len(indices)) for name, indices in chosen.items()}
    for weight in weights.values():
        weight.requires_grad_(True)
    for example in general:
        loss = user_loss(bridge, link, [example], 0.0)
        for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            found[name] += gradient.view(-1)[chosen[name]].square() / len(general)
    for weight in weights.values():
        weight.requires_grad_(False)
    return found


def changed_by(base: BridgeFormer, update: dict[str, tuple[Tensor, Tensor]], scale: float) -> BridgeFormer:
    """A copy of ``base`` with ``scale`` times the change, rounded as it will be stored."""
    bridge = copy.deepcopy(base).eval()
    layers = sparse.linear_weights(bridge)
    with torch.no_grad():
        for name, (indices, values) in update.items():
            layers[name].view(-1).index_add_(0, indices, (values * scale).half().float())
    return bridge


class Judge:
    """WER on the user's own held-out utterances and on other people's."""

    def __init__(
        self, link: EmbedLink, vocabulary: Vocabulary, tokenizer: Any, own: Sequence[Any], general: Sequence[Any]
    ):
        self.link, self.vocabulary, self.tokenizer = link, vocabulary, tokenizer
        self.sides = {"own": own, "general": general}

    def judge(self, bridge: BridgeFormer) -> dict[str, float | None]:
        """{"own": WER, "general": WER}; None where nothing judges."""
        return {side: self._wer(bridge, items) for side, items in self.sides.items()}

    def _wer(self, bridge: BridgeFormer, items: Sequence[Any]) -> float | None:
        if not items:
            return None
        frames = [torch.from_numpy(np.asarray(item.frames, dtype=np.float32)) for item in items]
        read = [self.vocabulary.text_of(self.tokenizer, one.rows) for one in read_out_all(bridge, self.link, frames)]
        return word_errors([item.text for item in items], read).wer


def better(new: dict[str, float | None], old: dict[str, float | None], tolerance: float) -> bool:
    """Whether the user's WER fell and other people's is at most ``tolerance`` above the old one."""
    mine, before = new["own"], old["own"]
    return mine is not None and before is not None and mine < before - 1e-9 and no_worse(new, old, tolerance)


def no_worse(new: dict[str, float | None], old: dict[str, float | None], tolerance: float) -> bool:
    """Whether no side that both know got worse by more than ``tolerance``."""
    pairs = [(new[side], old[side]) for side in new]
    return all(after is None or before is None or after <= before + tolerance + 1e-9 for after, before in pairs)


def adapt(home: Home, items: Sequence[Remembered] | None = None) -> Outcome:
    """Learn once from the replay buffer, after any other process that does. Raises InputError: the device is not set up."""
    from filelock import FileLock

    own = home.own
    with FileLock(str(own / ".adapt.lock")):
        for leftover in own.glob("edgealign-adapt-*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        return _adapt(home, home.replay.items() if items is None else items)


def _adapt(home: Home, items: Sequence[Remembered]) -> Outcome:
    start = time.perf_counter()
    from stages.models.llm import embedding_rows, load_tokenizer

    device, settings, shelf = home.device, home.settings, home.shelf
    learn, guard = split(items)
    if not learn or len(guard) < LEAST_JUDGING:
        told = f"{len(learn)} utterance(s) to learn from and {len(guard)} to judge by, at least 1 and {LEAST_JUDGING} needed"
        return Outcome(False, f"{told}: correct more first", {})
    base, vocabulary, record = load_base(device.base)
    tokenizer = load_tokenizer(device.llm)
    replayed, judging = home.general()
    vocabulary = vocabulary.grown(tokenizer, [item.text for item in learn])
    link = EmbedLink(embedding_rows(device.llm, vocabulary.ids))
    general = [item for item in replayed if _spelled(vocabulary, tokenizer, item.text)]
    version = shelf.current()
    judge = Judge(link, vocabulary, tokenizer, guard, judging)
    used = base if version is None else load_personal(version.folder, device.base)[0]
    by_base, by_used = judge.judge(base), judge.judge(used)
    update = train(
        base, link, _examples(learn, vocabulary, tokenizer), _examples(general, vocabulary, tokenizer), settings
    )
    # an adapter must not leave other people worse off than the base did, however little each round costs them
    bar = {"own": by_used["own"], "general": by_base["general"]}
    found: dict[str, float | None] = {}
    for scale in SCALES if "average" in settings.method else SCALES[:1]:
        found = judge.judge(changed_by(base, update, scale))
        if better(found, bar, settings.tolerance):
            break
    good = better(found, bar, settings.tolerance)
    figures = {
        "method": settings.method,
        "scale": scale,
        "utterances": len(learn),
        "judged": {"own": len(guard), "general": len(judging)},
        "wer": {"base": by_base, "before": by_used, "after": found},
        "seconds": round(time.perf_counter() - start, 2),
    }
    if good:
        why = "the user's WER fell, other people's is no worse than the base's"
    elif no_worse(found, bar, settings.tolerance):
        why = "it does not help the user"
    else:
        why = "the user's or other people's WER would get worse"
    if not good:
        shelf.refuse(why, figures)
        return Outcome(False, why, figures)
    tensors = pack_sparse({name: (indices, values * scale) for name, (indices, values) in update.items()})
    made = replace(
        record,
        kind="personal",
        method="shira",
        vocabulary=list(vocabulary.ids),
        base_sha256=record.weights_sha256,
        cohort=device.cohort,
        user=device.user,
        train_utterances=[item.utterance for item in learn],
        held_out_utterances=[item.utterance for item in guard],
        metrics=figures,
        settings={"online": vars(settings)},
    )
    with tempfile.TemporaryDirectory(prefix="edgealign-adapt-", dir=home.own) as folder:
        save(Path(folder) / "adapter", tensors, made)
        shelf.take(Path(folder) / "adapter", why, figures)
    return Outcome(True, why, figures)


def _spelled(vocabulary: Vocabulary, tokenizer: Any, text: str) -> bool:
    try:
        vocabulary.rows_of(tokenizer, text)
    except KeyError:
        return False
    return True


def _examples(items: Sequence[Any], vocabulary: Vocabulary, tokenizer: Any) -> list[Example]:
    return [
        Example(
            item.utterance,
            torch.from_numpy(np.asarray(item.frames, dtype=np.float32)),
            vocabulary.rows_of(tokenizer, item.text),
            item.text,
        )
        for item in items
    ]
