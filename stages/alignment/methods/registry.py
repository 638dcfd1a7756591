"""A method by its name: the one place that knows how each is put together from the same material."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.alignment.bridgeformer import BridgeFormerConfig
from stages.alignment.methods.cascade import Cascade
from stages.alignment.methods.ctc_only import CtcOnly
from stages.alignment.methods.embedlink import EmbedLinkMethod
from stages.alignment.methods.frozen_llm import FrozenLlm
from stages.alignment.methods.in_the_loop import InTheLoop
from stages.alignment.methods.lora import ProjectorLora
from stages.alignment.methods.names import IN_THE_LOOP, check_name
from stages.alignment.methods.projector import Projector, ProjectorKl
from stages.alignment.methods.protocol import Method, Schedule
from stages.alignment.methods.qformer import QFormer
from stages.alignment.trainer import Example, Masking, TrainConfig
from stages.alignment.vocabulary import Vocabulary


@dataclass(frozen=True)
class Material:
    """What methods are made from. Each takes what it needs; the LLM and the transcriber load when a method asks."""

    examples: Sequence[Example]  # to learn from
    vocabulary: Vocabulary  # rows that the examples' targets index
    rows: Tensor  # (V, D) of the LLM's embedding table
    bridge: BridgeFormerConfig  # ours; its widths are everybody's
    tokenizer: Any
    llm: Callable[[], Any]  # a fresh frozen LLM: one that a method may put layers into
    transcribe: Callable[[np.ndarray], str]
    samples: Callable[[str], np.ndarray]  # audio of an utterance by name
    embedding_weight: float = 0.1  # of ``embedlink``'s embedding term
    masking: Masking = TrainConfig.masking  # of what ``embedlink`` learns from

    def text_of(self, rows: list[int]) -> str:
        """The text that rows spell."""
        return self.vocabulary.text_of(self.tokenizer, rows)


def make_method(name: str, material: Material, schedule: Schedule) -> Method:
    """The method ``name``, ready for its first step. Raises SettingsError where there is none of that name."""
    check_name(name)
    if name == "cascade":
        return Cascade(material.transcribe, material.samples)
    loaded = material.llm() if name in IN_THE_LOOP else None
    torch.manual_seed(schedule.seed)  # after loading, which may draw numbers of its own
    widths = material.bridge.encoder_width, material.bridge.llm_width
    total = len(material.examples)
    if name == "embedlink":
        config = _train_config(material, schedule)
        return EmbedLinkMethod(material.bridge, config, material.examples, material.rows, material.text_of)
    if name == "ctc-only":
        return CtcOnly(widths[0], len(material.vocabulary), material.text_of, schedule, total)
    bridge = QFormer(*widths) if name == "qformer" else Projector(*widths)
    if name == "projector-lora":
        return ProjectorLora(bridge, loaded, material.tokenizer, schedule, total)
    llm = FrozenLlm(loaded, material.tokenizer)
    if name == "projector-kl":
        return ProjectorKl(bridge, llm, schedule, total)
    return InTheLoop(name, bridge, llm, schedule, total)


def _train_config(material: Material, schedule: Schedule) -> TrainConfig:
    return TrainConfig(
        epochs=schedule.epochs,
        batch_size=schedule.batch_size,
        learning_rate=schedule.learning_rate,
        weight_decay=schedule.weight_decay,
        warm_up=schedule.warm_up,
        clip=schedule.clip,
        embedding_weight=material.embedding_weight,
        seed=schedule.seed,
        masking=material.masking,
    )
