"""Folders of recordings, LibriSpeech and Kaldi; and what is what without being told."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from helpers_sources import brief, read, touch, write

from pipeline.cohorts.sources import find_source
from pipeline.cohorts.sources.fields import user_of_name
from stages.errors import InputError


def test_a_folder_of_recordings(tmp_path: Path) -> None:
    audio = touch(
        tmp_path, "ann/1.wav", "ann/2.FLAC", "bob/deep/3.mp3", "bob/.hidden.wav", ".git/4.wav", "bob/__MACOSX/5.wav",
        "bob/._3.mp3", "bob/notes.txt", "bob/wav", "zoe/ä b.opus",
    )  # fmt: skip
    source = find_source(audio)
    rows = list(source.rows)
    assert brief(rows) == [  # type: ignore[arg-type]  # no problem among them: it would have no path
        ("1.wav", "ann", None),
        ("2.FLAC", "ann", None),
        ("3.mp3", "deep", None),
        ("ä b.opus", "zoe", None),
    ]
    assert [row.item for row in rows] == ["ann/1.wav", "ann/2.FLAC", "bob/deep/3.mp3", "zoe/ä b.opus"]
    assert source.kind == "folder of recordings without transcripts"
    assert source.says[0] == "4 recordings in 3 folder(s)"
    assert source.says[1] == "users: the name of each recording's folder: 3"
    assert "left out: 2 other file(s)" in source.says


@pytest.mark.parametrize(
    ("names", "user_from", "users", "said"),
    [
        (["ann-1.wav", "ann_2.wav", "bob-1.wav"], None, ["ann", "ann", "bob"], "up to its first - or _: 2"),
        (["one.wav", "two.wav"], None, ["one", "two"], "neither folders nor names tell users apart"),
        (["ann-1.wav", "ann-2.wav"], None, ["ann", "ann"], "all of it counts as one user"),
        (["ann/1.wav", "ann/2.wav"], None, ["ann", "ann"], "all of it counts as one user"),
        (["a/wav/1.wav", "b/wav/2.wav"], None, ["wav", "wav"], "several folders have the same name"),
        (["a/x-1.wav", "b/y-2.wav"], "name", ["x", "y"], "users: each recording's name"),
        (["x-1.wav", "y-2.wav"], "path", ["AUDIO", "AUDIO"], "the name of each recording's folder: 1"),
    ],
)
def test_who_speaks(tmp_path: Path, names: list[str], user_from: str | None, users: list[str], said: str) -> None:
    audio = touch(tmp_path / "AUDIO", *names)
    rows, problems = read(audio, user_from=user_from)
    assert [row.user for row in rows] == users
    assert not problems
    assert said in " ".join(find_source(audio, user_from=user_from).says)


def test_one_stray_recording_does_not_change_who_everybody_is(tmp_path: Path) -> None:
    audio = touch(tmp_path, "ann/1.wav", "ann/2.wav", "bob/3.wav", "test.wav")
    rows, problems = read(audio)
    assert [row.user for row in rows] == ["ann", "ann", "bob"]
    assert "names no user: it lies in no subfolder" in problems["test.wav"]
    assert "1 recording(s) lie in no subfolder" in " ".join(find_source(audio).says)


@pytest.mark.parametrize(
    ("name", "user"),
    [
        ("a/ann-1_2.wav", "ann"),
        ("ann_1-2.wav", "ann"),
        ("ann.wav", "ann"),
        ("-x.wav", "-x"),
        ("ann.b-c.wav", "ann.b"),
        ("x", "x"),
    ],
)
def test_the_user_in_a_name(name: str, user: str) -> None:
    assert user_of_name(name) == user


def test_links_and_odd_entries_in_a_folder(tmp_path: Path) -> None:
    audio = touch(tmp_path / "audio", "ann/1.wav", "ann/2.wav")
    touch(tmp_path, "outside/3.wav")
    (audio / "ann/link.wav").symlink_to(tmp_path / "outside/3.wav")
    (audio / "bob").symlink_to(tmp_path / "outside")
    (audio / "also-ann").symlink_to(audio / "ann")
    (audio / "ann/up").symlink_to(audio)
    (audio / "ann/dir.wav").mkdir()
    os.mkfifo(audio / "ann/queue.wav")
    Path(os.fsdecode(os.fsencode(audio) + b"/ann/\xff.wav")).touch()
    touch(audio, "ann/line\nend.wav")
    rows, problems = read(audio)
    assert [row.item for row in rows] == ["ann/1.wav", "ann/2.wav", "ann/line\\x0aend.wav"]
    assert {item: reason.split(".")[0].split(str(tmp_path))[0].strip() for item, reason in problems.items()} == {
        "ann/link.wav": "its path leaves the folder",
        "bob": "the link leaves the folder",
        "ann/queue.wav": "is a folder, a device or a queue, no file",
        "ann/\\xdcff.wav": "its name is not UTF-8",
    }


def test_a_folder_that_is_deeper_than_python_may_recurse(tmp_path: Path) -> None:
    here = os.open(touch(tmp_path, "ann/1.wav", "ann/2.wav"), os.O_RDONLY)
    try:
        for _ in range(1500):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        rows, problems = read(tmp_path)
    finally:
        os.close(here)
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # shutil.rmtree, and so pytest, recurses
    assert [row.user for row in rows] == ["ann", "ann"]
    assert not problems


def speech(folder: Path) -> Path:
    touch(folder, "19/198/19-198-0000.flac", "19/198/19-198-0001.flac", "26/495/26-495-0000.flac")
    write(
        folder / "19/198/19-198.trans.txt", "19-198-0000 NORTHANGER ABBEY\n19-198-0001 THIS LITTLE\n19-198-0002 GONE\n"
    )
    write(folder / "26/495/26-495.trans.txt", "26-495-0000\n")
    return folder


def test_librispeech(tmp_path: Path) -> None:
    audio = speech(tmp_path / "LibriSpeech")
    source = find_source(audio)
    assert source.kind == "LibriSpeech"
    rows, problems = read(audio)
    assert brief(rows) == [
        ("19-198-0000.flac", "19", "NORTHANGER ABBEY"),
        ("19-198-0001.flac", "19", "THIS LITTLE"),
        ("26-495-0000.flac", "26", None),
    ]
    assert rows[0].name == "19-198-0000"
    assert list(problems) == ["19/198/19-198.trans.txt line 3: 19-198-0002"]
    assert "no such file" in next(iter(problems.values()))


def test_librispeech_one_list_another_place_and_another_format(tmp_path: Path) -> None:
    audio = speech(tmp_path / "LibriSpeech")
    rows, _ = read(audio, audio / "26/495/26-495.trans.txt", user_from="path")
    assert brief(rows) == [("26-495-0000.flac", "495", None)]
    write(tmp_path / "lists/19/198/19-198.trans.txt", "19-198-0001 ELSEWHERE\n")
    touch(tmp_path / "lists/19/198", "19-198-0001.flac")  # not the one that --audio says
    rows, problems = read(audio, tmp_path / "lists")
    assert brief(rows) == [("19-198-0001.flac", "19", "ELSEWHERE")]
    assert rows[0].path == str((audio / "19/198/19-198-0001.flac").resolve())
    write(tmp_path / "lists/19/198/bad.trans.txt", b"19-198-0000 \xff\n")
    rows, problems = read(audio, tmp_path / "lists")
    assert len(rows) == 1
    assert "not utf-8" in problems["19/198/bad.trans.txt"]


def test_librispeech_ids_cannot_lead_out(tmp_path: Path) -> None:
    touch(tmp_path, "outside.flac")
    audio = touch(tmp_path / "audio", "a-1.flac")
    write(audio / "a.trans.txt", "../outside OUT\n/etc/passwd OUT\na-1 IN\n")
    (audio / "link.flac").symlink_to(tmp_path / "outside.flac")
    write(audio / "b.trans.txt", "link OUT\n")
    rows, problems = read(audio)
    assert brief(rows) == [("a-1.flac", "a", "IN")]
    assert len(problems) == 3


KALDI = {
    "wav.scp": "utt1 {audio}/a.wav\nutt2 a.wav\nutt3 sph2pipe -f wav {audio}/a.wav |\nutt4 /elsewhere/b.wav\nutt5 gone.wav\n",
    "text": "utt1 one\nutt2\nutt3 three\nutt9 nine\n",
    "utt2spk": "utt1 ann\nutt2 bob\nutt3 ann\nutt5 ann\nutt4 ann\n",
}


def kaldi(tmp_path: Path, **files: str) -> tuple[Path, Path]:
    audio = touch(tmp_path / "audio", "a.wav", "b c.wav")
    for name, content in files.items():
        write(tmp_path / "kaldi" / name.replace("_", "."), content.format(audio=audio))
    return audio, tmp_path / "kaldi"


def test_kaldi(tmp_path: Path) -> None:
    audio, folder = kaldi(tmp_path, **KALDI)
    for given in (folder, folder / "wav.scp", folder / "text"):
        assert find_source(audio, given).kind == "Kaldi data folder"
        rows, problems = read(audio, given)
        assert brief(rows) == [("a.wav", "ann", "one"), ("a.wav", "bob", None)]
        assert [row.name for row in rows] == ["utt1", "utt2"]
        assert {item: reason.split(".")[0].split(str(tmp_path))[0].strip() for item, reason in problems.items()} == {
            "wav.scp line 3: utt3": "a command, no file: commands are never run",
            "wav.scp line 4: utt4": "its path leaves the folder",
            "wav.scp line 5: utt5": "no such file in",
            "text: utt9": "no such utterance in wav",
        }


def test_a_command_in_wav_scp_is_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "was-run"
    audio, folder = kaldi(tmp_path, wav_scp=f"utt1 touch {mark} |\nutt2 | touch {mark}\nutt3 touch {mark}; cat x|\n")
    rows, problems = read(audio, folder)
    assert not rows
    assert len(problems) == 3
    assert not mark.exists()


def test_kaldi_segments(tmp_path: Path) -> None:
    audio, folder = kaldi(
        tmp_path,
        wav_scp="rec1 {audio}/a.wav\nrec2 {audio}/b c.wav\n",
        segments="ann-1 rec1 0.5 1.5\nann-2 rec1 1.5 -1\nbob-1 rec2 0 2\nbob-2 rec9 0 2\nbob-3 rec2 2 1\nbob-4 rec2\n",
        text="ann-1 one\nann-2 two\nbob-1 three\nbob-2 four\nbob-3 five\nbob-4 six\n",
    )
    rows, problems = read(audio, folder)
    assert brief(rows) == [("a.wav", "ann", "one"), ("a.wav", "ann", "two"), ("b c.wav", "bob", "three")]
    assert [(row.start_s, row.end_s) for row in rows] == [(0.5, 1.5), (1.5, None), (0.0, 2.0)]
    assert [reason.split(":")[0].split(",")[0] for reason in problems.values()] == [
        "no such recording in wav.scp",
        "ends at 1 s",
        "needed <utterance> <recording> <start> <end> in segments.",
    ]


def test_kaldi_lines_that_are_there_twice(tmp_path: Path) -> None:
    audio, folder = kaldi(
        tmp_path, wav_scp="u1 a.wav\nu1 b c.wav\n", text="u1 one\nu1 other\n", utt2spk="u1 ann\nu1 bob\n"
    )
    rows, problems = read(audio, folder)
    assert brief(rows) == [("a.wav", "ann", "one")]
    assert list(problems) == ["text line 2: u1", "utt2spk line 2: u1", "wav.scp line 2: u1"]


def test_kaldi_users(tmp_path: Path) -> None:
    audio, folder = kaldi(tmp_path, wav_scp="ann-1 a.wav\nbob_1 a.wav\n", utt2spk="ann-1 ann\n")
    rows, problems = read(audio, folder)
    assert [row.user for row in rows] == ["ann"]
    assert "utt2spk does not have it" in problems["wav.scp line 2: bob_1"]
    (folder / "utt2spk").unlink()
    assert [row.user for row in read(audio, folder)[0]] == ["ann", "bob"]
    assert [row.user for row in read(audio, folder, user_from="path")[0]] == ["audio", "audio"]
    with pytest.raises(InputError, match="has no utt2spk"):
        find_source(audio, folder, user_from="column")


TABLE = "file,user,text\nann/1.wav,ann,one\n"


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"transcripts.csv": TABLE}, "CSV"),
        ({"anything.csv": TABLE, "notes.csv": "a,b\n1,2\n", "settings.json": '{"a": 1}'}, "CSV"),
        ({"table.tsv": TABLE.replace(",", "\t")}, "TSV"),
        ({"metadata.jsonl": '{"file_name": "ann/1.wav", "speaker": "ann"}\n'}, "JSON Lines"),
        ({"manifest.json": '{"audio_filepath": "ann/1.wav", "duration": 1, "text": "x"}\n'}, "NeMo manifest"),
        ({"wav.scp": "ann-1 ann/1.wav\n", "transcripts.csv": TABLE}, "Kaldi data folder"),
        ({"ann/ann.trans.txt": "1 one\n"}, "LibriSpeech"),
        ({"notes.csv": "a,b\n1,2\n"}, "folder of recordings without transcripts"),
        ({"transcripts.csv": TABLE, "other.csv": TABLE}, "CSV"),
    ],
)
def test_what_it_is_is_found_out(tmp_path: Path, files: dict[str, str], kind: str) -> None:
    audio = touch(tmp_path, "ann/1.wav")
    for name, content in files.items():
        write(audio / name, content)
    source = find_source(audio)
    assert source.kind == kind
    [row] = source.rows
    assert row.path.endswith("/ann/1.wav")  # type: ignore[union-attr]  # a problem has no path
    left = [
        line for line in source.says if "notes.csv: lacks the column(s) file" in line or "other.csv: another" in line
    ]
    assert len(left) == ("notes.csv" in files) + ("other.csv" in files)


@pytest.mark.parametrize(
    ("files", "given", "said"),
    [
        ({}, {}, "holds no recording"),
        ({"a.tar.gz": "x", "b.zip": "x"}, {}, "a.tar.gz, b.zip: unpack first"),
        ({"1.wav": "x", "one.csv": TABLE, "two.csv": TABLE}, {}, "several tables name recordings: one.csv, two.csv"),
        ({"1.wav": "x", "transcripts.csv": "a,b\n"}, {}, "transcripts.csv: lacks the column(s)"),
        ({"1.wav": "x", "transcripts.csv": b"\xff\n"}, {}, "transcripts.csv: not utf-8"),
        ({"1.wav": "x"}, {"columns": {"user": "who"}}, "there is no table"),
        ({"1.wav": "x", "odd.csv": "a,b\n"}, {"columns": {"user": "who"}}, "lacks the column(s) who"),
        ({"1.wav": "x"}, {"user_from": "column"}, "no column that names the users"),
        ({"1.wav": "x"}, {"user_from": "folder"}, "needed one of column, path, name"),
        ({"1.wav": "x", "wav.scp": "a 1.wav\n"}, {"columns": {"user": "who"}}, "Kaldi has no columns"),
        ({"1.wav": "x", "a.trans.txt": "1 ONE\n"}, {"columns": {"user": "who"}}, "LibriSpeech has no columns"),
    ],
)
def test_what_cannot_be_told_is_one_message(
    tmp_path: Path, files: dict[str, str | bytes], given: dict[str, object], said: str
) -> None:
    (tmp_path / "audio").mkdir()
    for name, content in files.items():
        write(tmp_path / "audio" / name, content)
    with pytest.raises(InputError) as caught:
        find_source(tmp_path / "audio", **given)  # type: ignore[arg-type]  # by name
    assert said in str(caught.value)


def test_folders_and_files_given_the_wrong_way_round(tmp_path: Path) -> None:
    audio = touch(tmp_path / "audio", "ann/1.wav")
    table = write(tmp_path / "t.csv", TABLE)
    lists = touch(tmp_path / "lists", "readme.txt")
    for args, said in (
        ((tmp_path / "gone",), "no such folder"),
        ((table,), "Give it with --transcripts"),
        ((audio / "ann/1.wav",), "one recording"),
        ((table, table), "no such folder"),
        ((audio, lists), "no transcripts of a known form"),
        ((audio, write(tmp_path / "t.tar", b"x")), "Give it with --audio"),
    ):
        with pytest.raises(InputError, match=said):
            find_source(*args)


def test_a_folder_of_transcripts_beside_the_recordings(tmp_path: Path) -> None:
    audio = touch(tmp_path / "audio", "ann/1.wav")
    write(tmp_path / "tables/all.csv", TABLE)
    rows, _ = read(audio, tmp_path / "tables")
    assert brief(rows) == [("1.wav", "ann", "one")]
