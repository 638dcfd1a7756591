"""Tiny random models and packages for the tests: the real classes and layouts, with weights drawn from a fixed seed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest


def tone(seconds: float, seed: int = 0) -> np.ndarray:
    """Speech-like samples: a wandering tone with noise, float32 (n_samples,) at 16 kHz."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * 16_000)) / 16_000
    wave = 0.3 * np.sin(2 * np.pi * (200 + 80 * np.sin(3 * time_s)) * time_s) * (0.5 + 0.5 * np.sin(9 * time_s))
    return (wave + 0.01 * rng.standard_normal(len(time_s))).astype(np.float32)


def make_encoder(folder: Path, kind: str) -> Path:
    """A tiny random encoder of ``kind`` in transformers' layout."""
    import torch
    import transformers

    torch.manual_seed(0)
    if kind == "whisper":
        sizes = {"encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1)
        config = transformers.WhisperConfig(vocab_size=50, d_model=32, **sizes, **heads, **tokens)
        transformers.WhisperForConditionalGeneration(config).save_pretrained(folder)
        transformers.WhisperFeatureExtractor().save_pretrained(folder)
        return folder
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.AutoConfig.for_model(
        kind, **sizes, conv_dim=[16] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4
    )
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def make_llm(folder: Path) -> Path:
    """A tiny random Llama with a word-level tokenizer in transformers' layout."""
    import tokenizers
    import torch
    import transformers

    torch.manual_seed(0)
    words = {word: index for index, word in enumerate(["<end>", "call", "my", "sister", "now"])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<end>"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<end>", unk_token="<end>").save_pretrained(
        folder
    )
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def install_package(monkeypatch: pytest.MonkeyPatch, site: Path, name: str, files: dict[str, bytes]) -> None:
    """Put a wheel of ``name`` with ``files`` (path in the wheel: content) first on the import path, with its RECORD."""
    import base64
    import hashlib

    lines = []
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(content)}")
    info = site / f"{name.replace('-', '_')}-9.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.0\n")
    (info / "RECORD").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(site))


def hide_packages(monkeypatch: pytest.MonkeyPatch, empty: Path) -> None:
    """Make every installed distribution invisible to importlib.metadata."""
    monkeypatch.setattr(sys, "path", [str(empty)])


def edit_json(path: Path, **changes: object) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
