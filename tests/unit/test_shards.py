"""Shards have repeatable bytes, and reading one trusts nothing in it."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from stages.atomic import sha256_bytes, sha256_file
from stages.audio import encode_flac
from stages.errors import InputError
from stages.shards import ShardItem, iter_shard, list_shards, pack_shard, write_shards

AUDIO = encode_flac(0.1 * np.sin(np.arange(16_000) / 20))
FIELDS = {
    "user": "anna",
    "text": "yes",
    "language": "en",
    "consent": {"granted": True, "scope": "all", "date": None},
    "source_sha256": "ab",
    "duration_s": 1.0,
}


def item(utterance: str, text: str | None = "turn left") -> ShardItem:
    return ShardItem(utterance, "anna", text, "en", {"b": 1, "a": 2}, "ab", 1.0, AUDIO, sha256_bytes(AUDIO))


def tar_of(path: Path, members: list[tuple[str, bytes]], links: tuple[tarfile.TarInfo, ...] = ()) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for link in links:
            archive.addfile(link)
    return path


def good(name: str) -> list[tuple[str, bytes]]:
    return [(f"{name}.flac", AUDIO), (f"{name}.json", json.dumps(FIELDS).encode())]


def problems(path: Path) -> dict[str, str]:
    return {found.utterance: found.problem for found in iter_shard(path) if found.problem}


def usable(path: Path) -> list[str]:
    return [found.utterance for found in iter_shard(path) if not found.problem]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    items = [item("u1"), item("u2", text=None)]
    (shard,) = write_shards(items, tmp_path)
    assert list(iter_shard(shard)) == items


def test_a_shard_packed_without_webdataset_has_the_bytes_that_webdataset_writes(tmp_path: Path) -> None:
    items = [item("u1"), item("u2", text=None), item("u" * 120 + "--00001", text="ä ’ \u4e2d")]
    (shard,) = write_shards(items, tmp_path)
    assert pack_shard(items) == shard.read_bytes()


def test_webdataset_reads_a_packed_shard(tmp_path: Path) -> None:
    import webdataset

    (tmp_path / "shard-00000.tar").write_bytes(pack_shard([item("u1"), item("u2", text=None)]))
    found = list(webdataset.WebDataset([str(tmp_path / "shard-00000.tar")], shardshuffle=False))
    assert [(sample["__key__"], sample["flac"]) for sample in found] == [("u1", AUDIO), ("u2", AUDIO)]
    assert [json.loads(sample["json"])["text"] for sample in found] == ["turn left", None]


def test_the_same_items_give_the_same_bytes(tmp_path: Path) -> None:
    items = [item(f"u{number}") for number in range(5)]
    swapped = [dataclasses.replace(entry, consent={"a": 2, "b": 1}) for entry in items]
    first, second = (write_shards(each, tmp_path / name) for name, each in (("a", items), ("b", swapped)))
    assert [sha256_file(path) for path in first] == [sha256_file(path) for path in second]


def test_shards_hold_at_most_so_many_items(tmp_path: Path) -> None:
    shards = write_shards((item(f"u{number}") for number in range(5)), tmp_path, max_items=2)
    assert [len(usable(path)) for path in shards] == [2, 2, 1]
    assert list_shards(tmp_path) == shards


def test_shards_end_after_so_many_bytes(tmp_path: Path) -> None:
    shards = write_shards((item(f"u{number}") for number in range(4)), tmp_path, max_bytes=2 * len(AUDIO))
    assert [len(usable(path)) for path in shards] == [2, 2]


@pytest.mark.parametrize("names", [("b", "a"), ("a", "a"), ("a.b",), ("../a",), ("",)])
def test_ids_out_of_order_twice_or_unsafe_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_shards([item(name) for name in names], tmp_path)


def test_no_items_give_no_shard(tmp_path: Path) -> None:
    assert write_shards([], tmp_path) == []
    with pytest.raises(InputError, match="cohort add"):
        list_shards(tmp_path)


@pytest.mark.parametrize("name", ["/etc/evil.flac", "../evil.flac", "a/../../evil.flac", "a\\b.flac"])
def test_members_that_leave_the_folder_are_refused_and_the_others_read(name: str, tmp_path: Path) -> None:
    path = tar_of(tmp_path / "s.tar", [(name, AUDIO), *good("u1")])
    assert "leaves" in problems(path)[name]
    assert usable(path) == ["u1"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.tar"]  # nothing was extracted


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_links_folders_and_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    link = tarfile.TarInfo("u2.flac")
    link.type, link.linkname = kind, "/etc/passwd"
    path = tar_of(tmp_path / "s.tar", good("u1"), (link,))
    assert "not a plain file" in problems(path)["u2.flac"]
    assert usable(path) == ["u1"]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("u2.flac", AUDIO)], "u2.json is missing"),
        ([("u2.json", json.dumps(FIELDS).encode())], "u2.flac is missing"),
        ([("u2.flac", AUDIO), ("u2.json", b"{half")], "not JSON"),
        ([("u2.flac", AUDIO), ("u2.json", b"[]")], "needed an object"),
        ([("u2.flac", AUDIO), ("u2.json", json.dumps({**FIELDS, "text": 3}).encode())], "text is int"),
        ([("u2.flac", AUDIO), ("u2.json", json.dumps({**FIELDS, "duration_s": True}).encode())], "duration_s is bool"),
        ([("u2.flac", AUDIO), ("u2.json", json.dumps({**FIELDS, "user": "../x"}).encode())], "user '../x'"),
        ([("u2.flac", b"fLaCxxxx"), ("u2.json", json.dumps(FIELDS).encode())], "not audio"),
        ([("u2.flac", b""), ("u2.json", json.dumps(FIELDS).encode())], "empty"),
    ],
)
def test_a_broken_item_says_why_and_the_next_is_read(
    members: list[tuple[str, bytes]], words: str, tmp_path: Path
) -> None:
    path = tar_of(tmp_path / "s.tar", [*members, *good("u3")])
    assert words in problems(path)["u2"]
    assert usable(path) == ["u3"]


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    fields = {name: value for name, value in FIELDS.items() if name != "consent"}
    path = tar_of(tmp_path / "s.tar", [("u1.flac", AUDIO), ("u1.json", json.dumps(fields).encode())])
    assert problems(path)["u1"] == "u1.json: lacks 'consent'"


def test_the_duration_is_measured_not_believed(tmp_path: Path) -> None:
    fields = json.dumps({**FIELDS, "duration_s": 99.0}).encode()
    path = tar_of(tmp_path / "s.tar", [("u1.flac", AUDIO), ("u1.json", fields)])
    assert next(iter_shard(path)).duration_s == 1.0


def test_an_utterance_that_comes_twice_counts_once(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "s.tar", [*good("u1"), *good("u2"), *good("u1")])
    assert usable(path) == ["u1", "u2"]
    assert "twice" in problems(path)["u1"]


@pytest.mark.parametrize("share", [0.35, 0.5, 0.8])
def test_a_cut_off_shard_gives_what_is_there_and_says_so(share: float, tmp_path: Path) -> None:
    (path,) = write_shards([item(f"u{number}") for number in range(6)], tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert 0 < len(usable(path)) < 6
    assert any("breaks off" in reason for reason in problems(path).values())


def test_a_shard_broken_in_the_middle_says_so(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "s.tar", [*good("u1"), *good("u2")])
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        broken = archive.getmember("u2.flac").offset
    content[broken : broken + 512] = b"\xff" * 512
    path.write_bytes(bytes(content))
    assert usable(path) == ["u1"]
    assert any("breaks off" in reason for reason in problems(path).values())


@pytest.mark.parametrize("content", [b"", b"no tar", b"x" * 2_000])
def test_what_is_no_tar_names_the_file_and_the_remedy(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.tar"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"shard-00000\.tar.*dvc pull"):
        list(iter_shard(path))


def test_a_missing_shard_names_the_file_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.tar.*dvc pull"):
        list(iter_shard(tmp_path / "gone.tar"))


@pytest.mark.parametrize("size", [b"\xff" * 11 + b"\x00", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\x00"])
def test_a_header_with_a_negative_size_ends_the_shard_instead_of_reading_for_ever(tmp_path: Path, size: bytes) -> None:
    shard = tar_of(tmp_path / "shard-00000.tar", good("u1"))
    info = tarfile.TarInfo("u2.flac")
    header = bytearray(info.tobuf())
    header[124:136] = size  # GNU's binary form: a negative number
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content = shard.read_bytes()
    end = len(content) - len(content.rstrip(b"\0"))
    whole = content[: len(content) - end + (-(len(content) - end)) % 512]
    shard.write_bytes(whole + bytes(header) + bytes(1024))
    found = list(islice(iter_shard(shard), 10))
    assert len(found) < 10
    assert "breaks off" in (found[-1].problem or "")
