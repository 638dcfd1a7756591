"""Forgetting a user: who is meant, what a file holds, a shard without them, what the proof is read for."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.cohorts.erasure.artifacts import clean_record
from pipeline.cohorts.erasure.content import Notes, blob_of, holds, kind_of, manifest_of, quarantined, read_kind
from pipeline.cohorts.erasure.forget import forget_user
from pipeline.cohorts.erasure.person import Matcher, Person, forms, is_loud
from pipeline.cohorts.erasure.state import Erasure, unfinished
from pipeline.cohorts.erasure.stores import busy, object_id
from pipeline.cohorts.erasure.tombstones import adapters_to_retrain, erased_objects, erased_recordings, retrain_notice
from pipeline.cohorts.index import read_index
from pipeline.cohorts.store import read_cohort
from pipeline.project import Project
from stages.atomic import write_json
from stages.errors import EdgealignError, InputError
from tests.helpers_cohorts import make_project
from tests.helpers_erasure import (
    SLUG,
    TEACHER,
    TRANSCRIBER,
    WORDS,
    World,
    read_key,
    transcript_key,
    write_cohort,
    write_models,
    write_tables,
)
from tests.helpers_person import item, matcher, person
from tests.helpers_traces import Traces, search

# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "| home | may | 0.3 |",
        "<tr><td>home</td>\n<td>may</td></tr>",
        "cohort,user\nhome,may,0.5",
        "may (home): too few",
        "May",
    ],
)
def test_a_name_in_a_cell_of_its_own_is_the_user(text: str) -> None:
    assert matcher().in_text(text)


@pytest.mark.parametrize("text", ["you may go now", "| home | ann | may go |", "maybe,mayor", "home,may-lee,0.5"])
def test_a_word_in_a_sentence_or_in_another_name_is_not(text: str) -> None:
    assert not matcher().in_text(text)


@pytest.mark.parametrize("text", ["heard zebulon-quux today", "[user] zebulon-quux-0007.wav", "by Zë_7 Åström, twice"])
def test_a_name_that_is_no_ordinary_word_counts_anywhere(text: str) -> None:
    assert matcher("zebulon-quux", called={"Zë_7 Åström"}).in_text(text)


def test_names_are_found_however_they_are_spelled() -> None:
    one = matcher("zoe-astrom", called={"Zoë Åström <1>"})
    for text in (
        json.dumps({"a": "x Zoë Åström <1> y"}),
        "x Zoë Åström &lt;1&gt; y",
        "x Zoe\u0308 A\u030astro\u0308m <1> y",
    ):
        assert one.in_text(text), text
    assert len(set(forms("ann"))) == 1


def test_somebody_whose_name_begins_alike_is_another() -> None:
    one = matcher("zebulon-q", others={"zebulon-q-junior"})
    assert one.in_text("x zebulon-q-0001.wav")
    assert not one.in_text("x zebulon-q-junior-0001.wav")
    assert not one.in_path(["zebulon-q-junior"], "home", prefix=True)


def test_what_is_no_ordinary_word() -> None:
    assert [name for name in ("may", "september", "1089", "ann-lee", "spk19", "zebulon quux") if is_loud(name)] == [
        "ann-lee",
        "spk19",
        "zebulon quux",
    ]


def test_utterances_are_found_by_their_ids() -> None:
    one = matcher(utterances={"take-7781a", "go"})
    assert one.in_text("see take-7781a.flac")
    assert one.in_text("utterance,go")
    assert not one.in_text("we go home")


def test_json_is_read_by_its_structure() -> None:
    one = matcher(utterances={"may-1"})
    assert one.in_json({"cohort": "home", "users": {"may": {}}, "skipped": {}, "all": {}})
    assert one.in_json({"cohort": "home", "users": {}, "skipped": {"may": "too few"}, "all": {}})
    assert not one.in_json({"cohort": "far", "users": {"may": {}}, "skipped": {}, "all": {}})
    assert one.in_json({"tags": {"user": "may"}})
    assert one.in_json(["home/may"])
    assert one.in_json({"train_utterances": ["ann-1", "may-1"]})
    assert not one.in_json({"examples": [{"reference": "may", "personal": "may"}]})
    assert one.in_json([{"relpath": "may/adapter.json", "md5": "0"}])
    assert not one.in_json({"count": 1, "note": "it may rain"})


def test_a_cohort_may_be_called_like_its_user() -> None:
    one = Matcher(Person("may", slugs={"may": "may"}), ["may", "far"])
    assert not one.in_json({"cohorts": {"may": {"all": {"wer": 0.1}}}})
    assert one.in_json({"cohorts": {"may": {"users": {"may": {}}, "all": {}}}})
    assert not one.in_text("| may | bob | 0.3 |")
    assert one.in_text("| may | may | 0.3 |")
    assert not one.in_path(["may", "shard-00000.tar"])


def test_a_namesake_of_another_cohort_stays() -> None:
    one = matcher("zebulon-quux", namesakes={"far"}, utterances={"zebulon-quux-0001"})
    assert one.in_text("| home | zebulon-quux | 0.3 |")
    assert not one.in_text("| far | zebulon-quux | 0.3 |")
    assert not one.is_user("zebulon-quux", "far")
    assert not one.is_user("zebulon-quux")
    assert one.in_text("zebulon-quux-0001.flac")


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (["line 7: may/9.wav", "silent"], True),
        (["may-07.wav", "too short"], True),
        (["recording may-1", "the same recording as ann-2"], True),
        (["ann/9.wav", "the same recording as may-1. Keep one"], True),
        (["maya/9.wav", "silent"], False),
        (["ann/9.wav", "it may be too short"], False),
    ],
)
def test_a_line_of_the_quarantine_report(row: list[str], named: bool) -> None:
    assert quarantined(row, matcher(utterances={"may-1"}), "home") == named


# --- content --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"", "text"),
        (b'{"a": 1}', "json"),
        (b"\xef\xbb\xbf[1]", "json"),
        (b"name: home\nlanguage: en\nmade_by: x\ncreated_from: y\n", "cohort"),
        (b"name: other\n", "text"),
        (b"\x89PNG\r\n", "picture"),
        (b"SQLite format 3\0", "database"),
        (b"RIFF....WAVE", "recording"),
        (b"\x10\0\0\0\0\0\0\0{}", "weights"),
        ("h\xe9".encode("latin-1") * 10, "other"),
        (("é" * 3000).encode()[:4095], "text"),
    ],
)
def test_what_a_file_is_by_its_first_bytes(head: bytes, kind: str) -> None:
    assert kind_of(head) == kind


def test_a_base_record_is_cleaned_and_another_is_not() -> None:
    base = {
        "kind": "base",
        "weights_sha256": "w",
        "train_utterances": ["ann-1", "may-1"],
        "held_out_utterances": ["may-2"],
    }
    one = matcher(utterances={"may-1", "may-2"})
    assert clean_record(base, one) == {**base, "train_utterances": ["ann-1"], "held_out_utterances": []}
    assert clean_record({**base, "kind": "personal"}, one) is None
    assert clean_record({"users": {}}, one) is None


def test_dvc_objects_and_manifests_are_known_as_such() -> None:
    assert object_id("files/md5/ab/" + "c" * 30) == "ab" + "c" * 30
    assert object_id("ab/" + "c" * 30 + ".dir") == "ab" + "c" * 30 + ".dir"
    assert object_id("files/md5/ab/cc.tmp") == "files/md5/ab/cc.tmp"
    assert manifest_of([{"md5": "1", "relpath": "a/b"}]) == {"a/b": "1"}
    assert manifest_of([]) is None
    assert manifest_of([{"md5": "1"}]) is None


def test_a_dvc_at_work_is_waited_for(tmp_path: Path) -> None:
    import os

    lock = tmp_path / ".dvc" / "tmp" / "rwlock"
    lock.parent.mkdir(parents=True)
    busy(Project(tmp_path))
    lock.write_text(json.dumps({"read": {}, "write": {"x": {"pid": os.getpid(), "cmd": "dvc repro"}}}))
    with pytest.raises(EdgealignError, match="dvc repro"):
        busy(Project(tmp_path))


# --- state and proof ------------------------------------------------------------------------------------------------


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    project = Project(tmp_path)
    begun = Erasure.begin(project, person(utterances={"may-1"}), None, ["home"])
    begun.shards = {"home": {"shard-00000.tar": "0"}}
    begun.count("recordings", 3)
    begun.save()
    [again] = unfinished(project)
    assert again == begun
    assert again.is_about("may")
    assert again.is_about("May")
    assert not again.is_about("ann")


def proof(project: Project, name: str, **content: Any) -> None:
    write_json(project.root / "data" / "erasures" / f"{name}.json", {"erasure": name, "recordings": {}, **content})


def test_a_proof_tells_which_recordings_and_objects_were_erased(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert erased_recordings(project) == {}
    proof(project, "e1", recordings={"source_sha256": ["a"], "audio_sha256": ["b"]}, objects=["o1"])
    proof(project, "e2", recordings={"source_sha256": ["c"], "audio_sha256": []})
    assert erased_recordings(project) == {"a": "e1", "b": "e1", "c": "e2"}
    assert erased_objects(project) == {"o1": "e1"}


def test_a_broken_proof_lets_nothing_in_again(tmp_path: Path) -> None:
    project = Project(tmp_path)
    proof(project, "e1")
    (tmp_path / "data" / "erasures" / "e1.json").write_text("{")
    with pytest.raises(InputError, match="dvc pull"):
        erased_recordings(project)


def test_an_adapter_is_marked_until_it_is_trained_again(tmp_path: Path) -> None:
    project = Project(tmp_path)
    proof(project, "e1", retrain=[{"sha256": "old", "kind": "base"}, {"sha256": "gone", "kind": "personal"}])
    record = project.base_adapter / "adapter.json"
    write_json(record, {"weights_sha256": "old"})
    assert adapters_to_retrain(project) == {"old": "e1"}
    assert retrain_notice(project)[0].startswith("base: ")
    write_json(record, {"weights_sha256": "new"})
    assert retrain_notice(project) == []


def test_a_project_without_dvc_and_mlflow_is_cleaned_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    project = make_project(World(tmp_path).project.root)
    for cohort in ("home", "solo"):
        write_cohort(project, cohort)
    params = project.root / "params.yaml"
    params.write_text(
        params.read_text(encoding="utf-8").replace("cohorts: [", "cohorts: [home, solo, ", 1), encoding="utf-8"
    )
    assert search(tmp_path, Traces((SLUG,), ()))
    result = forget_user(project, SLUG, confirm=lambda question: True, tell=lambda line: None)
    assert (result.left, search(tmp_path, Traces((SLUG,), ()))) == ([], [])
    assert not project.cohort("solo").exists()
    assert "solo" not in params.read_text(encoding="utf-8")
    assert sorted(read_cohort(project.cohort("home")).users) == ["ann", "bob", "zoe"]
    assert set(read_index(project.cohort("home")).column("user").to_pylist()) == {"ann", "bob", "zoe"}
    with pytest.raises(InputError, match="in no cohort"):
        forget_user(project, SLUG, confirm=lambda question: True, tell=lambda line: None)


def test_what_was_heard_of_the_person_goes_and_that_of_others_stays_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No reading is done again for the others: their rows stay, under the key of the shard as it is now."""
    from stages.atomic import sha256_file
    from stages.schema import LABELS, READ_OUTS, read_metadata, read_table

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    project = make_project(World(tmp_path).project.root)
    write_models(project)
    write_cohort(project, "home")
    write_tables(project, "home")
    params = project.root / "params.yaml"
    content = params.read_text(encoding="utf-8").replace("cohorts: [", "cohorts: [home, ", 1)
    params.write_text(content.replace("untold_only: [base-synthetic]", "untold_only: []"), encoding="utf-8")

    def read() -> list[str]:
        files = sorted(project.read_outs("home").iterdir())
        return [row["text"] for path in files for row in read_table(path, READ_OUTS).to_pylist()]

    assert sorted(read()) == ["lights", "lights", "lights", WORDS]
    assert forget_user(project, SLUG, confirm=lambda question: True, tell=lambda line: None).left == []
    assert read() == ["lights"] * 3
    for shard in sorted(project.cohort("home").glob("shard-*.tar")):
        meta = read_metadata(project.read_outs("home") / f"{shard.stem}.parquet")
        assert meta == {"key": read_key(project, shard), "teacher": TEACHER}
        heard = read_metadata(project.transcripts("home") / f"{shard.stem}.parquet")
        assert heard == {"key": transcript_key(project, sha256_file(shard)), "transcriber": TRANSCRIBER}
    for path in (project.labels("home"), project.second_labels("home")):
        assert {row["user"] for row in read_table(path, LABELS).to_pylist()} == {"ann", "bob", "zoe"}


# --- pages with recordings in them ----------------------------------------------------------------------------------


def page_with(tmp_path: Path, *embedded: bytes, text: str = "") -> Path:
    path = tmp_path / "page.html"
    sounds = "".join(
        f'<audio src="data:audio/flac;base64,{base64.b64encode(item).decode()}"></audio>' for item in embedded
    )
    path.write_text(f"<html><p>{text}</p>{sounds}</html>")
    return path


def test_a_recording_inside_a_page_is_found_though_nobody_is_named(tmp_path: Path) -> None:
    mine, other = item("may-1", "may"), item("ann-11", "ann")
    who = person(audio={mine.audio_sha256})
    for sounds, found in (((other.audio, mine.audio), True), ((other.audio,), False), ((), False)):
        blob = blob_of(page_with(tmp_path, *sounds))
        assert read_kind(blob) == "text"
        assert holds(blob, "text", who, Matcher(who), Notes()) is found


def test_a_name_that_base64_spells_by_chance_is_no_name(tmp_path: Path) -> None:
    """Three letters between two slashes: a page with some megabytes of sound has them."""
    who = person()
    sound = base64.b64decode("AAA/may/AAAA")
    assert not holds(blob_of(page_with(tmp_path, sound)), "text", who, Matcher(who), Notes())
    assert holds(blob_of(page_with(tmp_path, sound, text="may")), "text", who, Matcher(who), Notes())


def test_an_evaluation_is_known_by_any_utterance_that_it_tells(tmp_path: Path) -> None:
    one = matcher(utterances={"xx7"})
    for told in (
        {"examples": [{"utterance": "xx7"}]},
        {"read": [{"utterance": "xx7"}]},
        {"posteriors": {"utterance": "xx7"}},
    ):
        assert one.in_json({"cohort": "home", "all": {}, "users": {"ann": told}})
    assert not one.in_json({"cohort": "home", "all": {}, "users": {"ann": {"read": [{"utterance": "xx8"}]}}})
