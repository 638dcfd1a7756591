"""LibriSpeech: ``<id> TEXT`` lines in ``*.trans.txt``, the recordings ``<id>.flac`` beside them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.cohorts.sources.fields import RowMaker, plain, printable, user_of_name
from pipeline.cohorts.sources.folders import suffix_of, walk
from pipeline.cohorts.sources.places import AUDIO_SUFFIXES, Places
from pipeline.cohorts.sources.row import Source, SourceRow
from pipeline.cohorts.sources.texts import iter_lines, read_text
from stages.errors import InputError
from stages.shards import Problem

ENDING = ".trans.txt"


def librispeech_source(audio: Path, transcripts: Path, user_from: str | None) -> Source:
    """The recordings that ``transcripts`` lists: one ``*.trans.txt``, or a folder with any number at any depth.

    Raises InputError where the only list cannot be read.
    """
    one = transcripts.is_file()
    if one:
        read_text(transcripts, "*.trans.txt")
    words = {
        "path": "the name of each recording's folder",
        "name": "each recording's name up to its first - or _",
    }.get(user_from or "", "the first part of each id")
    says = (str(transcripts) if one else f"{transcripts}: its *{ENDING} files", f"users: {words}")
    return Source("LibriSpeech", says, _rows(transcripts, RowMaker(Places(audio), user_from or "column")))


def _rows(transcripts: Path, maker: RowMaker) -> Iterator[SourceRow | Problem]:
    if transcripts.is_file():
        yield from _list_rows(transcripts.resolve(), "", maker)
        return
    top = os.path.realpath(transcripts)
    for inner, entries in walk(top):
        if isinstance(entries, OSError):
            yield Problem(printable(inner) or ".", f"the folder cannot be opened ({entries.strerror}).")
            continue
        for entry in entries:
            if entry.name.endswith(ENDING):
                yield from _list_rows(Path(top, inner, entry.name), inner, maker)


def _list_rows(path: Path, inner: str, maker: RowMaker) -> Iterator[SourceRow | Problem]:
    """The rows of one list; its recordings lie beside it, or at the same place below the folder of recordings."""
    shown = printable(f"{inner}/{path.name}" if inner else path.name)
    try:
        text = read_text(path, f"*{ENDING}")
        lines = iter_lines(text)
        beside = _recordings(str(path.parent), maker.places) or _recordings(
            f"{maker.places.root}/{inner}", maker.places
        )
        for number, line in lines:
            name, _, words = (line or "").strip().partition(" ")
            item = f"{shown} line {number}: {printable(name)}"
            try:
                yield _row(item, plain(name, "id"), words, beside, maker)
            except InputError as error:
                yield Problem(item, str(error))
    except InputError as error:
        yield Problem(shown, str(error))


def _row(item: str, name: str, words: str, beside: dict[str, str], maker: RowMaker) -> SourceRow:
    if not name:
        raise InputError("the line is longer than a million characters.")
    given = beside.get(name)
    if given is None:
        raise InputError(f"no such file in {maker.places.audio}: no recording {name} beside the list.")
    return maker.make(item, given, user_of_name(name), plain(words, "text"), name)


def _recordings(folder: str, places: Places) -> dict[str, str]:
    """{stem: path} of the recordings in one folder; empty where it is not inside the folder of recordings."""
    if not places.contains(os.path.realpath(folder)):
        return {}
    try:
        names = sorted(os.listdir(folder), reverse=True)  # noqa: PTH208  (of several of one stem, .flac counts)
    except OSError:
        return {}
    return {name.rpartition(".")[0]: f"{folder}/{name}" for name in names if suffix_of(name) in AUDIO_SUFFIXES}
