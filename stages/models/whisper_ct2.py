"""CTranslate2 Whisper folders to transformers' layout.

Source of the format: ``ctranslate2/specs/model_spec.py`` (``ModelSpec._serialize``), binary version 6: a header, then
each variable's name, shape, type and bytes, then aliases. Query, key and value projections are stacked in one matrix;
the key bias, which Whisper does not have, is stored as zeros.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from stages.errors import ModelError

if TYPE_CHECKING:
    import torch

BINARY_VERSION = 6
FLOAT_TYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 4: np.dtype("<f2")}
INTEGER_TYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<i1"), 2: np.dtype("<i2"), 3: np.dtype("<i4")}

# CTranslate2's names (left) and transformers' (right), inside one layer
NORM = {"gamma": "weight", "beta": "bias"}
LAYER_NORMS = {
    "encoder": {"self_attention/layer_norm": "self_attn_layer_norm", "ffn/layer_norm": "final_layer_norm"},
    "decoder": {
        "self_attention/layer_norm": "self_attn_layer_norm",
        "attention/layer_norm": "encoder_attn_layer_norm",
        "ffn/layer_norm": "final_layer_norm",
    },
}


def read_variables(path: Path, remedy: str) -> dict[str, np.ndarray]:
    """All variables of a CTranslate2 ``model.bin`` by name, with aliases resolved.

    Raises ModelError where the file is missing, cut short, of another version, not a Whisper model or quantised to
    integers; ``remedy`` ends the message.
    """
    try:
        with path.open("rb") as file:
            return dict(_variables(file, path, remedy))
    except FileNotFoundError:
        raise ModelError(f"{path}: not there, needed CTranslate2 weights. {remedy}") from None
    except (EOFError, UnicodeDecodeError, ValueError) as error:
        size = path.stat().st_size
        raise ModelError(
            f"{path}: broken or cut short ({size} bytes: {error}), needed a whole CTranslate2 model. {remedy}"
        ) from error


def _variables(file: BinaryIO, path: Path, remedy: str) -> Iterator[tuple[str, np.ndarray]]:
    def take(n_bytes: int) -> bytes:
        content = file.read(n_bytes)
        if len(content) != n_bytes:
            raise EOFError(f"ends where {n_bytes} more bytes were announced")
        return content

    def number(code: str) -> int:
        return int(struct.unpack(f"<{code}", take(struct.calcsize(code)))[0])

    def string() -> str:
        return take(number("H"))[:-1].decode()

    version = number("I")
    if version != BINARY_VERSION:
        raise ModelError(f"{path}: CTranslate2 binary version {version}, needed {BINARY_VERSION}. {remedy}")
    kind = string()
    if kind != "WhisperSpec":
        raise ModelError(f"{path}: holds a {kind}, needed a WhisperSpec. {remedy}")
    number("I")  # revision of the specification: names have been the same in all
    seen: dict[str, np.ndarray] = {}
    for _ in range(number("I")):
        name = string()
        shape = [number("I") for _ in range(number("B"))]
        type_id, n_bytes = number("B"), number("I")
        kind_of = {**FLOAT_TYPES, **INTEGER_TYPES}.get(type_id)
        if kind_of is None or (type_id in INTEGER_TYPES and len(shape) > 1 and name.endswith("weight")):
            raise ModelError(
                f"{path}: {name} is quantised (type {type_id}), needed float16 or float32 weights. "
                "Convert the model again with `ct2-transformers-converter --quantization float16`."
            )
        seen[name] = np.frombuffer(take(n_bytes), kind_of).reshape(shape)
        yield name, seen[name]
    for _ in range(number("I")):
        alias = string()
        yield alias, seen[string()]


def _linear(source: str, target: str) -> dict[str, str]:
    return {f"{source}/{part}": f"{target}.{part}" for part in ("weight", "bias")}


def _stacked(variables: dict[str, np.ndarray], source: str, target: str, names: str) -> dict[str, np.ndarray]:
    """Cut a stacked projection into the ``names`` ("qkv", "kv", "q") of its parts; the key bias is dropped."""
    parts: dict[str, np.ndarray] = {}
    for kind in ("weight", "bias"):
        pieces = np.split(variables[f"{source}/{kind}"], len(names))
        for name, piece in zip(names, pieces, strict=True):
            if name == "k" and kind == "bias":
                if np.any(piece):
                    raise ValueError(f"{source}/bias: the key bias is not zero, which Whisper does not have")
                continue
            parts[f"{target}.{name}_proj.{kind}"] = piece
    return parts


def _layer(variables: dict[str, np.ndarray], side: str, index: int) -> dict[str, np.ndarray]:
    source, target = f"{side}/layer_{index}", f"model.{side}.layers.{index}"
    state = _stacked(variables, f"{source}/self_attention/linear_0", f"{target}.self_attn", "qkv")
    names = _linear(f"{source}/self_attention/linear_1", f"{target}.self_attn.out_proj")
    names |= _linear(f"{source}/ffn/linear_0", f"{target}.fc1") | _linear(f"{source}/ffn/linear_1", f"{target}.fc2")
    if side == "decoder":
        state |= _stacked(variables, f"{source}/attention/linear_0", f"{target}.encoder_attn", "q")
        state |= _stacked(variables, f"{source}/attention/linear_1", f"{target}.encoder_attn", "kv")
        names |= _linear(f"{source}/attention/linear_2", f"{target}.encoder_attn.out_proj")
    for norm, its_name in LAYER_NORMS[side].items():
        names |= {f"{source}/{norm}/{part}": f"{target}.{its_name}.{NORM[part]}" for part in NORM}
    return state | {to: variables[name] for name, to in names.items()}


def count_layers(variables: dict[str, np.ndarray], side: str) -> int:
    """Layers of ``side`` ("encoder" or "decoder")."""
    layers = {name.split("/")[1] for name in variables if name.startswith(f"{side}/layer_")}
    return len(layers - {"layer_norm"})


def state_dict(variables: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The variables under ``WhisperForConditionalGeneration``'s names.

    Raises KeyError where a variable is missing and ValueError where one does not fit.
    """
    import torch

    state: dict[str, np.ndarray] = {}
    names = _linear("encoder/conv1", "model.encoder.conv1") | _linear("encoder/conv2", "model.encoder.conv2")
    names["decoder/embeddings/weight"] = "model.decoder.embed_tokens.weight"
    for side in ("encoder", "decoder"):
        names[f"{side}/position_encodings/encodings"] = f"model.{side}.embed_positions.weight"
        names |= {f"{side}/layer_norm/{part}": f"model.{side}.layer_norm.{NORM[part]}" for part in NORM}
        for index in range(count_layers(variables, side)):
            state |= _layer(variables, side, index)
    state |= {to: variables[name] for name, to in names.items()}
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}


def _special_tokens(folder: Path) -> dict[str, int]:
    """Whisper's special tokens, by text."""
    tokens = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    return {token["content"]: token["id"] for token in tokens}


def _configs(variables: dict[str, np.ndarray], folder: Path) -> tuple[Any, Any]:
    """The WhisperConfig and the GenerationConfig of a CTranslate2 folder."""
    from transformers import GenerationConfig, WhisperConfig

    vocabulary, width = variables["decoder/embeddings/weight"].shape
    special = _special_tokens(folder)
    end, start = special["<|endoftext|>"], special["<|startoftranscript|>"]
    hints = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokens = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}
    multilingual = vocabulary >= 51_865
    config = WhisperConfig(
        vocab_size=vocabulary,
        d_model=width,
        num_mel_bins=variables["encoder/conv1/weight"].shape[1],
        encoder_layers=count_layers(variables, "encoder"),
        decoder_layers=count_layers(variables, "decoder"),
        encoder_attention_heads=int(variables["encoder/num_heads"]),
        decoder_attention_heads=int(variables["decoder/num_heads"]),
        encoder_ffn_dim=variables["encoder/layer_0/ffn/linear_0/weight"].shape[0],
        decoder_ffn_dim=variables["decoder/layer_0/ffn/linear_0/weight"].shape[0],
        max_source_positions=variables["encoder/position_encodings/encodings"].shape[0],
        max_target_positions=variables["decoder/position_encodings/encodings"].shape[0],
        **tokens,
    )
    generation = GenerationConfig(
        **tokens,
        max_length=config.max_target_positions,
        suppress_tokens=hints.get("suppress_ids"),
        begin_suppress_tokens=hints.get("suppress_ids_begin"),
        alignment_heads=hints.get("alignment_heads"),
        no_timestamps_token_id=special["<|notimestamps|>"],
        prev_sot_token_id=special["<|startofprev|>"],
        is_multilingual=multilingual,
        max_initial_timestamp_index=50,
        return_timestamps=False,
    )
    if multilingual:
        generation.lang_to_id = {text: id_ for text, id_ in special.items() if id_ in set(hints.get("lang_ids", []))}
        generation.task_to_id = {"transcribe": special["<|transcribe|>"], "translate": special["<|translate|>"]}
    return config, generation


def convert(source: Path, target: Path, remedy: str) -> None:
    """Write the CTranslate2 folder ``source`` into the existing folder ``target`` in transformers' layout.

    Weights stay in their own type (float16 in the packaged model). Raises ModelError, which ``remedy`` ends.
    """
    import torch
    from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor, WhisperForConditionalGeneration

    variables = read_variables(source / "model.bin", remedy)
    for name in ("config.json", "tokenizer.json"):
        if not (source / name).is_file():
            raise ModelError(f"{source / name}: not there, needed beside model.bin. {remedy}")
    try:
        config, generation = _configs(variables, source)
        state = state_dict(variables)
        with torch.device("meta"):
            model = WhisperForConditionalGeneration(config)
        model.load_state_dict(state, strict=True, assign=True)
    except (KeyError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{source}: its variables are not those of a Whisper model ({type(error).__name__}: {error}). {remedy}"
        ) from error
    model.tie_weights()
    model.generation_config = generation
    model.save_pretrained(target)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(target)
    special = _special_tokens(source)
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(source / "tokenizer.json"), bos_token=end, eos_token=end, unk_token=end, pad_token=end
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [text for text in special if text != end]})
    tokenizer.save_pretrained(target)
