"""A tiny LLM whose table has letters beside whole words, and read-outs that say what a test wants."""

from __future__ import annotations

import string
from pathlib import Path

import torch

from stages.alignment.soft_tokens import ReadOut
from stages.alignment.vocabulary import Vocabulary
from tests.helpers_adapters import save_llm
from tests.helpers_alignment import WORDS

UNTAUGHT = "tango"
"""A word of the LLM's table that no base of these tests has learned."""


def write_spelling_llm(folder: Path) -> None:
    """A token each: the words, UNTAUGHT, every letter with a leading space and without."""
    import tokenizers

    entries = ["<end>", *(f"Ġ{word}" for word in (*WORDS, UNTAUGHT))]
    entries += [f"{space}{letter}" for space in ("Ġ", "") for letter in string.ascii_lowercase]
    plain = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({entry: index for index, entry in enumerate(entries)}, unk_token="<end>")
    )
    plain.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = tokenizers.decoders.ByteLevel()
    save_llm(folder, plain)


def said(vocabulary: Vocabulary, tokens: list[int], confidence: float = 0.9, seed: int = 0) -> ReadOut:
    """A read-out of these token ids, with soft tokens that lie on no row."""
    from tests.helpers_alignment import CONFIG

    soft = torch.randn(len(tokens), CONFIG.llm_width, generator=torch.Generator().manual_seed(seed))
    return ReadOut([vocabulary.place_of(token) for token in tokens], soft, confidence if tokens else 0.0)
