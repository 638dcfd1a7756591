"""What people have: folders, tables and data sets in other forms, each read as rows that point at recordings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.cohorts.sources.row import Source, SourceRow

__all__ = ["Source", "SourceRow", "find_source"]

TABLES = ("transcripts.csv", "transcripts.tsv", "transcripts.jsonl", "metadata.csv", "metadata.jsonl", "manifest.jsonl")
"""Names under which a table is looked for in a folder, besides a single one of any name."""


def find_source(
    audio: Path,
    transcripts: Path | None = None,
    *,
    user_from: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Source:
    """Find out what ``audio`` and ``transcripts`` are: a table, LibriSpeech, Kaldi, NeMo, Common Voice, WebDataset, recordings.

    ``user_from`` is path, column or name; ``columns`` says which column of a table is what ({"user": "speaker_name"}).
    Raises InputError where there is nothing that can be read.
    """
    from pipeline.cohorts.sources import datasets, tables, tars
    from stages.errors import InputError

    audio = Path(audio)
    if audio.is_file() and audio.suffix == ".tar":
        return tars.read_webdataset([audio], user_from)
    if not audio.is_dir():
        raise InputError(f"{audio}: no such folder. Give the folder of recordings with --audio.")
    found = Path(transcripts) if transcripts is not None else _transcripts_in(audio)
    if found is None:
        packed = sorted(audio.glob("*.tar"))
        if packed:
            return tars.read_webdataset(packed, user_from)
        lists = sorted(audio.rglob("*.trans.txt"))
        if lists:
            return datasets.read_librispeech(lists, audio, user_from)
        return datasets.read_folder(audio, user_from)
    if found.is_dir():
        if (found / "wav.scp").is_file():
            return datasets.read_kaldi(found, audio, user_from)
        raise InputError(f"{found}: a folder without wav.scp. Give the file of transcripts, or a Kaldi data folder.")
    if not found.is_file():
        raise InputError(f"{found}: no such file. Give the transcripts with --transcripts.")
    if found.name.endswith(".trans.txt"):
        return datasets.read_librispeech([found], audio, user_from)
    if found.name in ("wav.scp", "text", "segments", "utt2spk") and (found.parent / "wav.scp").is_file():
        return datasets.read_kaldi(found.parent, audio, user_from)
    beside = tuple(folder for folder in (audio / "clips", found.parent / "clips") if folder.is_dir())
    return tables.read_table(found, audio, user_from, columns or {}, beside)


def _transcripts_in(audio: Path) -> Path | None:
    """The table or Kaldi folder in a folder of recordings; None where there is none."""
    from stages.errors import InputError

    if (audio / "wav.scp").is_file():
        return audio
    for name in ("validated.tsv", *TABLES):
        if (audio / name).is_file():
            return audio / name
    found = [path for suffix in ("csv", "tsv", "jsonl") for path in sorted(audio.glob(f"*.{suffix}"))]
    found += [path for path in sorted(audio.glob("*manifest*.json")) if path not in found]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"{audio}: holds several tables ({names}). Say which one with --transcripts.")
    return found[0] if found else None
