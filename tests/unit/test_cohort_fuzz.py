"""Whatever lies in a folder and stands in its table: each row goes in or is set aside with a reason, and data/ is whole."""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from pathlib import Path

import soundfile
from helpers_cohorts import make_project, voice_like
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from pipeline.cohorts.add import Options, add_cohort
from pipeline.cohorts.index import read_index
from pipeline.cohorts.store import is_intact, read_cohort
from stages.errors import EdgealignError
from stages.shards import UTTERANCE_NAME, iter_shard, list_shards

NAMES = st.one_of(
    st.sampled_from(
        ["a.wav", "b c.wav", "ä ö.flac", "x" * 240 + ".wav", "no-suffix", ".hidden.wav", "a.b.c.wav", "语音.wav"]
    ),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
        lambda name: name not in (".", "..") and len(name.encode()) < 250
    ),
)
NAMED = st.one_of(
    NAMES, st.sampled_from(["../secret.wav", "/etc/passwd", "sub/../../secret.wav", "y" * 300, "", " ", "a.wav\n"])
)
KINDS = st.sampled_from(
    ["good", "good", "good", "empty", "text", "cut", "silent", "flac as wav", "mp3", "short", "folder", "link"]
)
USERS = st.one_of(
    st.sampled_from(["ann", "Ann", "Änn", "", "../up", "u" * 300, 'q"uote', "new\nline"]), st.text(max_size=8)
)
TEXTS = st.one_of(
    st.sampled_from(["hello", "", "привет", 'say "hi", now', "two\nlines", "w " * 3000, "1 2 3", "?!"]),
    st.text(max_size=12),
)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])


def put(path: Path, kind: str, seed: int) -> None:
    """A recording, or what passes for one."""
    buffer = io.BytesIO()
    sound = voice_like(0.3, seed) * (0 if kind == "silent" else 1)
    form = {"flac as wav": "FLAC", "mp3": "MP3"}.get(kind, "WAV")
    soundfile.write(buffer, sound[: 400 if kind == "short" else None], 16_000, format=form)
    content = buffer.getvalue()
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(path.parent.parent / "secret.wav")
    else:
        path.write_bytes({"empty": b"", "text": b"not audio", "cut": content[: len(content) // 2]}.get(kind, content))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    files=st.dictionaries(NAMES, KINDS, max_size=6),
    rows=st.lists(st.tuples(NAMED, USERS, TEXTS), max_size=6),
    encoding=ENCODINGS,
    broken=st.sampled_from(["", "", "", "nul", "no columns", "cut", "extra field"]),
)
def test_every_row_goes_in_or_has_its_reason(
    files: dict[str, str], rows: list[tuple[str, str, str]], encoding: str, broken: str
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        (folder / "audio").mkdir()
        soundfile.write(folder / "secret.wav", voice_like(0.3, 99), 16_000)
        for seed, (name, kind) in enumerate(files.items()):
            put(folder / "audio" / name, kind, seed)
        listed = [*((name, "bob", "hello") for name in files), *rows]
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(("file", "user", "text") if broken != "no columns" else ("a", "b", "c"))
        table.writerows((*row, "more") if broken == "extra field" else row for row in listed)
        content = text.getvalue().encode(encoding, "replace")
        if broken == "nul":
            content += "\0".encode(encoding)
        if broken == "cut":
            content = content[: len(content) * 2 // 3]
        (folder / "table.csv").write_bytes(content)
        project = make_project(folder / "project")
        options = Options(transcripts=folder / "table.csv", workers=0)
        try:
            found = add_cohort(project, "team", folder / "audio", options, tell=lambda line: None)
        except EdgealignError as error:
            assert str(error).strip()
            assert not project.cohort("team").exists()
            return
        record = read_cohort(project.cohort("team"))
        assert is_intact(project.cohort("team"), record)
        assert all(problem.reason for problem in found.problems)
        items = [item for shard in list_shards(project.cohort("team")) for item in iter_shard(shard)]
        assert all(item.problem is None and UTTERANCE_NAME.match(item.user) for item in items)
        assert len(items) == found.utterances == read_index(project.cohort("team")).num_rows
        event(f"{len(items)} in, {min(len(found.problems), 3)} or more set aside")
        if not broken:
            # blank lines are none of a table's rows
            assert len(items) + len(found.problems) == len([row for row in listed if any(row)])
        secret = {item.source_sha256 for item in items}
        from stages.atomic import sha256_file

        assert sha256_file(folder / "secret.wav") not in secret
    finally:
        shutil.rmtree(folder)
