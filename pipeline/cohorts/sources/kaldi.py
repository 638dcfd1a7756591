"""Kaldi data folders: ``wav.scp``, and ``text``, ``utt2spk`` and ``segments`` where they are there.

wav.scp (or segments) is read as a stream; the files that it is joined with are held in memory.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

from pipeline.cohorts.sources.fields import RowMaker, plain, printable, seconds, user_of_name
from pipeline.cohorts.sources.places import Places
from pipeline.cohorts.sources.row import Source, SourceRow
from pipeline.cohorts.sources.texts import Text, iter_lines, read_text
from stages.errors import InputError
from stages.shards import Problem

FILES = ("wav.scp", "text", "utt2spk", "segments")
_USED = "\0"  # in place of a text that went into a row: no text holds a NUL


def is_kaldi(path: Path) -> bool:
    """Whether ``path`` is a Kaldi data folder, or one of its files."""
    if path.is_dir():
        return (path / "wav.scp").is_file()
    return path.name in FILES and (path.parent / "wav.scp").is_file()


def kaldi_source(audio: Path, transcripts: Path, user_from: str | None) -> Source:
    """The utterances of a Kaldi data folder. Raises InputError where one of its files is no text, or utt2spk is missing."""
    folder = transcripts if transcripts.is_dir() else transcripts.parent
    files = {name: read_text(folder / name, name) for name in FILES if (folder / name).is_file()}
    if user_from == "column" and "utt2spk" not in files:
        raise InputError(
            f"{folder}: has no utt2spk. Take users from the recordings' folders (--user-from path) or from the utterances' "
            "ids up to the first - or _ (--user-from name)."
        )
    chosen = user_from or ("column" if "utt2spk" in files else "name")
    users = {
        "column": "utt2spk",
        "path": "the name of each recording's folder",
        "name": "each utterance's id up to its first - or _",
    }[chosen]
    lines = files["segments" if "segments" in files else "wav.scp"].lines
    says: tuple[str, ...] = (f"{folder}: {', '.join(files)}; {lines} utterances", f"users: {users}")
    if "text" not in files:
        says += ("it has no text: the recordings go in without transcripts",)
    # a name comes from the utterance's id, not from the file's, so that the row is told its user
    maker = RowMaker(Places(audio, [folder]), "path" if chosen == "path" else "column")
    return Source("Kaldi data folder", says, _rows(files, maker, by_name=chosen == "name"))


def _rows(files: dict[str, Text], maker: RowMaker, by_name: bool) -> Iterator[SourceRow | Problem]:
    texts = yield from _held(files, "text")
    speakers = yield from _held(files, "utt2spk")
    with_times = "segments" in files
    recordings = (yield from _held(files, "wav.scp")) if with_times else {}
    driver = "segments" if with_times else "wav.scp"
    for number, line in iter_lines(files[driver]):
        utterance, rest = _split(line or "")
        item = f"{driver} line {number}: {printable(utterance)}"
        try:
            text = texts.get(utterance, "")
            if text == _USED:
                raise InputError(f"the utterance is twice in {driver}. Keep one line.")
            file, start_s, end_s = _stretch(rest, recordings) if with_times else (rest, None, None)
            if file.startswith("|") or file.endswith("|"):
                raise InputError(
                    "a command, no file: commands are never run. Write its output to a file and name that."
                )
            user = user_of_name(utterance) if by_name else speakers.get(utterance, "")
            if not user and maker.user_from == "column":
                raise InputError("names no user: utt2spk does not have it.")
            row = maker.make(item, file, user, text, plain(utterance, "id"), start_s, end_s)
        except InputError as error:
            yield Problem(item, str(error))
        else:
            yield row
        if utterance in texts:
            texts[utterance] = _USED
    for utterance, text in texts.items():
        if text != _USED:
            yield Problem(f"text: {printable(utterance)}", f"no such utterance in {driver}.")


def _held(files: dict[str, Text], name: str) -> Generator[Problem, None, dict[str, str]]:
    """Yields the lines of a file that cannot be used; returns {key: rest of the line}, empty where there is no such file."""
    found: dict[str, str] = {}
    if name not in files:
        return found
    for number, line in iter_lines(files[name]):
        key, rest = _split(line or "")
        if not key:
            yield Problem(f"{name} line {number}: (no id)", "the line is longer than a million characters.")
        elif key in found:
            yield Problem(f"{name} line {number}: {printable(key)}", f"is twice in {name}; the first one counts.")
        else:
            found[key] = rest
    return found


def _split(line: str) -> tuple[str, str]:
    parts = line.split(None, 1)
    return (parts[0], parts[1].strip() if len(parts) > 1 else "") if parts else ("", "")


def _stretch(rest: str, recordings: dict[str, str]) -> tuple[str, float | None, float | None]:
    """(file, start, end) of a line of segments: ``<recording> <start> <end>``; an end of -1 is the recording's."""
    parts = rest.split()
    if len(parts) < 3:
        raise InputError("needed <utterance> <recording> <start> <end> in segments.")
    recording, start, end = parts[:3]
    if recording not in recordings:
        raise InputError(f"no such recording in wav.scp: {printable(recording)}.")
    return recordings[recording], seconds(start, "start"), None if end in ("-1", "-1.0") else seconds(end, "end")
