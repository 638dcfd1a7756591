"""How words were read: alignments, confusions and bins against hand-made ones."""

from __future__ import annotations

from typing import Any

import pytest

from stages.reading import bin_edges, by_length, count_confusions, kind_of, most_confused, quoted, read_rows
from stages.words import NOTHING, align, confusions, most


def row(reference: str, base: str, personal: str, **more: Any) -> dict[str, Any]:
    return {"reference": reference, "base": base, "personal": personal, "cohort": "c", "user": "ann", **more}


def test_every_word_is_paired_with_what_was_read() -> None:
    assert align(["turn on the light", "stop now"], ["turn the light please", "stop no"]) == [
        [("turn", "turn"), ("on", NOTHING), ("the", "the"), ("light", "light"), (NOTHING, "please")],
        [("stop", "stop"), ("now", "no")],
    ]


def test_both_sides_are_compared_as_they_are_scored() -> None:
    assert align(["Turn on, please!"], ["turn ON please"]) == [[("turn", "turn"), ("on", "on"), ("please", "please")]]


def test_nothing_said_and_nothing_read() -> None:
    assert align(["", "go", ""], ["a b", "", ""]) == [[(NOTHING, "a"), (NOTHING, "b")], [("go", NOTHING)], []]
    assert align([], []) == []
    with pytest.raises(ValueError, match="1 texts for 2 references"):
        align(["a", "b"], ["a"])


def test_the_alignment_has_as_many_errors_as_the_wer_counts() -> None:
    from stages.alignment.metrics import word_errors

    said = ["set a timer for ten minutes", "call my sister now", "stop", "what is the weather"]
    read = ["said a time for for ten", "", "stop it", "what was the weather"]
    assert sum(confusions(align(said, read)).values()) == word_errors(said, read).errors == 10


def test_confusions_are_counted_apart_for_each_adapter() -> None:
    rows = [row("on and on", "in and in", "on and in"), row("on", "", "on the")]
    assert count_confusions(rows, "base") == {("on", "in"): 2, ("on", NOTHING): 1}
    assert count_confusions(rows, "personal") == {("on", "in"): 1, (NOTHING, "the"): 1}
    assert [kind_of(pair) for pair in (("on", "in"), ("on", NOTHING), (NOTHING, "the"))] == [
        *("read as another word", "missed", "added")
    ]


def test_of_equal_counts_words_that_were_read_as_others_come_first() -> None:
    rows = [row("a b b", "", "x b y y"), row("c", "", "")]
    counts = count_confusions(rows, "personal")
    assert counts == {("a", "x"): 1, ("b", "y"): 1, (NOTHING, "y"): 1, ("c", NOTHING): 1}
    assert [pair for pair, _ in most(counts, 3)] == [("a", "x"), ("b", "y"), (NOTHING, "y")]


def test_the_table_for_dvc_holds_the_words_most_misread_and_how_often_they_were_right() -> None:
    rows = [row("on the go", "", "in the go"), row("on the go", "", "on the goat"), row("on", "", "in", user="bob")]
    assert most_confused(rows, words=1) == [
        *(("c", "ann", "on", "in"), ("c", "bob", "on", "in"), ("c", "ann", "on", "on"))
    ]
    assert {said for _, _, said, _ in most_confused(rows, words=5)} == {"on", "go"}  # "the" was never misread


def test_a_word_in_a_table_is_not_taken_for_a_user() -> None:
    """A user may be called “may”: only a cell that holds nothing else is a name."""
    from pipeline.cohorts.erasure.person import Matcher, Person

    matcher = Matcher(Person("may", {"home": "may"}), {"home", "other"})
    assert matcher.in_text("other,ann,may,x\n")
    assert not matcher.in_text(f"other,ann,{quoted('may')},{quoted('')}\n")


def test_rows_say_whose_they_are_and_old_evaluations_have_none() -> None:
    cohorts = {"b": {"users": {"bob": {"read": [{"words": 1}]}, "old": {}}}, "a": {"users": {"ann": {"read": [{}]}}}}
    assert read_rows(cohorts) == [{"cohort": "a", "user": "ann"}, {"cohort": "b", "user": "bob", "words": 1}]


def test_errors_in_a_bin_are_pooled_over_its_words() -> None:
    rows = [
        {"words": words, "base_errors": base, "personal_errors": personal}
        for words, base, personal in ((1, 1, 0), (2, 1, 1), (4, 1, 3), (5, 5, 0))
    ]
    assert by_length(rows, "words", [1, 3, 5, 6]) == [
        {"from": 1, "to": 3, "utterances": 2, "words": 3, "base_wer": 2 / 3, "personal_wer": 1 / 3},
        {"from": 3, "to": 5, "utterances": 1, "words": 4, "base_wer": 1 / 4, "personal_wer": 3 / 4},
        {"from": 5, "to": 6, "utterances": 1, "words": 5, "base_wer": 1.0, "personal_wer": 0.0},
    ]


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        ([1, 2, 2, 3, 3, 3, 9], [1, 3, 10]),
        ([4], [4, 5]),
        ([1] * 50 + [30], [1, 31]),  # one utterance is no bin
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 4, 7, 10]),
    ],
)
def test_no_bin_is_nearly_empty_and_none_is_left_out(values: list[float], edges: list[float]) -> None:
    found = bin_edges(values, 3, 1)
    assert found == edges
    assert sum(1 for value in values if found[0] <= value < found[-1]) == len(values)


def test_bins_of_seconds_are_halves() -> None:
    assert bin_edges([0.61, 0.9, 1.49, 1.5, 2.2], 2, 0.5) == [0.5, 1.5, 2.5]


def test_words_of_every_script_are_confused() -> None:
    rows = [row("включи свет", "", "включи цвет"), row("schön hell", "schon hell", "schön")]
    assert count_confusions(rows, "personal") == {("свет", "цвет"): 1, ("hell", ""): 1}
    assert count_confusions(rows, "base") == {("включи", ""): 1, ("свет", ""): 1, ("schön", "schon"): 1}
