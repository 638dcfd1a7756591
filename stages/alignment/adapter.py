"""Adapters on disk: ``adapter.safetensors`` and ``adapter.json``. No pickle is written or read.

A base adapter holds a whole BridgeFormer. A personal adapter holds a change of one base, named by the base's hash, in the
form of its method: ``shira`` sparse values, ``lora`` two low-rank factors, ``full`` the dense difference.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes
from torch import Tensor

from stages.alignment import sparse
from stages.alignment.bridgeformer import BridgeFormer, BridgeFormerConfig
from stages.alignment.record import AdapterRecord, read_record
from stages.alignment.vocabulary import Vocabulary
from stages.atomic import atomic_folder, sha256_file, write_json
from stages.errors import InputError

SPELLER = "speller"
"""Folder in a base's, of the adapter that spells."""


def save(folder: Path, tensors: dict[str, np.ndarray], record: AdapterRecord) -> AdapterRecord:
    """Write an adapter's folder, whole or not at all, and return the record with its weights' hash."""
    with atomic_folder(folder) as temporary:
        _write(temporary, tensors, record)
    return record


def _write(folder: Path, tensors: dict[str, np.ndarray], record: AdapterRecord) -> None:
    content = to_bytes({name: np.ascontiguousarray(value) for name, value in tensors.items()})
    (folder / "adapter.safetensors").write_bytes(content)  # unlike save_file, it says when the disk is full
    record.weights_sha256 = sha256_file(folder / "adapter.safetensors")
    write_json(folder / "adapter.json", asdict(record))


def read_tensors(folder: Path, record: AdapterRecord) -> dict[str, np.ndarray]:
    """The adapter's tensors, checked against the hash in its record."""
    path = Path(folder) / "adapter.safetensors"
    if not path.is_file():
        raise InputError(f"{path}: not there. Delete the folder and run `dvc repro`.")
    found = sha256_file(path)
    if found != record.weights_sha256:
        raise InputError(
            f"{path}: its hash is {found[:12]}…, adapter.json says {record.weights_sha256[:12]}…: it was changed or cut off. "
            "Delete the folder and run `dvc repro`, or pull it again."
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error}). Delete the folder and run `dvc repro`.") from error


def save_base(
    folder: Path,
    bridge: BridgeFormer,
    record: AdapterRecord,
    speller: tuple[BridgeFormer, AdapterRecord] | None = None,
) -> AdapterRecord:
    """Write a base adapter in float32, so that every personal change refers to the same bits, and its speller, if any."""
    with atomic_folder(folder) as temporary:
        _write(temporary, _weights(bridge), record)
        if speller is not None:
            (temporary / SPELLER).mkdir()
            _write(temporary / SPELLER, _weights(speller[0]), speller[1])
    return record


def _weights(bridge: BridgeFormer) -> dict[str, np.ndarray]:
    return {name: value.detach().float().numpy() for name, value in bridge.state_dict().items()}


def load_base(folder: Path) -> tuple[BridgeFormer, Vocabulary, AdapterRecord]:
    """A base adapter, in evaluation mode."""
    record = read_record(folder)
    if record.kind != "base":
        raise InputError(f"{folder}: holds a {record.kind} adapter, needed a base adapter")
    bridge = BridgeFormer(BridgeFormerConfig(**record.bridge))
    bridge.load_state_dict({name: torch.from_numpy(value) for name, value in read_tensors(folder, record).items()})
    return bridge.eval(), Vocabulary(tuple(record.vocabulary)), record


def pack_sparse(update: dict[str, tuple[Tensor, Tensor]]) -> dict[str, np.ndarray]:
    """Layer -> (flat indices, values) as the tensors of a compact sparse adapter."""
    tensors = {}
    for layer, (indices, values) in update.items():
        tensors[f"{layer}.gaps"], tensors[f"{layer}.values"] = sparse.encode(indices, values)
    return tensors


def apply_update(bridge: BridgeFormer, tensors: dict[str, np.ndarray], method: str) -> None:
    """Add a personal change to ``bridge`` in place. Raises InputError where it does not fit the base."""
    parameters = dict(bridge.named_parameters())
    layers = sparse.linear_weights(bridge)
    for name, value in tensors.items():
        owner, _, part = name.rpartition(".")
        with torch.no_grad():
            if name == "frame_shift":
                bridge.frame_shift.copy_(torch.from_numpy(value.astype(np.float32)))
            elif method == "shira" and part == "gaps" and owner in layers:
                indices, values = sparse.decode(value, tensors[f"{owner}.values"])
                if len(indices) and int(indices[-1]) >= layers[owner].numel():
                    raise InputError(f"{owner}: index {int(indices[-1])} lies outside the layer: made for another base")
                layers[owner].view(-1).index_add_(0, indices, values)
            elif method == "lora" and part == "down" and owner in layers:
                up = torch.from_numpy(tensors[f"{owner}.up"].astype(np.float32))
                layers[owner].add_(up @ torch.from_numpy(value.astype(np.float32)))
            elif method in ("full", "blocks") and name in parameters:
                parameters[name].add_(torch.from_numpy(value.astype(np.float32)))
            elif part not in ("values", "up"):
                raise InputError(f"{name}: no such layer in the base: the adapter was made for another base")


def load_personal(folder: Path, base_folder: Path) -> tuple[BridgeFormer, Vocabulary, AdapterRecord]:
    """A personal adapter merged into its base, in evaluation mode. Raises InputError where the base is another one."""
    bridge, _, base_record = load_base(base_folder)
    record = read_record(folder)
    if record.base_sha256 != base_record.weights_sha256:
        raise InputError(
            f"{folder}: made for the base {str(record.base_sha256)[:12]}…, but {base_folder} holds "
            f"{base_record.weights_sha256[:12]}…. Run `dvc repro` to train it on this base."
        )
    apply_update(bridge, read_tensors(folder, record), record.method)
    return bridge.eval(), Vocabulary(tuple(record.vocabulary)), record
