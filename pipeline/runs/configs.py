"""From ``params.yaml`` to the alignment library's own configurations: one place, used by stages and benchmarks."""

from __future__ import annotations

from dataclasses import replace

from pipeline.settings import Settings
from stages.agreement import ADAPTER, WHISPER, AgreementRules
from stages.alignment.bridgeformer import BridgeFormerConfig
from stages.alignment.personal import PersonalConfig
from stages.alignment.trainer import TrainConfig

SPELLER_STACK = 2
"""Letters come faster than words: 25 Hz."""
SPELLER_SCALE = 20.0
SPELLER_TEMPO = 0.12


def bridge_config(settings: Settings, encoder_width: int, llm_width: int) -> BridgeFormerConfig:
    """Sizes of the BridgeFormer between an encoder and an LLM of these widths."""
    chosen = settings.alignment
    return BridgeFormerConfig(
        encoder_width=encoder_width,
        llm_width=llm_width,
        stack=chosen.stack,
        width=chosen.width,
        layers=chosen.layers,
        heads=chosen.heads,
        dropout=chosen.dropout,
        scale=chosen.scale,
    )


def train_config(settings: Settings) -> TrainConfig:
    """How a base is trained."""
    chosen = settings.base
    return TrainConfig(
        epochs=chosen.epochs,
        batch_size=chosen.batch_size,
        learning_rate=chosen.learning_rate,
        weight_decay=chosen.weight_decay,
        embedding_weight=settings.alignment.embedding_weight,
        seed=chosen.seed,
        sampled_rows=settings.alignment.sampled_rows,
        tempo=chosen.tempo,
    )


def speller_bridge_config(bridge: BridgeFormerConfig) -> BridgeFormerConfig:
    """Sizes of the speller beside a base of these sizes."""
    return replace(bridge, stack=SPELLER_STACK, scale=SPELLER_SCALE)


def speller_train_config(settings: Settings) -> TrainConfig:
    """How a base's speller is trained: as long as the base, by CTC alone and against its own few rows."""
    return replace(train_config(settings), embedding_weight=0.0, sampled_rows=0, tempo=SPELLER_TEMPO)


def agreement_rules(settings: Settings) -> AgreementRules:
    """When two teachers' texts are a label."""
    chosen = settings.pseudo_labels
    alone = {WHISPER: chosen.whisper_alone, ADAPTER: chosen.adapter_alone}
    return AgreementRules(alone={teacher: score for teacher, score in alone.items() if score is not None})


def personal_config(settings: Settings) -> PersonalConfig:
    """How a personal adapter is trained."""
    chosen = settings.personalize
    return PersonalConfig(
        method=chosen.method,
        density=chosen.density,
        mask=chosen.mask,
        lora_rank=chosen.lora_rank,
        trainable_blocks=chosen.trainable_blocks,
        steps=chosen.steps,
        batch_size=chosen.batch_size,
        learning_rate=chosen.learning_rate,
        strength=chosen.strength,
        embedding_weight=settings.alignment.embedding_weight,
        seed=chosen.seed,
    )
