"""WebDatasets: tars whose members are grouped by name. They are read where they lie; nothing is ever unpacked."""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.cohorts.sources.fields import COLUMNS, consent_of, match_columns, plain, printable, user_of_name
from pipeline.cohorts.sources.folders import suffix_of, walk
from pipeline.cohorts.sources.places import AUDIO_SUFFIXES, Places
from pipeline.cohorts.sources.row import Source, SourceRow
from stages.errors import InputError
from stages.shards import Member, Problem, ends_well

MAX_TEXT = 1_000_000  # bytes of a .json, .txt or .cls that are read
TEXTS = ("json", "txt", "cls")
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}


@dataclass
class Group:
    """The members of one name: where its audio lies, and what the texts beside it hold."""

    key: str
    audio: list[tuple[str, int, int]] = field(default_factory=list)  # (name, offset, size)
    texts: dict[str, bytes] = field(default_factory=dict)


def tar_source(audio: Path, user_from: str | None, columns: dict[str, str]) -> Source:
    """The recordings of one tar, or of all tars in a folder. Raises InputError where one is compressed, or none is a tar."""
    folder = audio if audio.is_dir() else audio.parent
    places = Places(folder)
    tars = _tars(places) if audio.is_dir() else [audio.name]
    problems: list[Problem] = []
    good: list[tuple[str, str]] = []
    for name in tars:
        try:
            path = places.find(name)
            _check_tar(Path(path))
        except InputError as error:
            problems.append(Problem(printable(name), str(error)))
        else:
            good.append((name, path))
    if not good:
        raise InputError(f"{audio}: {problems[0].reason}")
    chosen, words = _users(good, user_from, columns)
    says: tuple[str, ...] = (f"{len(tars)} tar(s)", f"users: {words}")
    if columns:
        says += ("taken from the .json: " + ", ".join(f"{name} from {key}" for name, key in columns.items()),)
    return Source("WebDataset", says, _rows(good, problems, chosen, columns))


def _tars(places: Places) -> list[str]:
    return [
        f"{inner}/{entry.name}" if inner else entry.name
        for inner, entries in walk(places.root)
        if not isinstance(entries, OSError)
        for entry in entries
        if suffix_of(entry.name) == "tar"
    ]


def _check_tar(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise InputError(f"cannot be opened ({error.strerror}).") from error
    for mark, kind in COMPRESSED.items():
        if start.startswith(mark):
            raise InputError(f"compressed with {kind}: needed a plain tar. Decompress it, then give it again.")
    try:
        tarfile.open(path, "r:", tarinfo=Member).close()
    except (
        Exception
    ) as error:  # tarfile lets ValueError, OverflowError, RecursionError and more through for a hostile tar
        raise InputError(f"not a readable tar ({error}).") from error


def _users(good: list[tuple[str, str]], user_from: str | None, columns: dict[str, str]) -> tuple[str, str]:
    """Where users come from, judged by the first recording, and that in words."""
    words = {
        "column": f"{columns.get('user', 'user or speaker')} in each recording's .json",
        "path": "the name of each recording's folder",
        "name": "each recording's name up to its first - or _",
    }
    if user_from is not None:
        return user_from, words[user_from]
    groups = (group for name, path in good for group in _groups(name, path) if isinstance(group, Group) and group.audio)
    for group in islice(groups, 1):
        try:
            fields = _fields(group, columns)
        except InputError:
            fields = {}
        if fields.get("user"):
            return "column", words["column"]
        if _folder_of(good[0][0], group.key):
            return "path", f"no .json names them, so {words['path']} does"
    return "name", f"no .json names them, so {words['name']} does"


def _folder_of(tar: str, key: str) -> str:
    """The folder that a member lies in: in the tar, else the one that the tar lies in, below the folder of recordings."""
    return key.rpartition("/")[0].rpartition("/")[2] or tar.rpartition("/")[0].rpartition("/")[2]


def _rows(
    good: list[tuple[str, str]], problems: list[Problem], user_from: str, columns: dict[str, str]
) -> Iterator[SourceRow | Problem]:
    yield from problems
    for name, path in good:
        for group in _groups(name, path):
            if isinstance(group, Problem):
                yield group
                continue
            item = f"{printable(name)}: {printable(group.key)}"
            try:
                yield _row(item, name, path, group, user_from, columns)
            except InputError as error:
                yield Problem(item, str(error))


def _row(item: str, tar: str, path: str, group: Group, user_from: str, columns: dict[str, str]) -> SourceRow:
    if not group.audio:
        raise InputError(f"holds no recording, only {', '.join(group.texts) or 'other files'}.")
    if len(group.audio) > 1:
        raise InputError("holds several recordings. Give each a name of its own.")
    [(member, offset, size)] = group.audio
    key = plain(group.key, "name")
    fields = _fields(group, columns)
    user = {
        "column": plain(fields.get("user"), "user"),
        "path": _folder_of(tar, key).strip(),
        "name": user_of_name(key),
    }[user_from]
    if not user:
        raise InputError("names no user.")
    language = plain(fields.get("language"), "language")
    return SourceRow(
        item=f"{item.rpartition(': ')[0]}: {printable(member)}",
        path=path,
        user=sys.intern(user),
        text=_text(group, fields) or None,
        name=key,
        offset=offset,
        size=size,
        consent=consent_of(fields.get("consent"), fields.get("consent_scope"), fields.get("consent_date")),
        language=sys.intern(language) if language else None,
    )


def _fields(group: Group, columns: dict[str, str]) -> dict[str, Any]:
    """What the .json beside a recording says, by our names of the fields."""
    if "json" not in group.texts:
        return {}
    try:
        found = json.loads(group.texts["json"])
    except (ValueError, RecursionError) as error:
        raise InputError(f"its .json cannot be read ({error}).") from error
    if not isinstance(found, dict):
        raise InputError(f"its .json holds a {type(found).__name__}, needed an object.")
    chosen = {field: key for field, key in columns.items() if key in found}
    return {field: found[key] for field, key in match_columns(list(found), chosen, COLUMNS).items()}


def _text(group: Group, fields: dict[str, Any]) -> str:
    """The transcript: the .json's, else the .txt's, else a .cls that is no number (of a class, in WebDataset's own use)."""
    said = plain(fields.get("text"), "text")
    for kind in ("txt", "cls"):
        if not said and kind in group.texts:
            try:
                said = plain(group.texts[kind].decode("utf-8-sig"), f".{kind}")
            except UnicodeDecodeError as error:
                raise InputError(f"its .{kind} is not UTF-8 text ({error.reason}).") from error
            if kind == "cls" and said.isdecimal():
                said = ""
    return said


def _groups(name: str, path: str) -> Iterator[Group | Problem]:
    """A tar's groups in order, and the members that are refused; where it breaks off, that is the last Problem."""
    shown = printable(name)
    group: Group | None = None
    last = "its start"
    try:
        end = Path(path).stat().st_size
        with tarfile.open(path, "r:", tarinfo=Member) as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has read
                reason = _refusal(member)
                if reason:
                    yield Problem(f"{shown}: {printable(member.name)}", reason)
                    continue
                if member.isdir():
                    continue
                if member.offset_data + member.size > end:
                    raise EOFError(f"{printable(member.name)} is not all there")
                last = printable(member.name)
                folder, slash, base = member.name.rpartition("/")
                key = folder + slash + base.partition(".")[0]
                if group is None or key != group.key:
                    if group is not None:
                        yield group
                    group = Group(key)
                _take(group, member, base, archive)
            if not ends_well(archive):
                raise EOFError("no end mark")
    except Exception as error:  # a hostile tar: see _check_tar
        if group is not None:
            yield group
        yield Problem(shown, f"the tar breaks off after {last} ({error}); what comes after it is lost.")
        return
    if group is not None:
        yield group


def _refusal(member: tarfile.TarInfo) -> str:
    """Why a member is not looked at; empty for a plain file or a folder."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        return "its path leaves the folder."
    if not (member.isreg() or member.isdir()) or member.issparse():
        return "not a plain file (a link, a device or a sparse file)."
    return ""


def _take(group: Group, member: tarfile.TarInfo, base: str, archive: tarfile.TarFile) -> None:
    suffix = suffix_of(base)
    if suffix in AUDIO_SUFFIXES:
        if len(group.audio) < 2:  # two are too many already
            group.audio.append((member.name, member.offset_data, member.size))
    elif suffix in TEXTS and member.size <= MAX_TEXT:
        stream = archive.extractfile(member)
        group.texts[suffix] = stream.read() if stream else b""
