"""The memory plan's arithmetic, and batches in pieces against whole ones; its peaks are measured in tests/integration."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from pipeline.cluster.nodes import NodeInfo
from pipeline.runs.memory import plan_all
from stages.alignment.bridgeformer import BridgeFormer, BridgeFormerConfig
from stages.alignment.embedlink import EmbedLink
from stages.alignment.memory_plan import MemoryPlan, Work, parameter_count, plan_memory, standing_bytes
from stages.alignment.personal import PersonalConfig, personalize
from stages.alignment.trainer import Masking, Trainer, alignment_loss, batch_losses, collate
from stages.errors import ClusterError
from tests.helpers_alignment import CONFIG, rows, spoken, train_config

BRIDGE = BridgeFormerConfig(encoder_width=384, llm_width=576)
WORK = Work("base", BRIDGE, 16, 113, [f"u{index}" for index in range(40)], [*range(100, 1600, 40), 90, 1500], [40] * 40)


@pytest.mark.parametrize("config", [BRIDGE, CONFIG, BridgeFormerConfig(80, 64, stack=3, layers=3)])
def test_parameters_are_counted_as_the_model_has_them(config: BridgeFormerConfig) -> None:
    assert parameter_count(config) == sum(parameter.numel() for parameter in BridgeFormer(config).parameters())


def test_the_largest_pieces_that_fit_are_taken() -> None:
    roomy = plan_memory(WORK, 6_000_000_000)
    assert (roomy.micro_batch, roomy.accumulation, roomy.micro_setting) == (16, 1, 0)
    tight = plan_memory(WORK, roomy.planned_bytes - 1)
    assert (tight.micro_batch, tight.accumulation, tight.micro_setting) == (15, 2, 15)
    least = plan_memory(WORK, plan_memory(replace(WORK, batch_size=1), 10**12).planned_bytes)
    assert (least.micro_batch, least.accumulation) == (1, 16)
    with pytest.raises(ClusterError):
        plan_memory(WORK, least.planned_bytes - 1)


def test_utterances_that_may_be_stretched_are_planned_at_their_longest() -> None:
    stretched, longer = replace(WORK, tempo=0.5), replace(WORK, frames=[round(1.5 * count) for count in WORK.frames])
    kept = standing_bytes(longer)["the frames of all utterances"] - standing_bytes(WORK)["the frames of all utterances"]
    whole = plan_memory(longer, 6_000_000_000).planned_bytes
    assert plan_memory(stretched, 6_000_000_000).planned_bytes == whole - kept  # the stored frames stay as they are


def test_a_refusal_has_the_numbers_and_the_utterance() -> None:
    with pytest.raises(ClusterError) as refused:
        plan_memory(WORK, 900_000_000)
    told = str(refused.value)
    assert "even with one utterance at a time" in told and "the device offers 0.90 GB" in told
    assert "0.80 GB the process" in told and "weights, gradients and optimiser" in told
    longest = WORK.utterances[max(range(40), key=lambda index: WORK.frames[index])]
    assert f"({longest}, {max(WORK.frames) / 50:.1f} s, 40 tokens, 113 rows" in told
    assert "--memory-bytes" in told and "alignment.width" in told


def node(name: str, memory_bytes: int, jetson: float = 1.0) -> NodeInfo:
    return NodeInfo(name, "virtual", "orin-8gb", name, {"jetson": jetson, "memory": float(memory_bytes)})


def test_the_smallest_device_that_fits_all_is_the_cap_and_smaller_ones_get_nothing() -> None:
    small, middle, large = node("a", 850_000_000), node("b", 2_000_000_000), node("c", 8_000_000_000)
    [plan], placement = plan_all([WORK], [large, small, middle, node("head", 10**9, 0.0)])
    assert isinstance(plan, MemoryPlan)
    assert plan.cap_bytes == 2_000_000_000
    assert [placement.slots(one) for one in (small, middle, large)] == [0, 1, 1]


def test_one_who_does_not_fit_is_told_and_the_others_are_planned() -> None:
    huge = replace(WORK, frames=[*WORK.frames[:-1], 10**6])
    refused, plan = plan_all([huge, WORK], [node("a", 6_000_000_000)])[0]
    assert isinstance(refused, ClusterError) and isinstance(plan, MemoryPlan)
    with pytest.raises(ClusterError, match="no node of the cluster"):
        plan_all([WORK], [node("head", 6_000_000_000, 0.0)])


def test_what_stands_grows_with_the_corpus() -> None:
    more = replace(WORK, read=[1500] * 10)
    frames = "the frames of all utterances"
    assert standing_bytes(more)[frames] - standing_bytes(WORK)[frames] == 6 * 15_000 * 384


@pytest.mark.parametrize("micro", [1, 2, 3, 5, 7])
def test_pieces_add_up_to_the_gradient_of_the_whole_batch(micro: int) -> None:
    torch.manual_seed(0)
    bridge, link = BridgeFormer(CONFIG).eval(), EmbedLink(rows())
    examples = spoken(7, seed=4)
    # too short for its text: it counts in no embedding term
    examples[2] = replace(examples[2], frames=examples[2].frames[:2])
    frames, lengths, targets = collate(examples)
    whole = alignment_loss(bridge, link, frames, lengths, targets, 0.5)
    expected = torch.autograd.grad(whole, list(bridge.parameters()))
    total = 0.0
    for loss in batch_losses(bridge, link, examples, 0.5, micro):
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(whole.item(), rel=1e-5)
    found = torch.cat([parameter.grad.flatten() for parameter in bridge.parameters() if parameter.grad is not None])
    wanted = torch.cat([gradient.flatten() for gradient in expected])
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5  # rounding of float32 and no more


def test_an_epoch_in_pieces_comes_to_the_same_weights() -> None:
    still = replace(CONFIG, dropout=0.0)
    ended, began = [], torch.empty(0)
    for micro in (0, 8, 3):
        trainer = Trainer(still, train_config(micro_batch=micro, masking=Masking(1, 4, 1, 3)), spoken(20), rows())
        began = parameters_to_vector(trainer.bridge.parameters()).detach()
        trainer.run_epoch()
        ended.append(parameters_to_vector(trainer.bridge.parameters()).detach())
    assert torch.equal(ended[0], ended[1])  # one piece is the whole batch, bit for bit
    # AdamW divides by the gradient's size: rounding shows where gradients are next to nothing
    assert float((ended[2] - ended[0]).norm() / (ended[0] - began).norm()) < 1e-2


@pytest.mark.parametrize("method", ["shira", "lora", "full"])
def test_a_user_in_pieces_comes_to_the_same_adapter(method: str) -> None:
    torch.manual_seed(0)
    bridge, link = BridgeFormer(CONFIG).eval(), EmbedLink(rows())
    config = PersonalConfig(method=method, steps=3, batch_size=4, replay=2 if method == "shira" else 0, density=0.05)
    others = spoken(5, seed=9) if config.replay else ()
    whole = personalize(bridge, link, spoken(6, seed=3), config, others)
    pieces = personalize(bridge, link, spoken(6, seed=3), replace(config, micro_batch=3, score_batch=4), others)
    assert [loss for _, loss in pieces.curve] == pytest.approx([loss for _, loss in whole.curve], rel=1e-3)
    for name, value in whole.tensors.items():
        assert torch.allclose(torch.as_tensor(value).float(), torch.as_tensor(pieces.tensors[name]).float(), atol=2e-3)
