"""Forgetting a user: shards, recordings and tables without them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from pipeline.cohorts.erasure.content import Notes, blob_of, holds, read_kind
from pipeline.cohorts.erasure.data import drop_rows, without
from pipeline.cohorts.erasure.person import Matcher
from stages.atomic import sha256_bytes
from stages.schema import FEATURES, write_table
from stages.shards import pack_shard
from tests.helpers_person import item, matcher, person


def test_a_shard_without_a_user_is_what_packing_the_others_gives(tmp_path: Path) -> None:
    items = [item("ann-1", "ann"), item("may-1", "may"), item("zed-1", "zed")]
    shard = tmp_path / "shard-00000.tar"
    shard.write_bytes(pack_shard(items))
    assert without(shard, matcher(), "home") == pack_shard([items[0], items[2]])
    assert without(shard, matcher("nobody"), "home") == shard.read_bytes()


def test_a_shard_of_one_user_alone_has_nothing_left(tmp_path: Path) -> None:
    shard = tmp_path / "shard-00000.tar"
    shard.write_bytes(pack_shard([item("may-1", "may"), item("may-2", "may")]))
    assert without(shard, matcher(), "home") is None


def test_shards_tell_what_to_search_for(tmp_path: Path) -> None:
    shard = tmp_path / "old"
    talk = sha256_bytes(b"a conversation")
    mine, both, others = item("xx77", "may"), item("may-2", "may", talk), item("ann-1", "ann", talk)
    shard.write_bytes(pack_shard(sorted([mine, both, others], key=lambda one: one.utterance)))
    who = person()
    assert holds(blob_of(shard), "shard", who, Matcher(who), Notes())
    assert who.utterances == {"xx77", "may-2"}
    assert who.audio == {mine.audio_sha256, both.audio_sha256}
    assert who.shared_sources == {talk}  # ann's part of it may stay, and come in again


def test_a_recording_is_known_by_its_bytes_whatever_it_is_called(tmp_path: Path) -> None:
    mine, other = item("may-1", "may"), item("ann-11", "ann")
    who = person(audio={mine.audio_sha256})
    for name, audio, found in (("a", mine.audio, True), ("b", other.audio, False)):
        (tmp_path / name).write_bytes(audio)
        blob = blob_of(tmp_path / name)
        assert read_kind(blob) == "recording"
        assert holds(blob, "recording", who, Matcher(who), Notes()) is found


def features(users: list[str]) -> pa.Table:
    rows = [
        {
            "utterance": f"{user}-{place}",
            "user": user,
            "cohort": "home",
            "shard": "shard-00000.tar",
            "audio_sha256": "0" * 64,
            "duration_s": 1.0,
            "n_frames": 1,
            "width": 1,
            "frames": b"00",
            "encoder": "e",
        }
        for place, user in enumerate(users)
    ]
    return pa.Table.from_pylist(rows, FEATURES)


def test_a_table_loses_the_rows_of_the_user_and_no_others() -> None:
    table = features(["ann", "may", "may", "bob"])
    assert drop_rows(table, matcher(), "home").column("user").to_pylist() == ["ann", "bob"]
    assert drop_rows(table, matcher("nobody"), "home") is table


def test_a_table_may_name_the_user_in_its_metadata_alone(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    write_table(features(["ann"]), path, {"problems": json.dumps([{"item": "may", "reason": "cut off"}])})
    who = person()
    assert read_kind(blob_of(path)) == "table"
    assert holds(blob_of(path, "home"), "table", who, Matcher(who), Notes())
    write_table(features(["ann"]), path, {"problems": "[]"})
    assert not holds(blob_of(path, "home"), "table", who, Matcher(who), Notes())
