"""The tables that pass between stages, column by column. One place; every stage reads and writes through it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.atomic import atomic_path
from stages.errors import InputError

SAMPLE_RATE_HZ = 16_000
"""Rate of every recording in a shard; resampled once, when a cohort comes in."""

FRAME_RATE_HZ = 50
"""Rate of encoder frames in a features table (Whisper, wav2vec 2.0 and HuBERT alike)."""

FEATURES = pa.schema(
    [
        ("utterance", pa.string()),
        ("user", pa.string()),
        ("cohort", pa.string()),
        ("shard", pa.string()),
        ("audio_sha256", pa.string()),  # of the FLAC bytes in the shard
        ("duration_s", pa.float64()),
        ("n_frames", pa.int32()),
        ("width", pa.int32()),  # encoder width: frames is (n_frames, width), row-major
        ("frames", pa.binary()),  # float16, little-endian, FRAME_RATE_HZ
        ("encoder", pa.string()),  # name and weight hash
    ]
)

INDEX = pa.schema(
    [
        ("utterance", pa.string()),
        ("user", pa.string()),
        ("text", pa.string()),  # null where there is no transcript
        ("language", pa.string()),
        ("shard", pa.string()),  # file name of the shard that holds it
        ("duration_s", pa.float64()),
        ("source_sha256", pa.string()),  # of the file that came in
        ("audio_sha256", pa.string()),  # of the FLAC bytes in the shard
        ("granted", pa.bool_()),  # consent, see stages.consent
        ("scope", pa.string()),
        ("consent_date", pa.string()),  # YYYY-MM-DD; null where not stated
        ("source_rate_hz", pa.int32()),  # of the file that came in; null where only the shard is known
        ("source_channels", pa.int32()),
        ("source_format", pa.string()),
        ("level_dbfs", pa.float32()),  # of the file that came in where known, else of the FLAC; see stages.quality
        ("peak", pa.float32()),
        ("clipped_share", pa.float32()),
        ("snr_db", pa.float32()),  # estimate; null where there is no pause to hear the noise in
        ("speech_share", pa.float32()),
    ]
)
"""What a cohort holds, a row an utterance: beside the shards, so that nothing has to be decoded to look something up."""

TEACHER = pa.struct([("name", pa.string()), ("text", pa.string()), ("score", pa.float64())])

LABELS = pa.schema(
    [
        ("utterance", pa.string()),
        ("user", pa.string()),
        ("text", pa.string()),  # normalised to spoken form; null where nothing was accepted
        ("source", pa.string()),  # "human" or "pseudo"
        ("confidence", pa.float64()),  # 0 to 1; 1 for human transcripts
        ("teachers", pa.list_(TEACHER)),  # each teacher's text and score, also where a human transcript exists
        ("accepted", pa.bool_()),
        ("reason", pa.string()),  # why it was rejected; empty where accepted
        ("scope", pa.string()),  # of the user's consent: "all", or "personal" for what may not train the base
    ]
)

READ_OUTS = pa.schema(
    [
        ("utterance", pa.string()),
        ("audio_sha256", pa.string()),
        ("text", pa.string()),  # what the base adapter read, in spoken form; empty where it heard nothing
        ("score", pa.float64()),  # its confidence, 0 to 1
    ]
)
"""What the second teacher read in a shard's utterances without a human transcript, before any rule."""


def write_table(table: pa.Table, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a Parquet file, whole or not at all, with ``metadata`` in the file's key-value metadata."""
    merged = {**(table.schema.metadata or {}), **{k.encode(): v.encode() for k, v in (metadata or {}).items()}}
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata(merged), temporary, compression="zstd")


def read_table(path: Path, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file that must hold at least ``schema``'s columns.

    Raises InputError where the file is missing, unreadable or lacks a column.
    """
    try:
        table = pq.read_table(path, columns=columns)
    except FileNotFoundError:
        raise InputError(f"{path}: not there. Run `dvc repro` to make it.") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error}). Delete it and run `dvc repro`.") from error
    wanted = columns or schema.names
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise InputError(f"{path}: lacks the columns {', '.join(missing)}. Delete it and run `dvc repro`.")
    return table


def read_metadata(path: Path) -> dict[str, str]:
    """The key-value metadata of a Parquet file; empty where the file is missing or unreadable (it is made again)."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (FileNotFoundError, pa.ArrowInvalid, OSError):
        return {}
    return {key.decode(): value.decode() for key, value in metadata.items() if key != b"ARROW:schema"}
