"""What is left of somebody in files: what must not be found, and a search that unpacks what it knows."""

from __future__ import annotations

import base64
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.project import Project
from tests.helpers_erasure import CALLED, COHORTS, SLUG, WORDS


@dataclass(frozen=True)
class Traces:
    """What must not be found any more."""

    words: tuple[str, ...]
    blobs: tuple[bytes, ...]


def traces_of(project: Project) -> Traces:
    """Name, slug, ids, texts, stretches of audio, frames and weights of the person, from the workspace as it is."""
    from stages.alignment.adapter import read_tensors  # noqa: F401  (the adapters are read as they are)
    from stages.schema import FEATURES, read_table
    from stages.shards import iter_shard, list_shards

    words, blobs = {SLUG, CALLED, SLUG.replace("-", "_"), WORDS}, []
    for cohort in COHORTS:
        for shard in list_shards(project.cohort(cohort)):
            for item in iter_shard(shard):
                if item.user == SLUG:
                    words.add(item.utterance)
                    blobs.append(item.audio[200:400])
        for path in project.features(cohort).glob("*.parquet"):
            for row in read_table(path, FEATURES).to_pylist():
                if row["user"] == SLUG:
                    blobs.append(row["frames"])
        weights = project.adapters(cohort) / SLUG / "adapter.safetensors"
        if weights.is_file():
            blobs.append(weights.read_bytes()[-200:])
    # they show names and words that no search of text finds; posteriors.png shows the first user alone, who is another one
    for name in ("wer_by_user.png", "personal_curves.png", "layers.png", "confusion.png"):
        picture = (project.plots / name).read_bytes()
        blobs.append(picture[len(picture) // 2 :][:200])
    return Traces(tuple(sorted(words)), tuple(blobs))


def search(folder: Path, traces: Traces) -> list[str]:
    """Every byte below ``folder``: names of files, contents, unpacked Parquet and git objects; UTF-8 and UTF-16."""
    needles = [word.encode(code) for word in traces.words for code in ("utf-8", "utf-16-le", "utf-16-be")]
    needles += list(traces.blobs)
    found = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found += [f"{name}: its name" for word in traces.words if word in path.name]
        if path.is_file() and not path.is_symlink():
            for layer, content in _layers(path):
                found += [f"{name} ({layer}): {needle[:40]!r}" for needle in needles if needle in content]
    return found


def _layers(path: Path) -> Iterator[tuple[str, bytes]]:
    content = path.read_bytes()
    yield "bytes", content
    if content[:4] == b"PAR1" == content[-4:]:
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        yield "rows", repr(table.schema.metadata).encode()
        for row in table.to_pylist():
            for value in row.values():
                yield "rows", value if isinstance(value, bytes) else repr(value).encode()
    for place, embedded in enumerate(re.findall(rb"data:[^;]+;base64,([A-Za-z0-9+/=]+)", content)):
        yield f"data URI {place}", base64.b64decode(embedded)
    if content[257:262] == b"ustar":
        with tarfile.open(path) as archive:
            for member in archive:
                yield f"member {member.name}", archive.extractfile(member).read()  # type: ignore[union-attr]
    if ".git" in path.parts and "objects" in path.parts and "pack" not in path.parts:
        yield "git object", zlib.decompress(content)
