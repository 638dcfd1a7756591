"""Which weights a model folder holds: the part of every cache key and lineage tag that stands for a frozen model."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from stages.atomic import sha256_bytes, sha256_file, write_json
from stages.errors import ModelError

IDENTITY_FILE = "identity.json"


@dataclass(frozen=True)
class ModelIdentity:
    """A prepared model. ``str(identity)`` is what tables, adapters and runs record."""

    name: str
    """The packaged wheel, the Hugging Face id or the folder's own name (never its path)."""
    kind: str
    """transformers' ``model_type``, such as whisper, wav2vec2, hubert or llama."""
    weights_sha256: str
    """Hex SHA-256 of the weights file; of the files' joined hashes where there are several."""
    width: int
    """Encoder width, or the LLM's hidden size."""
    embedding: str = ""
    """Name of an LLM's input embedding among its weights; empty for encoders."""

    def __str__(self) -> str:
        return f"{self.name}@{self.weights_sha256[:16]}"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, sorted by name; ModelError where there are none."""
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder}: holds no *.safetensors file, needed a prepared model. Run `dvc repro models`.")
    return files


def hash_weights(folder: Path) -> str:
    """Hex SHA-256 of a folder's weights."""
    hashes = [sha256_file(path) for path in weight_files(folder)]
    return hashes[0] if len(hashes) == 1 else sha256_bytes("".join(hashes).encode())


def write_identity(folder: Path, name: str, kind: str, width: int, embedding: str = "") -> ModelIdentity:
    """Hash the weights in ``folder`` and write ``identity.json`` beside them."""
    identity = ModelIdentity(name, kind, hash_weights(folder), width, embedding)
    path = Path(folder) / IDENTITY_FILE
    write_json(path, dataclasses.asdict(identity))
    for weights in weight_files(folder):  # safetensors writes for the owner alone; workers may be other users
        weights.chmod(path.stat().st_mode)
    return identity


def read_identity(folder: Path) -> ModelIdentity:
    """The identity that ``prepare_encoder`` or ``prepare_llm`` wrote. Raises ModelError where it cannot be used."""
    path = Path(folder) / IDENTITY_FILE
    try:
        return ModelIdentity(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ModelError(f"{path}: not there, needed a prepared model. Run `dvc repro models`.") from None
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path}: not readable ({error}). Delete {folder} and run `dvc repro models`.") from error


def weight_map(folder: Path) -> dict[str, Path]:
    """Each tensor's name in a model folder, with the safetensors file that holds it. Raises ModelError."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Path] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="numpy") as file:
                found |= dict.fromkeys(file.keys(), path)
        except SafetensorError as error:
            raise ModelError(f"{path}: broken ({error}). Delete {folder} and run `dvc repro models`.") from error
    return found
