"""``projector-lora``: a projector, and low-rank changes of the LLM itself, the NExT-GPT way.

Sources: Wu et al., "NExT-GPT: Any-to-Any Multimodal LLM", 2023 (projection layers and LoRA on the LLM learn, encoder and
LLM stay frozen); Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, through PEFT.

The LLM's own weights stay as they are, but what it computes changes with every step, so the prompt's prefix is computed in
each one (once for the batch, not once an utterance).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from stages.alignment.methods.frozen_llm import FrozenLlm
from stages.alignment.methods.in_the_loop import InTheLoop
from stages.alignment.methods.protocol import Schedule

RANK = 8
TARGETS = ("q_proj", "v_proj")


def with_lora(model: Any, rank: int = RANK) -> nn.ModuleDict:
    """Put LoRA layers into ``model`` and return them: what learns. The second matrix starts at zero: nothing changes yet."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(TARGETS), lora_dropout=0.0)
    get_peft_model(model, config)  # in place: ``model`` keeps its own face and holds the layers
    layers = nn.ModuleDict()
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            layers[name.replace(".", "/")] = nn.ModuleList([*layer.lora_A.values(), *layer.lora_B.values()])
    return layers


class ProjectorLora(InTheLoop):
    """A projector and the LLM's LoRA layers, which learn together at one rate."""

    def __init__(self, bridge: nn.Module, model: Any, tokenizer: Any, schedule: Schedule, examples: int) -> None:
        layers = with_lora(model)
        llm = FrozenLlm(model, tokenizer, keep_prefix=False)
        super().__init__("projector-lora", bridge, llm, schedule, examples, {"lora": layers})
