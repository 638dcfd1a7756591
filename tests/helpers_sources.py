"""Folders of files that sources point at; what is in the files does not matter before they are decoded."""

from __future__ import annotations

from pathlib import Path

from pipeline.cohorts.sources import SourceRow, find_source
from stages.shards import Problem


def touch(folder: Path, *names: str) -> Path:
    """Files of these names below ``folder``, each holding its own name; the folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, encoding="utf-8")
    return folder


def write(path: Path, content: str | bytes) -> Path:
    """A file of this content; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(audio: Path, transcripts: Path | None = None, **given: object) -> tuple[list[SourceRow], dict[str, str]]:
    """A source's rows, and {item: reason} of what cannot be used."""
    found = list(find_source(audio, transcripts, **given).rows)  # type: ignore[arg-type]  # by name
    problems = {each.item: each.reason for each in found if isinstance(each, Problem)}
    assert len(problems) == sum(isinstance(each, Problem) for each in found)
    return [each for each in found if isinstance(each, SourceRow)], problems


def brief(rows: list[SourceRow]) -> list[tuple[str, str, str | None]]:
    """(file name, user, text) of each row."""
    return [(row.path.rpartition("/")[2], row.user, row.text) for row in rows]
