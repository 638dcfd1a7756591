"""Whatever bytes come: rows inside the folder, problems, or one InputError; never anything else."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_sources import touch, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_sources_tars import make_tar

from pipeline.cohorts.sources import SourceRow, find_source
from stages.errors import InputError
from stages.shards import Problem

NAMES = ["a.wav", "ann/b.wav", "x-1.flac"]


@pytest.fixture(scope="module")
def audio() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp())
    folder = touch(root / "audio", *NAMES)
    touch(root, "outside.wav")
    (folder / "link.wav").symlink_to(root / "outside.wav")
    yield folder
    shutil.rmtree(root)


def check(audio: Path, transcripts: Path | None, **given_: object) -> list[SourceRow | Problem]:
    """Read all of a source; every row must point at bytes inside the folder, every word must fit into a report."""
    root = os.path.realpath(audio if audio.is_dir() else audio.parent)
    try:
        found = list(find_source(audio, transcripts, **given_).rows)  # type: ignore[arg-type]  # by name
    except InputError as error:
        str(error).encode()
        return []
    for each in found:
        each.item.encode()
        assert len(each.item) < 1000
        if isinstance(each, Problem):
            each.reason.encode()
            assert each.reason
            continue
        assert os.path.realpath(each.path) == each.path
        assert each.path.startswith(root + "/")
        assert Path(each.path).is_file()
        assert each.user == each.user.strip() != ""
        for text in (each.user, each.text, each.name, each.language):
            assert text is None or text.encode()
        assert each.start_s is None or each.start_s >= 0
        assert each.end_s is None or each.end_s > (each.start_s or 0)
        if each.offset is not None and each.size is not None:
            assert each.offset >= 0
            assert each.size >= 0
            assert each.offset + each.size <= Path(each.path).stat().st_size
    return found


QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

FILES = st.sampled_from(
    [*NAMES, "link.wav", "../outside.wav", "/etc/passwd", "", "ann", ".", "gone.wav", "..\\outside.wav"]
)
CELLS = st.one_of(
    FILES, st.text(max_size=8), st.sampled_from(['"', "\t", "\n", ",", ";", "ann", "yes", "no", "1.5", "-1"])
)
HEADER = st.lists(
    st.sampled_from(["file", "user", "text", "start", "end", "consent", "consent_scope", "id", "language", "other"]),
    min_size=1,
    max_size=7,
    unique=True,
)


@QUICK
@given(
    st.sampled_from(["t.csv", "t.tsv", "t.jsonl", "t.txt", "validated.tsv", "x.trans.txt", "wav.scp", "text"]),
    st.one_of(st.binary(max_size=400), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))),
    st.sampled_from(
        [b"", b"\xff\xfe", b"\xef\xbb\xbf", b"file,user,text\n", b"file\tuser\n", b"client_id\tpath\tsentence\n", b"{"]
    ),
    st.sampled_from([None, "path", "name", "column"]),
)
def test_random_bytes_as_any_kind_of_transcripts(
    audio: Path, name: str, content: bytes, start: bytes, user_from: str | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = write(Path(folder) / name, start + content)
        if name == "text":
            write(Path(folder) / "wav.scp", content[::-1])
        check(audio, table, user_from=user_from)
        check(audio, Path(folder), user_from=user_from)


@QUICK
@given(
    HEADER,
    st.lists(st.lists(CELLS, min_size=1, max_size=7), max_size=8),
    st.sampled_from([",", ";", "\t"]),
    st.booleans(),
)
def test_tables_of_likely_and_unlikely_cells(
    audio: Path, header: list[str], rows: list[list[str]], delimiter: str, quoted: bool
) -> None:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if quoted else text

    lines = [delimiter.join(header), *(delimiter.join(map(cell, row)) for row in rows)]
    with tempfile.TemporaryDirectory() as folder:
        found = check(audio, write(Path(folder) / "t.csv", "\n".join(lines).encode("utf-8", "replace")))
    if {"file", "user"} <= set(header) and quoted and delimiter != "\t" and found:
        assert len(found) == len(rows)
        assert all(isinstance(each, Problem) for each, row in zip(found, rows, strict=True) if len(row) != len(header))


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), FILES),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["granted", "scope", "date", "x"]), inner)
    ),
    max_leaves=5,
)
OBJECTS = st.dictionaries(
    st.sampled_from(
        [
            "file",
            "audio_filepath",
            "duration",
            "offset",
            "user",
            "text",
            "start",
            "end",
            "consent",
            "consent_date",
            "id",
        ]
    ),
    JSON,
)


@QUICK
@given(st.lists(st.one_of(OBJECTS, JSON), max_size=6))
def test_json_lines_of_any_values(audio: Path, values: list[object]) -> None:
    import json

    content = "\n".join(json.dumps(value) for value in values)
    with tempfile.TemporaryDirectory() as folder:
        check(audio, write(Path(folder) / "t.jsonl", content))


KALDI_LINE = st.lists(
    st.one_of(FILES, st.sampled_from(["u1", "u2", "|", "0", "1.5", "-1", "nan"]), st.text(max_size=5)), max_size=5
).map(" ".join)


@QUICK
@given(*[st.lists(KALDI_LINE, max_size=5) for _ in range(4)])
def test_kaldi_of_any_lines(
    audio: Path, recordings: list[str], texts: list[str], speakers: list[str], segments: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, lines in zip(
            ("wav.scp", "text", "utt2spk", "segments"), (recordings, texts, speakers, segments), strict=True
        ):
            if lines or name == "wav.scp":
                write(Path(folder) / name, "\n".join(lines).encode("utf-8", "replace"))
        check(audio, Path(folder))


@QUICK
@given(st.binary(max_size=3000))
def test_random_bytes_as_a_tar(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(write(Path(folder) / "x.tar", content), None)


MEMBERS = st.dictionaries(
    st.sampled_from(["a.wav", "a.json", "a.txt", "b.flac", "b.cls", "../c.wav", "/d.wav", "ann/e.mp3", "ann/e.json"]),
    st.one_of(
        st.binary(max_size=40), st.just("->/etc/passwd"), st.just(b'{"user": "ann"}'), st.just(b'{"user": ["x"]}')
    ),
    min_size=1,
)


@QUICK
@given(
    MEMBERS,
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=12),
    st.integers(0, 12_000),
)
def test_tars_with_damaged_bytes(
    members: dict[str, bytes | str], form: int, damage: list[tuple[int, int]], cut: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tar = make_tar(Path(folder) / "x.tar", members, form)
        content = bytearray(tar.read_bytes())
        for place, value in damage:
            content[place % len(content)] = value
        check(write(tar, bytes(content[: max(cut, 600)])), None)
        check(Path(folder), None)


@QUICK
@given(st.lists(st.text(st.characters(blacklist_characters="/\0", codec="utf-8"), min_size=1, max_size=60), max_size=6))
def test_folders_with_files_of_any_name(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(names):
            if name not in (".", "..") and len(name.encode()) < 240:
                here = Path(folder, "audio", name[:20] if number % 2 and name[:20] not in (".", "..") else "")
                if not here.exists() or here.is_dir():
                    touch(here, f"{name}.wav")
        (Path(folder) / "audio").mkdir(exist_ok=True)
        check(Path(folder) / "audio", None)
