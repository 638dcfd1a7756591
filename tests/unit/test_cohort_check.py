"""`edgealign cohort check`: each rule breaks when it should and only then, and the figures are those of the table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.settings import Check, load_settings
from stages.cohort_report import Cohort, Thresholds, examine
from stages.cohort_report_rules import RULES, Finding, judge, percent
from stages.shards import Problem
from tests.helpers_check import TEXTS, index_table

ROOT = Path(__file__).resolve().parents[2]
N = 24


def figures_of(
    table: pa.Table, others: Sequence[Cohort] = (), quarantine: Sequence[Problem] = (), personal: bool = True
) -> dict[str, Any]:
    return examine(Cohort("team", "en", table, {}, quarantine), others, Thresholds(), personal)[0]


def judged(figures: Mapping[str, Any], **limits: Any) -> dict[str, Finding]:
    return {finding.key: finding for finding in judge(figures, Check(**limits).model_dump())}


def broken(figures: Mapping[str, Any], **limits: Any) -> set[str]:
    return {key for key, finding in judged(figures, **limits).items() if finding.state == "broken"}


def first(bad: Any, good: Any, count: int = N) -> list[Any]:
    """A column whose first ``count`` rows are bad."""
    return [bad if place < count else good for place in range(N)]


ODD = "turn on the kitchen lihgt"
RULE_CASES = [
    # rule, limit, columns that break it, columns that just keep it
    ("min_users", 4, {"user": first("ann", "bob")}, {}),
    ("min_hours", 0.02, {"duration_s": 2.9}, {"duration_s": 3.1}),
    ("max_untranscribed_share", 0.25, {"text": first(None, TEXTS[0], 7)}, {"text": first(None, TEXTS[0], 6)}),
    (
        "max_duplicate_share",
        0.05,
        {"audio_sha256": first("a", "b", 2)},
        {"audio_sha256": [*"abcdefghijklmnopqrstuvww"]},
    ),
    ("max_silent_share", 0.25, {"level_dbfs": first(-55.1, -25.0, 7)}, {"level_dbfs": first(-55.1, -25.0, 6)}),
    ("max_silent_share", 0.25, {"speech_share": first(0.04, 0.7, 7)}, {"speech_share": first(0.04, 0.7, 6)}),
    ("max_clipped_share", 0.25, {"clipped_share": first(0.002, 0.0, 7)}, {"clipped_share": first(0.001, 0.0)}),
    ("min_median_snr_db", 10.0, {"snr_db": first(9.0, 30.0, 13)}, {"snr_db": first(9.0, 30.0, 11)}),
    ("min_source_rate_hz", 8_000, {"source_rate_hz": first(6_000, 48_000, 1)}, {"source_rate_hz": 8_000}),
    (
        "max_outside_characters_share",
        0.25,
        {"text": first("play привет in the kitchen", TEXTS[0], 7)},
        {"text": first("play привет in the kitchen", TEXTS[0], 6)},
    ),
    ("max_speech_rate_share", 0.25, {"duration_s": first(0.9, 3.0, 7)}, {"duration_s": first(0.9, 3.0, 6)}),
    (
        "max_speech_rate_share",
        0.0,
        {"text": first("go", TEXTS[0], 1), "duration_s": 4.0},
        {"text": first("go", TEXTS[0], 1), "duration_s": 2.0},
    ),
    ("max_near_duplicate_share", 0.25, {"text": first(ODD, TEXTS[0], 7)}, {"text": first(ODD, TEXTS[0], 6)}),
    ("max_withheld_share", 0.25, {"granted": first(False, True, 7)}, {"granted": first(False, True, 6)}),
    ("max_withheld_share", 0.25, {"scope": first(None, "all", 7)}, {"scope": first("personal", "all", 7)}),
    ("require_consent_date", True, {"consent_date": first(None, "2026-10-01", 1)}, {}),
]


@pytest.mark.parametrize(("rule", "limit", "bad", "good"), RULE_CASES)
def test_a_rule_breaks_when_it_should_and_only_then(
    rule: str, limit: Any, bad: dict[str, Any], good: dict[str, Any]
) -> None:
    assert broken(figures_of(index_table(N, **bad)), **{"max_duplicate_share": None, rule: limit}) == {rule}
    assert broken(figures_of(index_table(N, **good)), **{"max_duplicate_share": None, rule: limit}) == set()
    off = False if limit is True else None
    assert broken(figures_of(index_table(N, **bad)), **{"max_duplicate_share": None, rule: off}) == set()


def other(users: Sequence[str] = ("somebody",), called: Mapping[str, str] | None = None, **columns: Any) -> Cohort:
    """Another cohort, of one utterance a user, that has nothing in common with a table of the helpers."""
    numbers = range(len(users))
    own = {
        "utterance": [f"theirs-{n}" for n in numbers],
        "user": list(users),
        "audio_sha256": [f"other-{n}" for n in numbers],
        "source_sha256": [f"other-source-{n}" for n in numbers],
    }
    return Cohort("elsewhere", "en", index_table(len(users), **{**own, **columns}), called or {})


@pytest.mark.parametrize("column", ["audio_sha256", "source_sha256"])
def test_a_recording_of_another_cohort_breaks_its_rule(column: str) -> None:
    table = index_table(N)
    theirs = other(("x", "y"), **{column: [table.column(column)[3].as_py(), "unknown"]})
    figures = figures_of(table, [theirs])
    assert broken(figures) == {"max_across_cohort_duplicates"}
    assert figures["duplicates"]["across"]["pairs"] == [
        {"utterance": table.column("utterance")[3].as_py(), "cohort": "elsewhere", "other": "theirs-0"}
    ]
    assert broken(figures, max_across_cohort_duplicates=1) == set()
    assert broken(figures_of(table, [other()])) == set()


def test_an_unknown_source_is_not_the_same_source() -> None:
    theirs = other(source_sha256=[None])
    assert broken(figures_of(index_table(N, source_sha256=None), [theirs])) == set()
    assert broken(figures_of(index_table(N, source_sha256=""), [other(source_sha256=[""])])) == set()


def test_users_are_known_again_by_their_id_and_by_their_name_in_the_source() -> None:
    cohort = Cohort("team", "en", index_table(N), {"user1": "Ann  Smith"})
    others = [other(("user0", "u-77"), {"u-77": "ann smith"})]
    figures = examine(cohort, others, Thresholds())[0]
    assert figures["shared_users"] == [
        {"user": "user0", "cohort": "elsewhere", "other": "user0"},
        {"user": "user1", "cohort": "elsewhere", "other": "u-77"},
    ]
    assert broken(figures, max_shared_users=1) == {"max_shared_users"}
    assert broken(figures, max_shared_users=2) == set()
    assert broken(figures) == set()  # the same name need not be the same person


def test_pieces_of_one_recording_are_no_duplicates_of_each_other() -> None:
    figures = figures_of(index_table(N, source_sha256="one long file"))
    assert figures["duplicates"]["within"] == {"utterances": 0, "share": 0.0, "groups": []}


def test_duplicates_are_listed_and_counted_beyond_the_first() -> None:
    table = index_table(N, audio_sha256=["x", "x", "x", "y", "y", *(str(n) for n in range(N - 5))])
    within = figures_of(table)["duplicates"]["within"]
    names = table.column("utterance").to_pylist()
    assert within["groups"] == sorted([names[:3], names[3:5]])
    assert (within["utterances"], within["share"]) == (3, 3 / N)


def test_users_too_small_are_those_whom_no_label_could_save() -> None:
    users = ["ann"] * 4 + ["bob"] * 3 + ["cy"] * 5 + ["dee"] * 12
    text = ["yes please"] * 7 + [None] * 5 + ["yes please"] * 12
    figures = figures_of(index_table(N, user=users, text=text, duration_s=1.0))
    sizes = {row["user"]: (row["too_small"], row["needs_labels"]) for row in figures["users"]}
    assert sizes == {"ann": (False, False), "bob": (True, False), "cy": (False, True), "dee": (False, False)}
    assert broken(figures, max_small_users_share=0.25) == set()
    assert broken(figures, max_small_users_share=0.24) == {"max_small_users_share"}


def test_utterances_without_consent_do_not_count_towards_an_adapter() -> None:
    withheld = figures_of(index_table(N, users=2, granted=[n % 2 == 0 for n in range(N)]))
    assert [row["too_small"] for row in withheld["users"]] == [False, True]


def test_a_cohort_without_personal_adapters_has_no_users_too_small() -> None:
    few = index_table(4, users=4)
    assert broken(figures_of(few)) == {"max_small_users_share"}
    assert judged(figures_of(few, personal=False))["max_small_users_share"].state == "unknown"


def test_what_was_set_aside_is_a_share_of_what_came_in() -> None:
    aside = [Problem(f"line {n}: a{n}.wav", "not audio") for n in range(N)]
    figures = figures_of(index_table(N), quarantine=aside)
    assert figures["quarantine"]["share"] == 0.5
    assert broken(figures, max_quarantined_share=0.49) == {"max_quarantined_share"}
    assert broken(figures, max_quarantined_share=0.5) == set()


def test_reasons_are_one_whatever_names_and_numbers_stand_in_them() -> None:
    aside = [
        Problem("line 7: ann/first take.wav", "first take.wav: lasts 31.20 s, longer than 30 s. Cut it."),
        Problem("line 9: bob/x.wav", "x.wav: lasts 44 s, longer than 30 s. Cut it."),
        Problem("recording a-1", "the same recording as b_2. Keep one of them."),
        Problem("recording a-3", "the same recording as bob-0004. Keep one of them."),
        Problem("line 11: c.wav", "c.wav: not audio (Format not recognised). Export it again."),
    ]
    groups = figures_of(index_table(N), quarantine=aside)["quarantine"]["groups"]
    assert [(len(group["items"]), group["reason"]) for group in groups] == [
        (2, "the same recording as … Keep one of them."),
        (2, "…: lasts … s, longer than … s. Cut it."),
        (1, "c.wav: not audio (Format not recognised). Export it again."),
    ]


def test_a_good_cohort_keeps_every_rule() -> None:
    findings = judged(figures_of(index_table(N)))
    assert {finding.state for finding in findings.values()} == {"ok", "off"}


def test_what_an_index_made_from_shards_cannot_know_is_unknown_and_breaks_nothing() -> None:
    empty = dict.fromkeys(
        "source_rate_hz source_channels source_format level_dbfs peak clipped_share snr_db speech_share".split()
    )
    figures = figures_of(index_table(N, **empty))
    states = {key: finding.state for key, finding in judged(figures).items()}
    unknown = {"min_source_rate_hz", "min_median_snr_db", "max_silent_share", "max_clipped_share"}
    assert {key for key, state in states.items() if state == "unknown"} == unknown
    assert "broken" not in states.values()


@pytest.mark.parametrize("utterances", [0, 1])
def test_a_cohort_of_almost_nothing_is_judged(utterances: int) -> None:
    figures = figures_of(index_table(utterances, users=1))
    json.dumps(figures, allow_nan=False)
    assert broken(figures) == ({"max_small_users_share"} if utterances else {"min_users"})


def test_figures_go_into_json_with_every_kind_of_trouble_in_them() -> None:
    table = index_table(
        N,
        text=first("play 😀 привет", ODD, 4),
        snr_db=first(None, 3.0, 20),
        duration_s=first(0.2, 3.0, 3),
        granted=first(None, True, 3),
        audio_sha256="same",
    )
    figures = figures_of(table, [other()], [Problem("a", "b")])
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_amounts_are_those_of_the_table() -> None:
    table = index_table(N, users=3, text=first(None, TEXTS[0], 6), duration_s=150.0, language=first("de", "en", 6))
    amount = figures_of(table)["amount"]
    assert (amount["utterances"], amount["users"], amount["hours"], amount["shards"]) == (N, 3, 1.0, 1)
    assert (amount["with_transcript"], amount["without_transcript_share"]) == (18, 0.25)
    assert amount["languages"] == {"en": 18, "de": 6}
    assert amount["duration_s"]["median"] == 150.0
    assert amount["utterances_a_user"] == {"min": 8.0, "p5": 8.0, "median": 8.0, "p95": 8.0, "max": 8.0}


def test_the_speech_rate_is_that_of_the_time_spoken() -> None:
    one = {"text": "yes please", "duration_s": 2.0, "speech_share": 0.25}
    clean = figures_of(index_table(1, 1, snr_db=30.0, **one))["speech_rate"]
    assert clean["letters_per_second"]["median"] == pytest.approx(9 / 0.5)
    assert clean["words_per_second"]["median"] == pytest.approx(2 / 0.5)
    noisy = figures_of(index_table(1, 1, snr_db=5.0, **one))["speech_rate"]  # half of it would be taken for noise
    assert noisy["letters_per_second"]["median"] == pytest.approx(9 / 1.0)
    unknown = figures_of(index_table(1, 1, text="yes please", duration_s=2.0, speech_share=None))["speech_rate"]
    assert unknown["letters_per_second"]["median"] == pytest.approx(9 / 2.0)


def test_a_text_is_taken_as_it_is_spoken() -> None:
    rate = figures_of(index_table(1, 1, text="$5", duration_s=2.0, speech_share=0.5))["speech_rate"]
    assert rate["letters_per_second"]["median"] == len("fivedollars")


def test_consent_counts_what_may_train_what() -> None:
    table = index_table(
        N,
        granted=first(False, True, 3),
        scope=[None, *first("personal", "all", 9)[1:]],
        consent_date=first(None, "2026-01-02", 5),
    )
    consent = figures_of(table)["consent"]
    assert (consent["usable"], consent["withheld"], consent["without_date"]) == (21, 3, 5)
    assert consent["scopes"] == {"all": 15, "personal": 6}
    assert sorted(consent["reasons"].values()) == [1, 2]


def test_rules_and_thresholds_are_the_section_of_params_yaml() -> None:
    thresholds = {field.name for field in fields(Thresholds)} - {"min_utterances"}
    assert {rule.key for rule in RULES} | thresholds == set(Check.model_fields)
    assert not {rule.key for rule in RULES} & thresholds
    given = load_settings(ROOT).check
    assert Thresholds() == Thresholds(**{name: getattr(given, name) for name in thresholds})


def test_no_stage_depends_on_the_rules() -> None:
    assert "check" not in (ROOT / "dvc.yaml").read_text(encoding="utf-8").replace("checked", "")


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.0, "0 %"), (0.0002, "under 0.1 %"), (0.0123, "1.2 %"), (0.3, "30 %"), (1.0, "100 %"), (None, "–")],
)
def test_shares_are_said_in_percent(share: float | None, said: str) -> None:
    assert percent(share) == said
