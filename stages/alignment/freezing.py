"""Whole blocks frozen, so that learning costs less: what lies below the lowest layer that learns has no backward pass.

A mask over single weights saves bytes on disk and on the wire, but neither time nor memory: every layer's gradient is computed
before the mask picks from it. Autograd stops below the lowest layer that learns (as in layer freezing, Liu et al.,
AutoFreeze, 2021): no gradients, no kept activations and no optimiser state there.
"""

from __future__ import annotations

from stages.alignment.bridgeformer import BridgeFormer


def freeze_below(bridge: BridgeFormer, blocks: int) -> list[str]:
    """Let only the last ``blocks`` blocks and the way out learn; returns the names of the parameters that do.

    The way out: the final norm, the layer into the LLM's space, the blank score and the scale. With 0 blocks it learns alone.
    Raises ValueError where BridgeFormer has fewer blocks.
    """
    if not 0 <= blocks <= len(bridge.blocks):
        raise ValueError(f"trainable_blocks {blocks}: BridgeFormer has {len(bridge.blocks)}, needed 0 to that many")
    bridge.requires_grad_(False)
    for module in (*bridge.blocks[len(bridge.blocks) - blocks :], bridge.final_norm, bridge.leave, bridge.blank):
        module.requires_grad_(True)
    bridge.log_scale.requires_grad_(True)
    return [name for name, weight in bridge.named_parameters() if weight.requires_grad]
