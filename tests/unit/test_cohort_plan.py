"""What becomes of a source's rows: names are safe, unique and the same in whatever order the rows come."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers_cohorts import make_recordings
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cohorts.convert import write_chunk
from pipeline.cohorts.plan import Row, Taken, plan_rows, slug_of
from pipeline.cohorts.sources import find_source
from pipeline.cohorts.sources.row import SourceRow
from pipeline.cohorts.workers import chunk_folders, run_local
from stages.consent import make_consent, refusal
from stages.errors import InputError
from stages.shards import UTTERANCE_NAME, Problem

GRANTED = make_consent(True)


def row(path: str, user: str = "ann", text: str | None = "hello", **more: object) -> SourceRow:
    return SourceRow(item=path, path=path, user=user, text=text, **more)  # type: ignore[arg-type]  # by name


@given(st.text(max_size=400))
def test_any_name_becomes_a_safe_one(given_name: str) -> None:
    assert UTTERANCE_NAME.match(slug_of(given_name))
    assert "--" not in slug_of(given_name)  # kept for the pieces of a long recording


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a.wav", "b/a.wav", "b/Ä.wav", "..a.wav", "c/a.mp3", "A.wav"]), st.text(max_size=6))
    ),
    st.randoms(use_true_random=False),
)
def test_the_order_of_the_rows_changes_no_name(pairs: list[tuple[str, str]], shuffle: random.Random) -> None:
    rows = [row(f"/audio/{path}", user or "x") for path, user in dict(pairs).items()]
    shuffled = list(rows)
    shuffle.shuffle(shuffled)
    first, second = (plan_rows(each, "en", GRANTED, root="/audio") for each in (rows, shuffled))
    assert first.rows == second.rows
    assert len({item.utterance for item in first.rows}) == len(rows)
    assert len(first.called) == len({item.user for item in rows})


def test_names_do_not_depend_on_where_the_folder_lies() -> None:
    one = plan_rows([row("/a/x/1.wav"), row("/a/y/1.wav")], "en", GRANTED, root="/a")
    other = plan_rows([row("/b/c/x/1.wav"), row("/b/c/y/1.wav")], "en", GRANTED, root="/b/c")
    assert [item.utterance for item in one.rows] == [item.utterance for item in other.rows]


def test_users_who_clean_to_the_same_stay_apart_also_when_one_comes_later() -> None:
    first = plan_rows([row("/a/1.wav", "Zoë")], "en", GRANTED)
    assert first.called == {"Zoe": "Zoë"}
    later = plan_rows([row("/a/2.wav", "Zoe"), row("/a/3.wav", "Zoë")], "en", GRANTED, taken=Taken(called=first.called))
    users = {item.path: item.user for item in later.rows}
    assert users["/a/3.wav"] == "Zoe"
    assert users["/a/2.wav"] != "Zoe"


def test_a_name_that_is_taken_is_not_given_again() -> None:
    plan = plan_rows([row("/a/1.wav")], "en", GRANTED, taken=Taken(frozenset({"1", "ann-1"})))
    assert plan.rows[0].utterance not in {"1", "ann-1"}


def test_what_cannot_be_used_has_its_reason() -> None:
    rows = [row("/a/1.wav"), row("/a/1.wav"), row("/a/2.wav", text="привет"), Problem("line 9", "no such file")]
    plan = plan_rows(rows, "en", GRANTED)
    assert [item.path for item in plan.rows] == ["/a/1.wav"]
    assert [problem.reason.split(".")[0].split(":")[0] for problem in plan.problems] == [
        "the recording is listed twice",
        "its transcript cannot be used",
        "no such file",
    ]


def test_stretches_of_one_file_are_not_the_same_recording() -> None:
    rows = [row("/a/1.wav", start_s=0.0, end_s=1.0), row("/a/1.wav", start_s=1.0, end_s=2.0)]
    assert len(plan_rows(rows, "en", GRANTED).rows) == 2


def test_a_row_keeps_its_own_consent() -> None:
    own = make_consent(False, "personal", "2026-01-31")
    plan = plan_rows([row("/a/1.wav", consent=own), row("/a/2.wav")], "en", GRANTED)
    assert [item.consent for item in plan.rows] == [own, GRANTED]


@pytest.mark.parametrize(
    ("consent", "use", "said"),
    [
        (make_consent(True), "base", ""),
        (make_consent(True, "personal"), "personal", ""),
        (make_consent(True, "personal"), "base", "its scope is 'personal'"),
        (make_consent(False), "personal", "withheld"),
        ({}, "personal", "granted is None"),
        ({"granted": "true", "scope": "all"}, "personal", "needed true or false"),
        ({"granted": True, "scope": "everything"}, "base", "needed one of all, personal"),
    ],
)
def test_what_a_consent_allows(consent: dict[str, object], use: str, said: str) -> None:
    found = refusal(consent, use)
    assert said in found
    assert bool(found) == bool(said)


@pytest.mark.parametrize("date", ["yesterday", "2026-13-01", "20260131", "2026-1-31"])
def test_a_date_that_is_none_is_refused(date: str) -> None:
    with pytest.raises(InputError, match="YYYY-MM-DD"):
        make_consent(True, "all", date)


def test_a_chunk_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    audio = make_recordings(tmp_path / "audio", ["ann"], 6)
    plan = plan_rows(find_source(audio).rows, "en", GRANTED, root=str(audio))
    converted: list[list[str]] = []

    def convert(rows: Sequence[Row], folder: Path, cut_long: bool) -> int:
        converted.append([item.utterance for item in rows])
        if converted == [["ann-0000", "ann-0001"], ["ann-0002", "ann-0003"]]:
            raise OSError(28, "No space left on device")
        return write_chunk(rows, folder, cut_long)

    def run() -> list[int]:
        counted: list[int] = []
        parts = [plan.rows[:2], plan.rows[2:4], plan.rows[4:]]
        run_local(chunk_folders(parts, tmp_path / "chunks", True), True, 0, counted.append, convert)
        return counted

    with pytest.raises(OSError, match="No space"):
        run()
    converted.clear()
    assert run() == [2, 2, 2]
    assert converted == [["ann-0002", "ann-0003"], ["ann-0004", "ann-0005"]]
    # a recording that was changed since is converted anew
    converted.clear()
    (audio / "ann" / "ann-0005.wav").write_bytes((audio / "ann" / "ann-0004.wav").read_bytes() + b"\0\0")
    run()
    assert converted == [["ann-0004", "ann-0005"]]
