"""WebDatasets are read where they lie; a hostile tar gives reasons, never a path outside, never an endless loop."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tracemalloc
from itertools import islice
from pathlib import Path

import pytest
from helpers_sources import read, write

from pipeline.cohorts.sources import SourceRow, find_source
from stages.consent import make_consent
from stages.errors import InputError
from stages.shards import Problem, ShardItem, pack_shard


def make_tar(path: Path, members: dict[str, bytes | str], form: int = tarfile.PAX_FORMAT) -> Path:
    """A tar of these members; a text value of the form ``->target`` is a link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content.removeprefix("->")
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def content(row: object) -> bytes:
    """The bytes that a row points at."""
    with Path(row.path).open("rb") as file:  # type: ignore[attr-defined]
        file.seek(row.offset)  # type: ignore[attr-defined]
        return file.read(row.size)  # type: ignore[attr-defined]


LONG = f"{'x' * 200}/{'y' * 120}"  # needs an extended header


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_grouped_and_found_by_their_bytes(tmp_path: Path, form: int) -> None:
    members: dict[str, bytes | str] = {
        "a/1.wav": b"first",
        "a/1.json": json.dumps({"speaker": "ann", "text": "one", "consent": "no", "language": "de"}).encode(),
        "a/2.json": json.dumps({"user": "bob", "sentence": None}).encode(),
        "a/2.seg.flac": b"second",
        "a/2.txt": "zwei ä\n".encode(),
        "b/1.mp3": b"third",
        "b/1.json": b'{"speaker_id": 7}',
    }
    if form != tarfile.USTAR_FORMAT:
        members |= {f"{LONG}.wav": b"fourth", f"{LONG}.json": b'{"user": "zoe"}'}
    tar = make_tar(tmp_path / "audio" / "x.tar", members, form)
    for audio in (tar, tar.parent):
        assert find_source(audio).kind == "WebDataset"
        rows, problems = read(audio)
        assert not problems
        assert [(row.name, row.user, row.text) for row in rows[:3]] == [
            ("a/1", "ann", "one"),
            ("a/2", "bob", "zwei ä"),
            ("b/1", "7", None),
        ]
        assert [content(row) for row in rows] == [b"first", b"second", b"third", b"fourth"][: len(rows)]
        assert rows[0].consent == make_consent(False)
        assert rows[0].language == "de"
        assert rows[1].consent is None
        assert rows[0].item == "x.tar: a/1.wav"
        assert len(rows) == (3 if form == tarfile.USTAR_FORMAT else 4)
        assert rows[0].path == str(tar.resolve())


def test_our_own_shards_come_in_again(tmp_path: Path) -> None:
    consent = {**make_consent(True, "personal", "2026-01-31"), "asked_by": "me"}
    items = [
        ShardItem(f"u-{number:03d}", "ann", "hello", "en", consent, "0" * 64, 1.0, b"flac %d" % number, "1" * 64)
        for number in range(70)
    ]
    write(tmp_path / "shard-00000.tar", pack_shard(items[:64]))
    write(tmp_path / "shard-00001.tar", pack_shard(items[64:]))
    rows, problems = read(tmp_path)
    assert not problems
    assert [content(row) for row in rows] == [item.audio for item in items]
    assert {(row.user, row.text, row.language) for row in rows} == {("ann", "hello", "en")}
    assert all(row.consent == consent for row in rows)


@pytest.mark.parametrize(
    ("tar", "members", "user_from", "users"),
    [
        ("x.tar", ["ann/1.wav", "bob/2.wav"], None, ["ann", "bob"]),
        ("x.tar", ["ann-1.wav", "bob_2.wav"], None, ["ann", "bob"]),
        ("zoe/x.tar", ["1.wav", "2.wav"], None, ["zoe", "zoe"]),
        ("zoe/x.tar", ["ann-1.wav", "bob-2.wav"], "name", ["ann", "bob"]),
        ("x.tar", ["ann-1.wav"], "path", []),
        ("x.tar", ["ann-1.wav"], "column", []),
    ],
)
def test_users_without_json(
    tmp_path: Path, tar: str, members: list[str], user_from: str | None, users: list[str]
) -> None:
    make_tar(tmp_path / tar, dict.fromkeys(members, b"x"))
    rows, problems = read(tmp_path, user_from=user_from)
    assert [row.user for row in rows] == users
    assert len(problems) == len(members) - len(users)
    assert all(reason == "names no user." for reason in problems.values())


def test_keys_of_the_json_can_be_named(tmp_path: Path) -> None:
    make_tar(tmp_path / "x.tar", {"1.wav": b"x", "1.json": b'{"who": "ann", "user": "team", "utt": "hello"}'})
    [row], _ = read(tmp_path, columns={"user": "who", "text": "utt"})
    assert (row.user, row.text) == ("ann", "hello")


@pytest.mark.parametrize(("said", "text"), [(b"seven", "seven"), (b"7", None), (b"", None)])
def test_a_class_is_a_transcript_unless_it_is_a_number(tmp_path: Path, said: bytes, text: str | None) -> None:
    make_tar(tmp_path / "x.tar", {"ann-1.wav": b"x", "ann-1.cls": said})
    [row], _ = read(tmp_path)
    assert row.text == text


def test_bad_members_have_their_reason_and_the_others_go_on(tmp_path: Path) -> None:
    make_tar(
        tmp_path / "x.tar",
        {
            "/etc/abs.wav": b"x",
            "../up.wav": b"x",
            "a/../../up2.wav": b"x",
            "a\\..\\up3.wav": b"x",
            "link.wav": "->/etc/passwd",
            "u-1.wav": b"good",
            "u-2.json": b'{"user": "ann"}',
            "u-3.wav": b"x",
            "u-3.json": b"{broken",
            "u-4.wav": b"x",
            "u-4.json": b"[" * 50_000,
            "u-5.wav": b"x",
            "u-5.flac": b"x",
            "u-6.wav": b"x",
            "u-6.txt": b"\xff\xfe\xfd",
            "u-7.wav": b"x",
            "u-7.json": b'{"consent": "perhaps"}',
            "u-8.wav": b"x",
            "u-8.json": b"[1]",
            "u-9.wav": b"last",
        },
    )
    rows, problems = read(tmp_path)
    assert [content(row) for row in rows] == [b"good", b"last"]
    assert [
        reason.split("(")[0].split(",")[0].split(".")[0].strip() or reason[:20] for reason in problems.values()
    ] == [
        "its path leaves the folder",
        "its path leaves the folder",
        "its path leaves the folder",
        "its path leaves the folder",
        "not a plain file",
        "holds no recording",
        "its",
        "its",
        "holds several recordings",
        "its",
        "its consent is 'perhaps'",
        "its",
    ]
    assert "its .json cannot be read" in problems["x.tar: u-4"]


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: b"BZh9" + data, lambda data: b"not a tar" + data[600:]])
def test_what_is_no_plain_tar_is_one_message(tmp_path: Path, pack: object) -> None:
    plain = make_tar(tmp_path / "x.tar", {"u-1.wav": b"x"}).read_bytes()
    tar = write(tmp_path / "x.tar", pack(plain))  # type: ignore[operator]
    for audio in (tmp_path, tar):
        with pytest.raises(InputError, match=r"compressed with|not a readable tar"):
            find_source(audio)
    make_tar(tmp_path / "y.tar", {"u-1.wav": b"x"})
    rows, problems = read(tmp_path)
    assert len(rows) == 1
    assert list(problems) == ["x.tar"]


@pytest.mark.parametrize("cut", [100, 512, 1024, 1030, 1500, 1536, 2048, 2500, 3072, 3500])
def test_a_tar_that_breaks_off_says_so_and_keeps_what_is_whole(tmp_path: Path, cut: int) -> None:
    whole = make_tar(tmp_path / "x.tar", {f"u-{n}.wav": bytes([65 + n]) * 600 for n in range(4)}).read_bytes()
    tar = write(tmp_path / "x.tar", whole[:cut])
    try:
        rows, problems = read(tar)
    except InputError:
        assert cut < 512
        return
    assert all(content(row) == bytes([65 + place]) * 600 for place, row in enumerate(rows))
    assert len(rows) == max(0, (cut - 88 + 512 - 600 + 512) // 1536 if cut >= 1112 else 0)
    assert any("breaks off" in reason for reason in problems.values())


def header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    """A header of which every field can be wrong, with a right checksum."""
    block = bytearray(512)
    block[: len(name)] = name.encode()
    block[100:108] = b"0000644\0"
    block[124:136] = size
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


BACK = b"\xff" * 10 + b"\xfe\x00"  # -512 in base 256: from a member's data back to its own header
HUGE = b"\x80" + b"\x00" * 3 + b"\x7f" + b"\xff" * 7


@pytest.mark.parametrize(
    "second",
    [
        header("u-2.wav", BACK),
        header("u-2.wav", HUGE),
        header("x", HUGE, b"x"),
        header("x", BACK, b"x"),
        header("x", HUGE, b"L"),
        header("x", b"00000000016\0", b"x")
        + b"14 size=-1536\n".ljust(512, b"\0")
        + header("u-2.wav", b"0" * 11 + b"\0"),
        header("x", b"00000000020\0", b"x") + b"9 path=\xff\xff\0\0\0\0\0".ljust(512, b"\0"),
        header("x", b"00000000020\0", b"x") * 3000,
        header("u-2.wav", b"not a number"),
        b"garbage" * 100,
    ],
)
def test_a_hostile_header_ends_the_tar_and_no_more(tmp_path: Path, second: bytes) -> None:
    good = header("u-1.wav", b"00000000004\0") + b"good".ljust(512, b"\0")
    tar = write(tmp_path / "x.tar", good + second + bytes(1024))
    found = list(islice(find_source(tar).rows, 20))  # an endless one ends here
    rows = [each for each in found if isinstance(each, SourceRow)]
    assert content(rows[0]) == b"good"
    assert all(row.offset + row.size <= tar.stat().st_size for row in rows)  # type: ignore[operator]
    assert len(found) <= 3
    assert isinstance(found[-1], Problem)


def test_a_header_that_asks_for_memory_gets_none(tmp_path: Path) -> None:
    good = header("u-1.wav", b"00000000004\0") + b"good".ljust(512, b"\0")
    tar = write(tmp_path / "x.tar", good + header("x", b"%011o\0" % 300_000_000, b"x") + bytes(1024))
    tracemalloc.start()
    rows, problems = read(tar)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [content(row) for row in rows] == [b"good"]
    assert problems
    assert peak < 10_000_000


def test_headers_are_not_kept(tmp_path: Path) -> None:
    make_tar(tmp_path / "x.tar", {f"u-{number}.wav": b"x" for number in range(3000)})
    source = find_source(tmp_path)
    held = {}
    tracemalloc.start()
    for count, _ in enumerate(source.rows):
        if count in (500, 2900):
            held[count] = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held[2900] < held[500] + 200_000  # kept headers would be more than 2 MB
