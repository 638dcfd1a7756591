"""Finding out what a source is: by the transcripts' name and content, or by what lies in the folder of recordings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from pipeline.cohorts.sources.fields import COLUMNS, USER_FROM
from pipeline.cohorts.sources.folders import Survey, folder_source, suffix_of, survey
from pipeline.cohorts.sources.kaldi import is_kaldi, kaldi_source
from pipeline.cohorts.sources.librispeech import ENDING, librispeech_source
from pipeline.cohorts.sources.places import AUDIO_SUFFIXES
from pipeline.cohorts.sources.row import Source
from pipeline.cohorts.sources.tables import Table, read_table, table_source
from pipeline.cohorts.sources.tars import tar_source
from stages.errors import InputError

FIRST_TABLES = (
    "validated.tsv",
    "transcripts.csv",
    "transcripts.tsv",
    "transcripts.jsonl",
    "metadata.csv",
    "metadata.jsonl",
)
"""Of several tables that name recordings, the first of these counts: Common Voice's, ours, and Hugging Face's."""


def find_source(
    audio: Path,
    transcripts: Path | None = None,
    *,
    user_from: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Source:
    """Find out what a folder of recordings (or a tar), with or without ``transcripts``, is, and how its rows are read.

    ``user_from`` is ``path`` (the name of a recording's folder), ``column`` (what the transcripts say) or ``name`` (the file's
    name up to its first ``-`` or ``_``); None takes what the transcripts say, where they do. ``columns`` names a table's
    columns: {"user": "speaker_name"}. Raises InputError where nothing usable is there. The rows are read while they are taken:
    that raises InputError, too, where a file goes or changes meanwhile.
    """
    audio = Path(audio)
    chosen = dict(columns or {})
    if user_from is not None and user_from not in USER_FROM:
        raise InputError(f"--user-from {user_from}: needed one of {', '.join(USER_FROM)}.")
    for field, name in chosen.items():
        if field not in COLUMNS:
            raise InputError(f"--map {field}={name}: {field} is no field. Fields: {', '.join(COLUMNS)}.")
    if audio.is_file() and transcripts is None:
        return _one_file(audio, user_from, chosen)
    if not audio.is_dir():
        raise InputError(f"{audio}: no such folder. Give the folder of recordings with --audio.")
    if transcripts is None:
        return _inside(audio, audio, user_from, chosen)
    transcripts = Path(transcripts)
    if transcripts.is_dir():
        return _inside(audio, transcripts, user_from, chosen)
    if transcripts.name.endswith(ENDING):
        _refuse_columns(chosen, "LibriSpeech")
        return librispeech_source(audio, transcripts, user_from)
    if is_kaldi(transcripts):
        _refuse_columns(chosen, "Kaldi")
        return kaldi_source(audio, transcripts, user_from)
    if suffix_of(transcripts.name) == "tar":
        raise InputError(
            f"{transcripts}: a tar brings its own transcripts. Give it with --audio, without --transcripts."
        )
    return table_source(read_table(transcripts, chosen), audio, user_from)


def _one_file(audio: Path, user_from: str | None, columns: dict[str, str]) -> Source:
    suffix = suffix_of(audio.name)
    if suffix in AUDIO_SUFFIXES:
        raise InputError(f"{audio}: one recording. Give the folder that it lies in with --audio.")
    if suffix in ("csv", "tsv", "jsonl", "json", "txt", "scp"):
        raise InputError(f"{audio}: no folder. Give it with --transcripts, and the folder of recordings with --audio.")
    return tar_source(audio, user_from, columns)


def _inside(audio: Path, folder: Path, user_from: str | None, columns: dict[str, str]) -> Source:
    """What ``folder``, the one of recordings or another one of transcripts, holds."""
    if is_kaldi(folder):
        _refuse_columns(columns, "Kaldi")
        return kaldi_source(audio, folder, user_from)
    found = survey(folder)
    if found.transcripts:
        _refuse_columns(columns, "LibriSpeech")
        return librispeech_source(audio, folder, user_from)
    if found.tars and not found.recordings and folder == audio:
        return tar_source(audio, user_from, columns)
    table, left = _table(folder, found, columns)
    if table is not None:
        source = table_source(table, audio, user_from)
    elif columns:
        raise InputError(
            f"{folder}: --map names columns, but there is no table{_why(left)}. Give one with --transcripts."
        )
    elif folder != audio:
        raise InputError(
            f"{folder}: holds no transcripts of a known form{_why(left)}. Give the file with --transcripts."
        )
    elif found.recordings:
        source = folder_source(audio, found, user_from)
    else:
        packed = f" It holds {', '.join(found.packed)}: unpack first." if found.packed else ""
        raise InputError(
            f"{audio}: holds no recording (looked for {', '.join(sorted(AUDIO_SUFFIXES))}) and no tar.{packed} Give the "
            "folder of recordings with --audio."
        )
    notes = tuple(f"left out: {reason}" for reason in left)
    return dataclasses.replace(source, says=source.says + notes)


def _table(folder: Path, found: Survey, columns: Mapping[str, str]) -> tuple[Table | None, list[str]]:
    """The table at the folder's top that names recordings, and why others are left out.

    Raises InputError where there are several, or where one that bears a name of FIRST_TABLES cannot be used.
    """
    tables: dict[str, Table] = {}
    left = []
    for name in sorted(found.tables):
        try:
            tables[name] = read_table(folder / name, columns)
        except InputError as error:
            if name in FIRST_TABLES:
                raise
            if Path(name).suffix.lower() != ".json":  # any tool's settings
                left.append(str(error))
    chosen = next((name for name in FIRST_TABLES if name in tables), None)
    if chosen is None and len(tables) > 1:
        raise InputError(
            f"{folder}: several tables name recordings: {', '.join(tables)}. Say which one with --transcripts."
        )
    chosen = chosen or next(iter(tables), None)
    left += [f"{folder / name}: another table that names recordings" for name in tables if name != chosen]
    return (tables[chosen] if chosen else None), left


def _why(left: list[str]) -> str:
    return f" that can be used ({' '.join(left)})" if left else ""


def _refuse_columns(columns: Mapping[str, str], kind: str) -> None:
    if columns:
        raise InputError(f"--map: {kind} has no columns to name. Leave it out.")
