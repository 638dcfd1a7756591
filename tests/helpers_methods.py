"""Toy material for every alignment method: a tiny random LLM, four utterances that differ in every frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from stages.alignment.bridgeformer import BridgeFormerConfig
from stages.alignment.methods.protocol import Schedule
from stages.alignment.methods.registry import Material
from stages.alignment.trainer import Example
from stages.alignment.vocabulary import Vocabulary
from tests.helpers_llm import tiny_llama, tiny_tokenizer

ENCODER_WIDTH = 64  # bands of up to 24 are masked in ``embedlink``'s training
TEXTS = ("go", "stop it", "a b", "yes now")
LENGTHS = (50, 90, 61, 77)  # frames; 7 letters need 13 steps of 4 at most
SCHEDULE = Schedule(epochs=40, batch_size=4, learning_rate=3e-3)


def toy_llm() -> Any:
    """A fresh tiny LLM, always the same, gentle enough that gradients through it are of use."""
    model = tiny_llama()
    with torch.no_grad():
        for weight in model.model.layers.parameters():
            weight.mul_(0.3 if weight.ndim > 1 else 1.0)
    return model


def toy_examples(vocabulary: Vocabulary, tokenizer: Any) -> list[Example]:
    """Four utterances; each letter holds its own pattern of frames for as long as there is room."""
    generator = np.random.default_rng(0)
    letters = generator.normal(size=(256, ENCODER_WIDTH))
    made = []
    for place, (text, length) in enumerate(zip(TEXTS, LENGTHS, strict=True)):
        owners = np.linspace(0, len(text) - 1e-6, length).astype(int)
        noise = 0.1 * generator.normal(size=(length, ENCODER_WIDTH))
        frames = np.stack([letters[ord(text[owner])] for owner in owners]) + noise
        target = vocabulary.rows_of(tokenizer, text)
        made.append(Example(f"u{place}", torch.tensor(frames, dtype=torch.float32), target, text))
    return made


def toy_material() -> Material:
    """The four utterances and all that methods are made from."""
    tokenizer = tiny_tokenizer()
    vocabulary = Vocabulary.of_texts(tokenizer, TEXTS)
    model = toy_llm()
    rows = model.get_input_embeddings().weight.detach()[list(vocabulary.ids)]
    bridge = BridgeFormerConfig(ENCODER_WIDTH, model.config.hidden_size, width=32, layers=1, heads=2, feed_forward=48)
    return Material(
        examples=toy_examples(vocabulary, tokenizer),
        vocabulary=vocabulary,
        rows=rows,
        bridge=bridge,
        tokenizer=tokenizer,
        llm=toy_llm,
        transcribe=lambda samples: f"{len(samples)} samples",
        samples=lambda name: np.zeros(1 + int(name[1:]), dtype=np.float32),
    )
