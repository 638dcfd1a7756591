"""A folder of recordings: what is in it, found in one walk, and its recordings as rows."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.cohorts.sources.fields import RowMaker, printable, user_of_name
from pipeline.cohorts.sources.places import AUDIO_SUFFIXES, Places, is_text
from pipeline.cohorts.sources.row import Source, SourceRow
from stages.errors import InputError
from stages.shards import Problem

TABLE_SUFFIXES = frozenset("csv tsv jsonl ndjson json".split())
PACKED_SUFFIXES = frozenset("gz tgz bz2 xz zst zip 7z rar".split())
MAX_USERS = 10_000  # users that are told apart while looking; beyond that it is "more than"
LEFT_OUT = "__MACOSX"


def suffix_of(name: str) -> str:
    """A name's ending in lower case, without its dot; empty where there is none."""
    return name.rpartition(".")[2].lower() if "." in name else ""


@dataclass
class Survey:
    """What one walk through a folder finds; hidden files and __MACOSX are left out."""

    recordings: int = 0
    at_top: int = 0  # of these, the ones that lie in no subfolder
    transcripts: int = 0  # LibriSpeech's *.trans.txt
    tars: int = 0
    other: int = 0
    packed: list[str] = field(default_factory=list)  # a few archives that would have to be unpacked
    tables: list[str] = field(default_factory=list)  # at the top
    by_path: set[str] = field(default_factory=set)
    by_name: set[str] = field(default_factory=set)
    parents: set[str] = field(default_factory=set)  # folders that hold recordings


def walk(root: str) -> Iterator[tuple[str, list[os.DirEntry[str]] | OSError]]:
    """(folder relative to ``root``, its entries sorted by name), folder by folder; links to folders are not followed.

    A folder that cannot be opened comes with its error.
    """
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        try:
            with os.scandir(f"{root}/{inner}") as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            yield inner, error
            continue
        entries = [entry for entry in entries if not entry.name.startswith(".") and entry.name != LEFT_OUT]
        below = f"{inner}/" if inner else ""
        waiting.extend(below + entry.name for entry in reversed(entries) if entry.is_dir(follow_symlinks=False))
        yield inner, [entry for entry in entries if not entry.is_dir(follow_symlinks=False)]


def survey(audio: Path) -> Survey:
    """Walk through ``audio`` once. Raises InputError where the folder itself cannot be opened."""
    found = Survey()
    for inner, entries in walk(os.path.realpath(audio)):
        if isinstance(entries, OSError):
            if not inner:
                raise InputError(f"{audio}: cannot be opened ({entries.strerror}). Give a folder with --audio.")
            continue
        for entry in entries:
            _count(found, inner, entry.name)
    return found


def _count(found: Survey, inner: str, name: str) -> None:
    suffix = suffix_of(name)
    if suffix in AUDIO_SUFFIXES:
        found.recordings += 1
        found.at_top += not inner
        for users, user in (
            (found.by_path, inner.rpartition("/")[2]),
            (found.by_name, user_of_name(name)),
            (found.parents, inner),
        ):
            if len(users) <= MAX_USERS:
                users.add(user)
    elif name.endswith(".trans.txt"):
        found.transcripts += 1
    elif suffix == "tar":
        found.tars += 1
    else:
        found.other += 1
        if suffix in TABLE_SUFFIXES and not inner:
            found.tables.append(name)
        elif suffix in PACKED_SUFFIXES and len(found.packed) < 5:
            found.packed.append(f"{inner}/{name}" if inner else name)


def folder_source(audio: Path, found: Survey, user_from: str | None) -> Source:
    """The recordings of a folder, all without transcripts."""
    if user_from == "column":
        raise InputError(
            f"{audio}: a folder of recordings has no column that names the users. Give a table with --transcripts, or take "
            "users from the folders (--user-from path) or from the files' names (--user-from name)."
        )
    chosen = user_from or ("path" if found.recordings > 2 * found.at_top else "name")
    says = [f"{found.recordings} recordings in {len(found.parents)} folder(s)", *_user_words(found, chosen, user_from)]
    left = [f"{found.tars} tar(s)"] * bool(found.tars) + [f"{found.other} other file(s)"] * bool(found.other)
    if left:
        says.append(f"left out: {', '.join(left)}")
    rows = _rows(audio, RowMaker(Places(audio), chosen), strict=user_from is None)
    return Source("folder of recordings without transcripts", tuple(says), rows)


def _user_words(found: Survey, chosen: str, given: str | None) -> Iterator[str]:
    users = found.by_path if chosen == "path" else found.by_name
    count = f"more than {MAX_USERS}" if len(users) > MAX_USERS else str(len(users) - ("" in users and given is None))
    where = (
        "the name of each recording's folder" if chosen == "path" else "each recording's name up to its first - or _"
    )
    yield f"users: {where}: {count}"
    if chosen == "path" and given is None and found.at_top:
        yield (
            f"{found.at_top} recording(s) lie in no subfolder, so their user is not known: they are set aside "
            "(--user-from name takes all users from the files' names)"
        )
    if chosen == "path" and 1 < len(found.parents) != len(users) and len(users) <= MAX_USERS:
        yield "several folders have the same name: what lies in them counts as one user"
    if given is None and found.recordings > 1:
        if len(users) == 1:
            yield "all of it counts as one user: nothing tells users apart (a table given with --transcripts can)"
        elif chosen == "name" and len(users) == found.recordings:
            yield (
                "neither folders nor names tell users apart: each recording counts as a user of its own. Put each user's "
                "recordings into a folder, or give a table with --transcripts"
            )


def _rows(audio: Path, maker: RowMaker, strict: bool) -> Iterator[SourceRow | Problem]:
    """Each recording; with ``strict`` one that lies in no subfolder has no user where users come from folders."""
    root = maker.places.root
    for inner, entries in walk(root):
        if isinstance(entries, OSError):
            yield Problem(printable(inner) or ".", f"the folder cannot be opened ({entries.strerror}).")
            continue
        for entry in entries:
            given = f"{inner}/{entry.name}" if inner else entry.name
            if entry.is_symlink() and suffix_of(entry.name) not in AUDIO_SUFFIXES:
                yield from _link(given, maker.places)
                continue
            if suffix_of(entry.name) not in AUDIO_SUFFIXES:
                continue
            try:
                if not is_text(given):
                    raise InputError("its name is not UTF-8. Rename it.")
                if strict and maker.user_from == "path" and not inner:
                    raise InputError("names no user: it lies in no subfolder. Move it into its user's folder.")
                yield maker.make(printable(given), given)
            except InputError as error:
                yield Problem(printable(given), str(error))


def _link(given: str, places: Places) -> Iterator[Problem]:
    """A link to a folder outside would be recordings that are silently missing; one to a folder inside is walked there."""
    real = os.path.realpath(f"{places.root}/{given}")
    if not places.contains(real):
        try:
            is_folder = stat.S_ISDIR(os.stat(real).st_mode)  # noqa: PTH116
        except OSError:
            return
        if is_folder:
            yield Problem(
                printable(given), f"the link leaves the folder {places.audio}. Put the recordings themselves there."
            )
