"""Recordings to shards: what a worker process, or a Ray node, does with one run of rows.

A run of rows (a *chunk*) becomes whole shards of its own, so chunks may be done in any order, by any number of workers, twice
or after a kill: the bytes are the same.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.cohorts.index import index_row, levels_of
from pipeline.cohorts.plan import Row
from stages.atomic import sha256_bytes, sha256_file, sha256_json, write_json
from stages.audio import encode_flac, read_recording, stream_mono_16k, to_mono_16k
from stages.errors import InputError
from stages.quality import Quality, measure
from stages.schema import SAMPLE_RATE_HZ
from stages.shards import MAX_BYTES, MAX_ITEMS, Problem, ShardItem, pack_shard
from stages.text import problems_of

CONVERT_VERSION = 1
"""Counts up whenever the same recordings would give other shards."""

MIN_DURATION_S = 0.1  # shorter than any word
MAX_DURATION_S = 30.0  # what the encoder takes at once; longer recordings are cut at silences
PIECE_S = 15.0  # longest piece of a long recording
MAX_CLIPPED_SHARE = 0.05  # above it, the flat tops are most of the loud speech
IN_MEMORY_BYTES = 16_000_000  # a larger file is read where it lies, so that hours of audio need no memory

CHUNK_FILE = "chunk.json"


@dataclass
class Report:
    """What was set aside in a chunk, and what was done to the recordings that went in, how often."""

    problems: list[Problem] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Packed:
    """One shard of a chunk, not yet named, and its index rows."""

    content: bytes
    rows: list[dict[str, Any]]


Opener = Callable[[Row], "Path | bytes"]


def open_local(row: Row) -> Path | bytes:
    """A row's recording: its bytes, or its path where it is large. Raises InputError where it cannot be read."""
    try:
        size = row.size if row.size is not None else Path(row.path).stat().st_size
        if row.offset is None and size > IN_MEMORY_BYTES:
            return Path(row.path)
        if size > 64 * IN_MEMORY_BYTES:
            raise InputError(f"{size / 1e9:.1f} GB inside a tar: unpack the recording and give it as a file.")
        with Path(row.path).open("rb") as file:
            if row.offset is not None:
                file.seek(row.offset)
            return file.read(size) if row.offset is not None else file.read()
    except OSError as error:
        raise InputError(f"{Path(row.path).name}: cannot be read ({error.strerror}).") from error


def pack_chunk(rows: Sequence[Row], opener: Opener, report: Report, cut_long: bool = True) -> Iterator[Packed]:
    """Convert a chunk's rows, in order, to shards; what cannot be used goes to ``report`` and the others go on."""
    items: list[ShardItem] = []
    index: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        try:
            for item, source in _convert(row, opener(row), cut_long, report):
                if len(items) == MAX_ITEMS or size + len(item.audio) > MAX_BYTES:
                    yield Packed(pack_shard(items), index)
                    items, index, size = [], [], 0
                items.append(item)
                index.append(index_row(item, "", source))
                size += len(item.audio)
        except InputError as error:
            report.problems.append(Problem(row.item, str(error)))
    if items:
        yield Packed(pack_shard(items), index)


def _convert(
    row: Row, source: Path | bytes, cut_long: bool, report: Report
) -> Iterator[tuple[ShardItem, dict[str, Any]]]:
    """One recording's utterances: itself, or the pieces of a long one. Raises InputError where it cannot be used."""
    name = Path(row.path).name if row.offset is None else (row.item.rsplit(": ", 1)[-1])
    header, recording = read_recording(
        source, name, max_duration_s=MAX_DURATION_S, start_s=row.start_s, end_s=row.end_s
    )
    origin = {
        "source_rate_hz": header.rate_hz,
        "source_channels": header.channels,
        "source_format": header.format,
    }
    digest = sha256_bytes(source) if isinstance(source, bytes) else sha256_file(source)
    if recording is None:
        yield from _pieces(row, source, name, header.duration_s, cut_long, origin, digest, report)
    else:
        if row.text is not None:
            reason = problems_of(row.text, row.language)
            if reason:
                raise InputError(f"its transcript cannot be used: {reason}")
        if recording.samples.shape[0] / recording.rate_hz < MIN_DURATION_S:
            raise InputError(
                f"{name}: lasts {recording.samples.shape[0] / recording.rate_hz:.2f} s, no word fits into it. Leave it out."
            )
        quality = measure(recording.samples, recording.rate_hz)
        _check_levels(name, quality)
        samples = to_mono_16k(recording)
        yield _item(row, row.utterance, row.text, samples, digest), {**origin, **levels_of(quality)}
        if quality.clipped_share > 0.001:
            report.done["slightly clipped, kept"] += 1
    if header.rate_hz != SAMPLE_RATE_HZ:
        report.done[f"resampled from {header.rate_hz} Hz"] += 1
    if header.channels > 1:
        report.done[f"mixed down from {header.channels} channels"] += 1


def _pieces(
    row: Row,
    source: Path | bytes,
    name: str,
    duration_s: float,
    cut_long: bool,
    origin: dict[str, Any],
    digest: str,
    report: Report,
) -> Iterator[tuple[ShardItem, dict[str, Any]]]:
    """A long recording's stretches of speech; hours of it pass through in blocks."""
    if not cut_long:
        raise InputError(
            f"{name}: lasts {duration_s:.0f} s, at most {MAX_DURATION_S:g} s are one utterance. Cut it up, or leave out "
            "--no-cut."
        )
    from stages.voice_activity import cut

    count = 0
    pieces = cut(stream_mono_16k(source, name, start_s=row.start_s, end_s=row.end_s), max_s=PIECE_S)
    while True:
        try:
            piece = next(pieces, None)
        except InputError as error:  # broken off somewhere in its hours: what came before is good
            raise InputError(f"{error} {count} piece(s) from before that went in." if count else str(error)) from error
        if piece is None:
            break
        quality = measure(piece.samples, SAMPLE_RATE_HZ)
        if quality.silent or quality.clipped_share > MAX_CLIPPED_SHARE:
            report.done["pieces of long recordings left out: silent or clipped"] += 1
            continue
        item = _item(row, f"{row.utterance}--{count:05d}", None, piece.samples, digest)
        yield item, {**origin, **levels_of(quality)}
        count += 1
    if not count:
        raise InputError(f"{name}: lasts {duration_s:.0f} s, and no speech was found in it. Leave it out.")
    report.done["long recordings cut at silences"] += 1
    report.done["pieces of long recordings"] += count
    if row.text is not None:
        report.done["transcripts of long recordings left out: they cannot be shared out among the pieces"] += 1


def _check_levels(name: str, quality: Quality) -> None:
    if quality.silent:
        raise InputError(f"{name}: silent (level {quality.level_dbfs:.0f} dBFS). Record it again or leave it out.")
    if quality.clipped_share > MAX_CLIPPED_SHARE:
        raise InputError(
            f"{name}: clipped: {quality.clipped_share:.0%} of its samples are at full scale, at most "
            f"{MAX_CLIPPED_SHARE:.0%} are usable. Record it again at a lower level."
        )


def _item(row: Row, utterance: str, text: str | None, samples: Any, digest: str) -> ShardItem:
    audio = encode_flac(samples)
    return ShardItem(
        utterance=utterance,
        user=row.user,
        text=text,
        language=row.language,
        consent=dict(row.consent),
        source_sha256=digest,
        duration_s=samples.shape[0] / SAMPLE_RATE_HZ,
        audio=audio,
        audio_sha256=sha256_bytes(audio),
    )


def chunk_key(rows: Sequence[Row], cut_long: bool) -> str:
    """Identity of a chunk's result: its rows, and size and time of the files that they point at (none is read)."""
    content = []
    for row in rows:
        try:
            state = Path(row.path).stat()
            seen: list[int] | None = [state.st_size, state.st_mtime_ns]
        except OSError:
            seen = None
        stretch = (row.start_s, row.end_s, row.offset, row.size)
        content.append(
            [row.utterance, row.user, row.text, row.language, row.consent, row.item, row.path, *stretch, seen]
        )
    return sha256_json([CONVERT_VERSION, cut_long, content])


def write_chunk(rows: Sequence[Row], folder: Path, cut_long: bool) -> int:
    """Convert a chunk into ``folder``: shards, and last of all CHUNK_FILE, which says that the chunk is whole.

    Returns the number of utterances. Raises OSError where the disk takes no more.
    """
    report = Report()
    return keep_chunk(folder, pack_chunk(rows, open_local, report, cut_long), report)


def judge_chunk(rows: Sequence[Row], folder: Path, cut_long: bool) -> int:
    """``write_chunk`` for a dry run: everything is converted, only CHUNK_FILE is written."""
    report = Report()
    return keep_chunk(folder, pack_chunk(rows, open_local, report, cut_long), report, audio=False)


def keep_chunk(folder: Path, shards: Iterable[Packed], report: Report, audio: bool = True) -> int:
    """Write a converted chunk's shards (without ``audio``: not them) and its CHUNK_FILE into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    content = []
    for number, shard in enumerate(shards):
        path = folder / f"{number:05d}.tar"
        if audio:
            with path.open("wb") as file:
                file.write(shard.content)
                file.flush()
                os.fsync(file.fileno())
        content.append({"file": path.name, "sha256": sha256_bytes(shard.content), "rows": shard.rows})
    problems = [[problem.item, problem.reason] for problem in report.problems]
    write_json(folder / CHUNK_FILE, {"shards": content, "problems": problems, "done": dict(report.done)})
    return sum(len(shard["rows"]) for shard in content)


def pack_shipped(
    rows: Sequence[Row], content: Sequence[bytes | InputError], cut_long: bool
) -> tuple[list[Packed], Report]:
    """``pack_chunk`` of recordings that came along as bytes: for a node that does not see this machine's disk."""
    report = Report()
    by_row = dict(zip(map(id, rows), content, strict=True))

    def opener(row: Row) -> bytes:
        found = by_row[id(row)]
        if isinstance(found, InputError):
            raise found
        return found

    return list(pack_chunk(rows, opener, report, cut_long)), report
