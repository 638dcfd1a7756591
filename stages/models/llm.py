"""The frozen LLM: its tokenizer, rows of its embedding table without the rest, and the whole of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import ModelError
from stages.models.identity import read_identity, weight_map
from stages.models.prepare import quiet

if TYPE_CHECKING:
    import torch


def llm_identity(folder: Path) -> str:
    """``name@first 16 hex of the weights' SHA-256`` of a prepared LLM. Raises ModelError."""
    return str(read_identity(folder))


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer (with chat template) of a prepared LLM. Raises ModelError."""
    from transformers import AutoTokenizer

    read_identity(folder)
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{folder}: its tokenizer does not load ({error}). Delete the folder and run `dvc repro models`."
        ) from error


def embedding_rows(folder: Path, ids: Sequence[int] | None) -> torch.Tensor:
    """Rows ``ids`` (all where None) of the LLM's input embedding: float32, (len(ids), hidden size).

    Only these rows are read from the file; the LLM is not loaded. Raises ModelError where the folder is no prepared
    LLM and ValueError where an id is outside the table.
    """
    import torch
    from safetensors import safe_open

    name = read_identity(folder).embedding
    path = weight_map(folder).get(name)
    if path is None:
        raise ModelError(f"{folder}: lacks the tensor {name!r}. Delete the folder and run `dvc repro models`.")
    with safe_open(path, framework="pt") as file:
        table = file.get_slice(name)
        size, width = table.get_shape()
        if ids is None:
            return table[:].float()
        outside = [index for index in ids if not 0 <= index < size]
        if outside:
            raise ValueError(f"token {outside[0]} is outside the embedding table of {size} rows in {path}")
        rows = torch.empty(len(ids), width)
        for position, index in enumerate(ids):
            rows[position] = table[index : index + 1][0]
    return rows


def load_llm(folder: Path, device: str = "cpu", dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """The prepared LLM, frozen and in evaluation mode, and its tokenizer. ``dtype`` defaults to float32.

    Raises ModelError where the folder is no prepared LLM.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(folder)
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder}: does not load ({error}). Delete the folder and run `dvc repro models`.") from error
    return model.to(device).eval().requires_grad_(False), tokenizer
