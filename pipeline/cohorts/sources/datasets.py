"""Folders in the forms of data sets: LibriSpeech, Kaldi, and recordings without any transcript."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.cohorts.sources.files import (
    AUDIO_SUFFIXES,
    Resolver,
    read_lines,
    recordings_in,
    user_of_name,
    user_of_path,
)
from pipeline.cohorts.sources.row import Source, SourceRow
from stages.errors import InputError
from stages.shards import Problem


def read_folder(audio: Path, user_from: str | None) -> Source:
    """Recordings alone. Raises InputError where there is none."""
    first = next(recordings_in(audio), None)
    if first is None:
        raise InputError(
            f"{audio}: holds no recording (searched for {', '.join(sorted(AUDIO_SUFFIXES))}). Give the folder of recordings "
            "with --audio."
        )
    if user_from == "column":
        raise InputError(f"{audio}: there are no transcripts, so no column. Use --user-from path or --user-from name.")
    chosen = user_from or ("path" if "/" in first else "name")
    taken = {"path": "the recording's folder", "name": "its name up to the first - or _"}[chosen]
    says = ("no transcripts: the pseudo_labels stage writes them", f"users: {taken}")
    return Source("folder of recordings", says, _folder_rows(audio, chosen))


def _folder_rows(audio: Path, user_from: str) -> Iterator[SourceRow | Problem]:
    resolver = Resolver(audio)
    for name in recordings_in(audio):
        try:
            path = resolver.find(name)
        except InputError as error:
            yield Problem(name, str(error))
            continue
        user = user_of_path(name) if user_from == "path" else user_of_name(name)
        if user:
            yield SourceRow(name, path, user)
        else:
            yield Problem(name, "it lies in no folder of its own, so nobody says who speaks. Use --user-from name.")


def read_librispeech(lists: list[Path], audio: Path, user_from: str | None) -> Source:
    """LibriSpeech: ``<id> TEXT`` lines in ``*.trans.txt``, recordings beside them."""
    taken = {"path": "the recording's folder"}.get(user_from or "", "the first part of the id")
    says = (f"{len(lists)} transcript file(s)", f"users: {taken}")
    return Source("LibriSpeech", says, _librispeech_rows(lists, audio, user_from))


def _librispeech_rows(lists: list[Path], audio: Path, user_from: str | None) -> Iterator[SourceRow | Problem]:
    for path in lists:
        resolver = Resolver(audio, [path.parent])
        inside = path.parent.resolve()
        for number, line in enumerate(read_lines(path), start=1):
            name, _, text = line.strip().partition(" ")
            if not name:
                continue
            item = f"{path.name} line {number}: {name[:300]}"
            try:
                found = _with_suffix(resolver, str(inside / name))
            except InputError as error:
                yield Problem(item, str(error))
                continue
            user = user_of_path(found) if user_from == "path" else user_of_name(f"{name}.x")
            yield SourceRow(item, found, user, text.strip() or None, name)


def _with_suffix(resolver: Resolver, stem: str) -> str:
    for suffix in ("flac", "wav", "mp3", "ogg", "opus"):
        try:
            return resolver.find(f"{stem}.{suffix}")
        except InputError as error:
            if "no such file" not in str(error):
                raise
    raise InputError(f"no such file in {resolver.audio} (tried .flac, .wav, .mp3, .ogg, .opus).")


def read_kaldi(folder: Path, audio: Path, user_from: str | None) -> Source:
    """A Kaldi data folder: wav.scp, and text, utt2spk and segments where they are there."""
    said = [name for name in ("text", "utt2spk", "segments") if (folder / name).is_file()]
    if user_from is None:
        user_from = "column" if "utt2spk" in said else "name"
    taken = {"column": "utt2spk", "path": "the recording's folder", "name": "the utterance's id up to the first - or _"}
    if user_from == "column" and "utt2spk" not in said:
        raise InputError(f"{folder}: has no utt2spk. Use --user-from path or --user-from name.")
    says = (f"{folder}: wav.scp, {', '.join(said) or 'nothing beside it'}", f"users: {taken[user_from]}")
    return Source("Kaldi data folder", says, _kaldi_rows(folder, audio, user_from))


def _kaldi_rows(folder: Path, audio: Path, user_from: str) -> Iterator[SourceRow | Problem]:
    recordings, texts, speakers = (_pairs(folder / name) for name in ("wav.scp", "text", "utt2spk"))
    resolver = Resolver(audio, [folder])
    stretches: dict[str, tuple[str, str]] = {}
    if (folder / "segments").is_file():
        for utterance, rest in _pairs(folder / "segments").items():
            recording, _, times = rest.partition(" ")
            stretches[utterance] = (recording, times)
    else:
        stretches = {name: (name, "") for name in recordings}
    for utterance, (recording, times) in stretches.items():
        item = f"wav.scp: {utterance[:300]}"
        try:
            given = recordings.get(recording)
            if given is None:
                raise InputError(f"segments names the recording {recording!r}, which wav.scp does not have.")
            if given.endswith("|") or given.startswith("|"):
                raise InputError(
                    "is a command, not a file: commands are not run. Write its output to a file and name that."
                )
            start, end = _times(times)
            path = resolver.find(given)
        except InputError as error:
            yield Problem(item, str(error))
            continue
        user = {
            "column": speakers.get(utterance, ""),
            "path": user_of_path(path),
            "name": user_of_name(f"{utterance}.x"),
        }[user_from]
        if not user:
            yield Problem(item, "names no user: utt2spk does not have it.")
            continue
        yield SourceRow(item, path, user, texts.get(utterance, "").strip() or None, utterance, start, end)


def _times(text: str) -> tuple[float | None, float | None]:
    if not text:
        return None, None
    try:
        start, end = (float(part) for part in text.split()[:2])
    except ValueError:
        start, end = 0.0, -1.0
    if end == -1 and start > 0:
        return start, None  # Kaldi: to the end
    if not 0 <= start < end < 1e7:
        raise InputError(f"segments: {text!r}, needed start and end in seconds.")
    return start, end


def _pairs(path: Path) -> dict[str, str]:
    """``name value`` lines; the first of several counts. Empty where the file is not there."""
    found: dict[str, str] = {}
    if path.is_file():
        for line in read_lines(path):
            name, _, value = line.strip().replace("\t", " ", 1).partition(" ")
            if name:
                found.setdefault(name, value.strip())
    return found
