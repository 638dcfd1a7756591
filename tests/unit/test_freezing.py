"""Frozen blocks: what learns gets the very gradients of the whole model, what does not costs no backward pass."""

from __future__ import annotations

import pytest
import torch

from benchmarks.freezing import FROZEN, FULL, MASKED, step_costs
from stages.alignment.adapter import apply_update
from stages.alignment.bridgeformer import BridgeFormer, BridgeFormerConfig
from stages.alignment.embedlink import EmbedLink
from stages.alignment.freezing import freeze_below
from stages.alignment.personal import PersonalConfig, personalize, user_loss
from tests.helpers_alignment import CONFIG, rows, spoken

TWO = BridgeFormerConfig(**{**CONFIG.to_json(), "layers": 2})  # type: ignore[arg-type]  # whole numbers and a share


def bridge() -> BridgeFormer:
    torch.manual_seed(0)
    return BridgeFormer(TWO).eval()


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_what_learns_gets_the_gradients_of_the_whole_model(blocks: int) -> None:
    link, batch = EmbedLink(rows()), spoken(6)
    whole, part = bridge(), bridge()
    user_loss(whole, link, batch, 0.1).backward()
    learning = freeze_below(part, blocks)
    user_loss(part, link, batch, 0.1).backward()
    wanted = dict(whole.named_parameters())
    for name, weight in part.named_parameters():
        if name in learning:
            assert torch.equal(weight.grad, wanted[name].grad)
        else:
            assert weight.grad is None
    assert ("blocks.1.expand.weight" in learning) == (blocks >= 1)
    assert ("blocks.0.expand.weight" in learning) == (blocks == 2)
    assert "enter.weight" not in learning and "leave.weight" in learning


def test_more_blocks_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="trainable_blocks 3: BridgeFormer has 2"):
        freeze_below(bridge(), 3)


def test_a_personal_update_of_blocks_changes_those_alone_and_comes_back_from_its_tensors() -> None:
    base, link, batch = bridge(), EmbedLink(rows()), spoken(6)
    config = PersonalConfig(method="blocks", trainable_blocks=1, steps=4, learning_rate=1e-3)
    result = personalize(base, link, batch, config)
    changed = {name for name in result.tensors if name != "frame_shift"}
    assert changed == set(freeze_below(bridge(), 1))
    merged = bridge()
    apply_update(merged, result.tensors, "blocks")
    before, after = dict(bridge().named_parameters()), dict(merged.named_parameters())
    assert all(torch.equal(before[name], after[name]) == (name not in changed) for name in before)
    assert 0 < result.density < 1


def test_frozen_blocks_keep_less_for_the_backward_pass_and_masks_do_not() -> None:
    link, batch = EmbedLink(rows()), spoken(6)
    full, one, none, masked = (step_costs(bridge(), link, batch, name, 2) for name in (FULL, *FROZEN, MASKED))
    assert full["kept_bytes"] > one["kept_bytes"] > none["kept_bytes"] > 0
    assert full["learner_bytes"] > one["learner_bytes"] > none["learner_bytes"]
    assert masked["kept_bytes"] >= 0.9 * full["kept_bytes"]  # single weights: all activations are needed still
    assert masked["learner_bytes"] < none["learner_bytes"]
    trained = sum(weight.numel() for weight in bridge().parameters() if weight.requires_grad)
    assert full["learner_bytes"] == pytest.approx(3 * 4 * trained, rel=1e-3)  # a gradient and two moments of 4 bytes
