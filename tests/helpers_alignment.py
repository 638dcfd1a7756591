"""Small random corpora and a word-level tokenizer for tests of the alignment library."""

from __future__ import annotations

import numpy as np
import torch

from stages.alignment.bridgeformer import BridgeFormerConfig
from stages.alignment.trainer import Example, Masking, TrainConfig

CONFIG = BridgeFormerConfig(encoder_width=12, llm_width=16, stack=2, width=32, layers=1, heads=2, feed_forward=48)
WORDS = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot")


class WordTokenizer:
    """One token a word, like an LLM's tokenizer on common words: ``" alpha"`` is one id."""

    def __init__(self, words: tuple[str, ...] = WORDS) -> None:
        self.words = words

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [100 + self.words.index(word) for word in text.split()]}

    def decode(self, ids: list[int]) -> str:
        return "".join(" " + self.words[token - 100] for token in ids)


def rows(seed: int = 0) -> torch.Tensor:
    """(6, 16) embedding rows, one a word."""
    return torch.randn(len(WORDS), CONFIG.llm_width, generator=torch.Generator().manual_seed(seed)) * 0.1


def spoken(count: int, seed: int = 0, noise: float = 0.3, shift: float = 0.0, turn: float = 0.0) -> list[Example]:
    """Utterances of two to four words: each word is its own pattern of frames, held for eight frames, then a pause.

    ``shift`` adds the same vector to every frame, as another microphone does; ``turn`` mixes a second pattern into that of
    each word, as another speaker does.
    """
    generator = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).normal(size=(len(WORDS), CONFIG.encoder_width))
    patterns = (1 - turn) * patterns + turn * np.random.default_rng(97).normal(size=patterns.shape)
    offset = shift * np.random.default_rng(98).normal(size=CONFIG.encoder_width)
    made = []
    for index in range(count):
        target = generator.integers(0, len(WORDS), generator.integers(2, 5))
        pieces = []
        for word in target:
            pieces += [np.repeat(patterns[word][None], 8, 0), np.zeros((4, CONFIG.encoder_width))]
        frames = (
            offset + np.concatenate(pieces) + noise * generator.normal(size=(12 * len(target), CONFIG.encoder_width))
        )
        text = " ".join(WORDS[word] for word in target)
        made.append(Example(f"u{index:03d}", torch.tensor(frames, dtype=torch.float32), torch.tensor(target), text))
    return made


def train_config(**changes: object) -> TrainConfig:
    """Settings under which the small corpus is learned in a second or two."""
    values: dict[str, object] = {
        "epochs": 6,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "masking": Masking(0, 0, 0, 0),
    }
    return TrainConfig(**{**values, **changes})  # type: ignore[arg-type]  # a mapping of mixed values
