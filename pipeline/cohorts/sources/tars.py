"""An existing WebDataset: tars are read where they lie, nothing is ever unpacked."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.cohorts.sources.files import AUDIO_SUFFIXES, user_of_name, user_of_path
from pipeline.cohorts.sources.row import Source, SourceRow
from pipeline.cohorts.sources.tables import NAMES, consent_of
from stages.consent import consent_problem
from stages.errors import InputError
from stages.shards import Problem

TEXT_BYTES = 1_000_000  # a larger .json or .txt member is no transcript
TEXT_SUFFIXES = ("json", "txt", "text", "transcript")


def read_webdataset(tars: list[Path], user_from: str | None) -> Source:
    """Tars as a source. Raises InputError where one of them is compressed or no tar."""
    for path in tars:
        try:
            with tarfile.open(path, "r:"):
                pass
        except (tarfile.TarError, OSError, EOFError) as error:
            raise InputError(
                f"{path}: not a readable, uncompressed tar ({error}). Unpack it and give the folder, or write it uncompressed."
            ) from error
    taken = {"path": "the member's folder", "name": "the member's name up to the first - or _"}.get(
        user_from or "", "user or speaker in the JSON, else the member's name up to the first - or _"
    )
    return Source("WebDataset", (f"{len(tars)} tar(s)", f"users: {taken}"), _rows(tars, user_from))


def _rows(tars: list[Path], user_from: str | None) -> Iterator[SourceRow | Problem]:
    for path in tars:
        real = str(path.resolve())
        key = ""
        parts: dict[str, Any] = {}
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    reason = _refusal(member)
                    if reason:
                        yield Problem(f"{path.name}: {member.name[:300]}", reason)
                        continue
                    if member.isdir():
                        continue
                    folder, _, name = member.name.rpartition("/")
                    stem, _, suffix = name.partition(".")
                    here = f"{folder}/{stem}" if folder else stem
                    if here != key and parts:
                        yield _row(real, path.name, key, parts, user_from)
                        parts = {}
                    key = here
                    parts[suffix.lower()] = _part(archive, member, suffix.lower())
        except (tarfile.TarError, OSError, EOFError, UnicodeError) as error:
            yield Problem(f"{path.name}: {key or 'its start'}", f"the tar breaks off here ({error}).")
        if parts:
            yield _row(real, path.name, key, parts, user_from)


def _refusal(member: tarfile.TarInfo) -> str:
    """Why a member is not even looked at; empty for a plain file or folder."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        return "its path leaves the tar's folder."
    if not (member.isreg() or member.isdir()):
        return "not a plain file (a link or a device)."
    if member.issparse():
        return "a sparse file: write it as a plain one."
    return ""


def _part(archive: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> Any:
    """(offset, size) of an audio member, the content of a text member; None for anything else."""
    if suffix.rpartition(".")[2] in AUDIO_SUFFIXES:
        return member.offset_data, member.size
    if suffix in TEXT_SUFFIXES and member.size <= TEXT_BYTES:
        stream = archive.extractfile(member)
        return stream.read() if stream else None
    return None


def _row(path: str, tar: str, key: str, parts: dict[str, Any], user_from: str | None) -> SourceRow | Problem:
    audio = [(suffix, part) for suffix, part in parts.items() if isinstance(part, tuple)]
    item = f"{tar}: {key[:300]}"
    try:
        if not audio:
            raise InputError(f"holds no audio (it has {', '.join(parts)}).")
        if len(audio) > 1:
            raise InputError(f"holds several recordings ({', '.join(suffix for suffix, _ in audio)}). Keep one.")
        fields = _fields(parts)
        said = next((str(fields[name]) for name in NAMES["user"] if fields.get(name)), "")
        user = {"path": user_of_path(key), "name": user_of_name(f"{key}.x"), "column": said}.get(
            user_from or "", said or user_of_name(f"{key}.x")
        )
        if not user:
            raise InputError("names no user.")
        text = next((str(fields[name]) for name in NAMES["text"] if fields.get(name)), "").strip()
        suffix, (offset, size) = audio[0]
        return SourceRow(
            item=f"{item}.{suffix}",
            path=path,
            user=user.strip(),
            text=text or None,
            name=key.rpartition("/")[2],
            offset=offset,
            size=size,
            consent=_consent(fields),
            language=str(fields["language"]) if fields.get("language") else None,
        )
    except InputError as error:
        return Problem(item, str(error))


def _fields(parts: dict[str, Any]) -> dict[str, Any]:
    """What the members beside the audio say, as one mapping. Raises InputError where they cannot be read."""
    fields: dict[str, Any] = {}
    for suffix in TEXT_SUFFIXES[1:]:
        if isinstance(parts.get(suffix), bytes):
            fields["text"] = _decoded(parts[suffix], suffix)
    if isinstance(parts.get("json"), bytes):
        try:
            content = json.loads(_decoded(parts["json"], "json"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"its .json is not JSON ({error}).") from error
        if not isinstance(content, dict):
            raise InputError(f"its .json holds {type(content).__name__}, needed an object.")
        fields |= content
    return fields


def _decoded(content: bytes, suffix: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"its .{suffix} is not UTF-8 text ({error.reason}).") from error


def _consent(fields: dict[str, Any]) -> dict[str, Any] | None:
    given = fields.get("consent")
    if isinstance(given, dict):  # our own shards
        problem = consent_problem(given)
        if problem:
            raise InputError(f"{problem}.")
        return given
    return consent_of(*(str(fields.get(name) or "").strip() for name in ("consent", "consent_scope", "consent_date")))
