"""An adapter away from its project: what a registered model runs, from the adapter's folder alone.

Base adapter and frozen models are found by identity, not by path: they are kept in the user's cache, prepared or fetched
there once, and checked against their hashes each time they are loaded. Travels in a zip beside each registered adapter.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.atomic import atomic_folder, sha256_file, write_json
from stages.errors import InputError, ModelError
from stages.models.identity import IDENTITY_FILE, hash_weights, read_identity
from stages.schema import SAMPLE_RATE_HZ

ANSWER = "Answer the user in one short sentence."
PERSONAL_FIELDS = ("train_utterances", "held_out_utterances", "settings", "device", "metrics", "data_md5", "git_commit")
"""Left out of a cached base's record: a cache outlives its project, and an erasure there would not find the names."""


def cache() -> Path:
    """Where bases, frozen models and code are kept: below the user's cache folder (``XDG_CACHE_HOME`` moves it)."""
    from platformdirs import user_cache_path

    return user_cache_path("edgealign") / "portable"


def keep_base(sha256: str, fetch: Callable[[Path], Any], bases: Path | None = None) -> Path:
    """The folder of the base adapter with this hash, in ``bases`` or the cache; ``fetch(folder)`` brings its two files there.

    It is fetched where it is not there. Raises InputError where what came has another hash.
    """
    folder = (bases or cache() / "bases") / sha256
    weights = folder / "adapter.safetensors"
    if weights.is_file() and sha256_file(weights) == sha256:
        return folder
    with atomic_folder(folder) as target:
        fetch(target)
        found = sha256_file(target / "adapter.safetensors")
        if found != sha256:
            raise InputError(
                f"the base adapter in the registry has the hash {found[:12]}, this adapter was made for {sha256[:12]}: it was "
                "changed after it was recorded. Take it from a backup, or run `dvc repro` to record it again."
            )
        path = target / "adapter.json"
        record = json.loads(path.read_text(encoding="utf-8"))
        write_json(path, {key: value for key, value in record.items() if key not in PERSONAL_FIELDS})
    return folder


def keep_model(role: str, identity: str, given: str = "") -> Path:
    """The cached folder of a frozen model, prepared where it is not there. ``role`` is "encoder" or "llm".

    ``identity`` is ``name@first 16 hex of the weights' SHA-256``; ``given`` a folder or name to take in place of that name
    (an identity keeps a folder's name, not its path). Raises ModelError where the weights are others.
    """
    from filelock import FileLock

    name, _, digest = identity.rpartition("@")
    folder = cache() / "models" / f"{role}-{re.sub(r'[^A-Za-z0-9._-]', '-', name)}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(folder.with_name(f".{folder.name}.lock"))):
        if not _is_whole(folder, digest):
            _prepare(role, given or name, folder)
            found = hash_weights(folder)
            if not found.startswith(digest):
                shutil.rmtree(folder)
                raise ModelError(
                    f"{given or name}: its weights have the hash {found[:16]}, the adapter was made for {identity}. Needed "
                    f"that very {role}: `mlflow.pyfunc.load_model(..., model_config={{'{role}': FOLDER}})` names another place."
                )
            write_json(
                folder / IDENTITY_FILE, dataclasses.asdict(dataclasses.replace(read_identity(folder), name=name))
            )
    return folder


def _is_whole(folder: Path, digest: str) -> bool:
    try:
        return hash_weights(folder).startswith(digest) and bool(read_identity(folder).kind)
    except (ModelError, OSError):
        return False


def _prepare(role: str, name: str, folder: Path) -> None:
    """Write the model into ``folder``; one that edgealign has prepared is copied as it is."""
    from stages.models.prepare import prepare_encoder, prepare_llm

    if (Path(name) / IDENTITY_FILE).is_file():
        with atomic_folder(folder) as target:
            shutil.copytree(name, target, dirs_exist_ok=True)
    elif role == "encoder":
        prepare_encoder(name, folder)
    else:
        prepare_llm(name, folder)


class PortableAdapter:
    """An adapter with all that it needs to hear and to answer; the LLM is loaded with the first reply."""

    def __init__(
        self, folder: Path, base: Path | None, padding_s: float, encoder: str = "", llm: str = "", name: str = ""
    ) -> None:
        """``base`` is None where ``folder`` holds a base itself. Raises InputError and ModelError."""
        from stages.alignment.record import read_record
        from stages.listener import Listener
        from stages.models.encoder import SpeechEncoder

        record = read_record(folder)
        self.name, self.padding_s = name, padding_s
        self._llm_folder = keep_model("llm", record.llm, llm)
        self._encoder = SpeechEncoder.load(keep_model("encoder", record.encoder, encoder))
        self._listener = Listener.load(base or folder, self._llm_folder, folder if base else None)
        self._llm: tuple[Any, Any] | None = None

    def answer(
        self,
        recordings: Sequence[Any],
        rate_hz: int = SAMPLE_RATE_HZ,
        reply: bool = False,
        instruction: str = "",
        max_new_tokens: int = 64,
    ) -> list[dict[str, Any]]:
        """``text``, ``confidence`` and, where asked for, ``reply`` of each recording.

        A recording is a path, or samples of shape (n,) or (n, channels) at ``rate_hz``, full scale 1.0. Where nothing was
        heard the reply is None: the LLM is not asked about nothing. Raises InputError that names the recording.
        """
        heard = [
            self._listener.hear(_samples(item, rate_hz, place), self._encoder, self.padding_s)
            for place, item in enumerate(recordings)
        ]
        rows: list[dict[str, Any]] = [{"text": one.text, "confidence": one.read_out.confidence} for one in heard]
        if reply:
            from stages.alignment.injection import answer_prompt, generate_replies
            from stages.models.llm import load_llm

            self._llm = self._llm or load_llm(self._llm_folder)
            model, tokenizer = self._llm
            asked = [place for place, one in enumerate(heard) if one.read_out.rows]
            prompts = [
                answer_prompt(model, tokenizer, heard[place].read_out.soft_tokens, instruction or ANSWER)
                for place in asked
            ]
            said = generate_replies(model, tokenizer, prompts, max_new_tokens)
            replies = dict(zip(asked, said, strict=True))
            for place, row in enumerate(rows):
                row["reply"] = replies.get(place)
        return rows


def _samples(recording: Any, rate_hz: int, place: int) -> np.ndarray:
    """(n,) float32 at 16 kHz of a path or of samples."""
    from stages.audio import load_audio, mix_down, resample

    if isinstance(recording, (str, Path)):
        if not Path(recording).is_file():
            raise InputError(f"{recording}: no such file. Give a recording that libsndfile reads, or its samples.")
        return load_audio(Path(recording), str(recording))
    try:
        samples = np.asarray(recording, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"recording {place}: {type(recording).__name__}, needed a path or an array") from None
    if samples.ndim not in (1, 2) or not samples.size:
        raise InputError(
            f"recording {place}: samples of shape {samples.shape}, needed (n,) or (n, channels). Hand arrays over as "
            "pandas.DataFrame({'audio': [array, ...]}), one a row."
        )
    if not np.isfinite(samples).all() or not rate_hz > 0:
        raise InputError(f"recording {place}: samples that are not numbers, or a rate of {rate_hz} Hz")
    return resample(mix_down(samples), int(rate_hz)).astype(np.float32)
