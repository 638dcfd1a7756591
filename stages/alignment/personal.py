"""Personal adapters: a small change of a base adapter, learned in seconds from a few utterances of one user.

First the user's frames are shifted so that their mean is the base's (see ``BridgeFormer.frame_shift``); then weights learn.
Three methods through PEFT: ``shira`` changes a chosen 1 to 2 % of the linear weights (SHiRA, Bhardwaj et al., 2024,
with the mask computed from the user's own utterances), ``lora`` adds a low-rank product, ``full`` changes everything.
``blocks`` changes the last whole blocks, without PEFT, so that learning itself costs less (see ``freezing``).

Other people's utterances may hold a sparse adapter back, so that it goes on understanding them: ``replay`` learns from so many
of them in each step, ``ewc_weight`` makes a change cost as much as the weight matters to them (elastic weight
consolidation, Kirkpatrick et al., PNAS 2017). ``strength`` keeps a share of the whole change: between base and update lies
what has lost less of the one and nearly all that the other learned (Wortsman et al., CVPR 2022).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.alignment import sparse
from stages.alignment.adapter import pack_sparse
from stages.alignment.bridgeformer import BridgeFormer
from stages.alignment.embedlink import EmbedLink
from stages.alignment.freezing import freeze_below
from stages.alignment.packed import Packed
from stages.alignment.resume import Checkpoint, load_optimizer, optimizer_tensors, schedule_position
from stages.alignment.trainer import (
    Example,
    Masking,
    alignment_loss,
    batch_losses,
    collate,
    mask_frames,
    mean_frame,
    one_cycle,
)
from stages.yielding import between_steps

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER = "personal"
CHOSEN = "chosen."
"""Prefix of a checkpoint's tensors that say which weights change."""
MASKING = Masking(time_mask_frames=8, feature_mask_width=40)


@dataclass(frozen=True)
class PersonalConfig:
    """How a personal adapter is trained; fields as in ``params.yaml``."""

    method: str = "shira"
    density: float = 0.01
    mask: str = "gradient"
    lora_rank: int = 8
    trainable_blocks: int = 1  # for method blocks: the last so many
    steps: int = 60
    batch_size: int = 8
    learning_rate: float = 3e-3
    warm_up: float = 0.1
    clip: float = 1.0
    embedding_weight: float = 0.1
    masking: Masking = MASKING
    strength: float = 1.0  # share of the learned change that is kept
    shift: bool = True  # whether the user's frames are shifted to the base's mean
    replay: int = 0  # other people's utterances in each step
    ewc_weight: float = 0.0  # 0: a change costs nothing; for method shira
    seed: int = 0
    micro_batch: int = 0  # utterances that go through at once in a step; 0: the whole batch. See memory_plan
    score_batch: int = 0  # and where the mask is computed; 0: all


@dataclass(frozen=True)
class PersonalResult:
    """A trained change, ready to be saved, and what it took."""

    tensors: dict[str, np.ndarray]
    trainable_parameters: int
    density: float  # share of the base's weights that change
    seconds: float
    curve: list[tuple[int, float]] = field(default_factory=list)  # (step, loss)
    resumed_at: int = 0  # steps that a training that was cut off had done before


def user_loss(bridge: BridgeFormer, link: EmbedLink, examples: Sequence[Example], embedding_weight: float) -> Tensor:
    """The loss over all of a user's examples in one batch."""
    frames, lengths, targets = collate(examples)
    return alignment_loss(bridge, link, frames, lengths, targets, embedding_weight)


def attach_sparse(bridge: BridgeFormer, chosen: dict[str, Tensor]) -> PeftModel:
    """Wrap ``bridge`` with SHiRA layers that train exactly the chosen flat indices of each layer.

    PEFT gives every layer r (in + out) weights. A mask over all layers together gives each layer as many as it deserves,
    so the layer's vector and indices are set to the chosen ones after PEFT has made the layer.
    """
    from peft import ShiraConfig, get_peft_model
    from peft.tuners.shira.layer import ShiraLayer

    # the indices come from topk over the layers themselves; saying so keeps torch from warning at every start
    torch.sparse.check_sparse_tensor_invariants.disable()
    config = ShiraConfig(r=1, target_modules=list(chosen))
    model = get_peft_model(bridge, config, adapter_name=ADAPTER)
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, ShiraLayer):
            width = layer.get_base_layer().weight.shape[1]
            flat = chosen[name]
            layer.shira_indices[ADAPTER] = torch.stack([flat // width, flat % width]).int()
            layer.shira_weight[ADAPTER] = nn.Parameter(torch.zeros(len(flat)))
    return model


def importance(
    bridge: BridgeFormer, link: EmbedLink, others: Sequence[Example], chosen: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Diagonal Fisher information of the chosen weights: mean squared gradient over other people's utterances."""
    weights = {name: weight for name, weight in sparse.linear_weights(bridge).items() if name in chosen}
    found = {name: torch.zeros(len(indices)) for name, indices in chosen.items()}
    for example in others:
        gradients = torch.autograd.grad(user_loss(bridge, link, [example], 0.0), list(weights.values()))
        for name, gradient in zip(weights, gradients, strict=True):
            found[name] += gradient.view(-1)[chosen[name]].square() / len(others)
    return found


def personalize(
    base: BridgeFormer,
    link: EmbedLink,
    examples: Sequence[Example],
    config: PersonalConfig,
    others: Sequence[Example] = (),
    checkpoint: Checkpoint | None = None,
    watch: Callable[[int, BridgeFormer], None] | None = None,
) -> PersonalResult:
    """Learn one user's change of ``base``; ``base`` itself is left as it is.

    Dropout is off; parts of the frames are masked, so that the few utterances are not simply learned by heart.
    ``others``: other people's utterances, for ``config.replay`` and ``config.ewc_weight``. With a ``checkpoint`` that holds
    a training of the same that was cut off, it goes on there and comes to the same result, bit for bit. ``watch`` is shown
    the model after each step, with the steps done and the change at its full strength; what it takes counts in no second.
    """
    if config.method in ("shira", "lora"):
        # some seconds and 200 MB, once in a process, that those who only listen are spared: no part of what training takes
        import peft
    start = time.perf_counter()
    saved = checkpoint.load() if checkpoint is not None else None
    torch.manual_seed(config.seed)
    bridge = copy.deepcopy(base).eval()
    if config.shift:
        bridge.frame_shift.copy_((base.frame_mean - mean_frame(examples)).half())  # as it will be stored
    total = sum(parameter.numel() for parameter in bridge.parameters())
    costs: dict[str, Tensor] = {}
    before = {name: value.detach().clone() for name, value in bridge.named_parameters()}
    chosen: dict[str, Tensor] = {}
    if config.method == "shira":
        if saved is not None:
            chosen = {name.removeprefix(CHOSEN): value for name, value in saved[0].items() if name.startswith(CHOSEN)}
        else:
            chosen = _choose(bridge, link, examples, config, total)
        if config.ewc_weight and others:
            costs = importance(bridge, link, others, chosen)
        model: PeftModel | None = attach_sparse(bridge, chosen)
    elif config.method == "lora":
        targets = list(sparse.linear_weights(bridge))
        lora = peft.LoraConfig(
            r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules=targets, lora_dropout=0.0
        )
        model = peft.get_peft_model(bridge, lora, adapter_name=ADAPTER)
    elif config.method in ("full", "blocks"):
        model = None
        if config.method == "blocks":
            freeze_below(bridge, config.trainable_blocks)
    else:
        raise ValueError(f"method {config.method!r} is not known: shira, lora, full or blocks")
    trained = model.get_base_model() if model is not None else bridge
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    layers = dict(trained.named_modules())
    pull = [(cost, layers[name].shira_weight[ADAPTER]) for name, cost in costs.items()]
    work = _Work(Packed(trained), link, examples, others if config.replay else (), pull)
    steps = _Steps(parameters, config, chosen)
    if saved is not None:
        steps.restore(*saved)
    resumed_at = len(steps.curve)
    watched_s = _train(work, steps, config, checkpoint, watch)
    tensors = _extract(trained, before, config.method, config.strength)
    tensors["frame_shift"] = bridge.frame_shift.numpy().astype(np.float16)
    trainable = sum(parameter.numel() for parameter in parameters)
    seconds = time.perf_counter() - start - watched_s
    return PersonalResult(tensors, trainable, trainable / total, seconds, steps.curve, resumed_at)


def _choose(
    bridge: BridgeFormer, link: EmbedLink, examples: Sequence[Example], config: PersonalConfig, total: int
) -> dict[str, Tensor]:
    """The flat indices of the weights of each layer that will change."""
    scores = sparse.weight_scores(
        bridge,
        config.mask,
        lambda: batch_losses(Packed(bridge), link, examples, config.embedding_weight, config.score_batch),
        config.seed,
    )
    return sparse.choose_weights(scores, max(1, round(config.density * total)))


@dataclass(frozen=True)
class _Work:
    """What learns, and from what."""

    bridge: BridgeFormer
    link: EmbedLink
    examples: Sequence[Example]
    replayed: Sequence[Example]
    pull: Sequence[tuple[Tensor, Tensor]]  # (importance, change) of each layer that is held back


class _Steps:
    """Where a training stands: all that a step takes from the steps before it."""

    def __init__(self, parameters: list[nn.Parameter], config: PersonalConfig, chosen: Mapping[str, Tensor]) -> None:
        self.parameters, self._chosen = parameters, chosen
        self.optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
        self.scheduler = one_cycle(self.optimizer, config.learning_rate, config.steps, config.warm_up)
        self.generator = np.random.default_rng(config.seed)
        self.queue: list[int] = []  # of examples, in the order in which they come
        self.curve: list[tuple[int, float]] = []

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors, and what JSON can say."""
        tensors = {f"{CHOSEN}{name}": value for name, value in self._chosen.items()}
        tensors |= {f"parameter.{index}": value.detach() for index, value in enumerate(self.parameters)}
        tensors |= optimizer_tensors(self.optimizer)
        told = {
            "position": schedule_position(self.optimizer, self.scheduler),
            "generator": self.generator.bit_generator.state,
            "queue": self.queue,
            "curve": self.curve,
        }
        return tensors, told

    def restore(self, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters):
                parameter.copy_(tensors[f"parameter.{index}"])
        load_optimizer(self.optimizer, self.scheduler, tensors, told["position"])
        self.generator.bit_generator.state = told["generator"]
        self.queue = list(told["queue"])
        self.curve = [(step, loss) for step, loss in told["curve"]]


def _train(
    work: _Work,
    steps: _Steps,
    config: PersonalConfig,
    checkpoint: Checkpoint | None,
    watch: Callable[[int, BridgeFormer], None] | None,
) -> float:
    """The steps that are left; the seconds that ``watch`` took. Where the gate between them ends the training, what was done is
    kept."""
    watched_s = 0.0
    while len(steps.curve) < config.steps:
        try:
            between_steps()
        except BaseException:
            if checkpoint is not None:
                checkpoint.save(*steps.state())
            raise
        if checkpoint is not None and checkpoint.due():
            checkpoint.save(*steps.state())
        steps.curve.append((len(steps.curve) + 1, _step(work, steps, config)))
        if watch is not None:
            start = time.perf_counter()
            watch(len(steps.curve), work.bridge)
            watched_s += time.perf_counter() - start
    if checkpoint is not None:
        checkpoint.save(*steps.state())  # judging takes its time, too
    return watched_s


def _step(work: _Work, steps: _Steps, config: PersonalConfig) -> float:
    """One step; the loss before it."""
    size = min(config.batch_size, len(work.examples))
    if len(steps.queue) < size:
        steps.queue += steps.generator.permutation(len(work.examples)).tolist()
    batch = [work.examples[steps.queue.pop(0)] for _ in range(size)]
    steps.optimizer.zero_grad(set_to_none=True)
    parts = _step_losses(work, batch, config, steps.generator)
    total = 0.0
    for loss in parts if config.micro_batch else [reduce(add, parts)]:
        loss.backward()
        total += loss.item()
    nn.utils.clip_grad_norm_(steps.parameters, config.clip)
    steps.optimizer.step()
    steps.scheduler.step()
    return total


def _step_losses(
    work: _Work, own: Sequence[Example], config: PersonalConfig, generator: np.random.Generator
) -> Iterator[Tensor]:
    """What adds up to the loss of one step."""

    def losses(batch: Sequence[Example]) -> Iterator[Tensor]:
        return batch_losses(
            work.bridge,
            work.link,
            batch,
            config.embedding_weight,
            config.micro_batch,
            lambda frames, lengths: mask_frames(frames, lengths, config.masking, generator),
        )

    yield from losses(own)
    if work.replayed:  # apart, so that the long utterances of some do not pad the others'
        mixed = generator.permutation(len(work.replayed))[: config.replay]
        yield from losses([work.replayed[index] for index in mixed])
    for cost, change in work.pull:
        yield config.ewc_weight * (cost * change.square()).sum()


def _extract(bridge: nn.Module, before: dict[str, Tensor], method: str, strength: float) -> dict[str, np.ndarray]:
    """A share of the trained change in the form of its method, as ``adapter.apply_update`` reads it."""
    if method == "shira":
        update = {}
        for name, layer in bridge.named_modules():
            if hasattr(layer, "shira_weight"):
                rows, columns = layer.shira_indices[ADAPTER].long()
                update[name] = (
                    rows * layer.get_base_layer().weight.shape[1] + columns,
                    strength * layer.shira_weight[ADAPTER].detach(),
                )
        return pack_sparse(update)
    if method == "lora":
        tensors = {}
        for name, layer in bridge.named_modules():
            if hasattr(layer, "lora_A"):
                scaling = strength * layer.scaling[ADAPTER]
                tensors[f"{name}.down"] = layer.lora_A[ADAPTER].weight.detach().numpy().astype(np.float16)
                tensors[f"{name}.up"] = (scaling * layer.lora_B[ADAPTER].weight.detach()).numpy().astype(np.float16)
        return tensors
    learned = {name: value.detach() for name, value in bridge.named_parameters() if value.requires_grad}
    return {name: (strength * (value - before[name])).numpy().astype(np.float16) for name, value in learned.items()}
