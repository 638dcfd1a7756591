"""Labels of two teachers: what the rules make of what both heard, what an adapter reads in stored frames, and its key."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from pipeline.runs.configs import agreement_rules
from pipeline.settings import PseudoLabels, Settings
from stages.agreement import ADAPTER, WHISPER, AgreementRules
from stages.schema import FEATURES, LABELS, READ_OUTS, write_table
from stages.second_labels import (
    AdapterTeacher,
    Reader,
    asked_of,
    can_spell,
    read_frames,
    read_outs_key,
    read_shard,
    second_labels,
)
from tests.helpers_adapters import Away, context_of, in_this_process
from tests.helpers_alignment import CONFIG, WORDS, rows, spoken, train_config
from tests.helpers_cohorts import make_project

TEACHER = "embedlink@1"
BOTH = AgreementRules()
ALONE = AgreementRules(alone={ADAPTER: 0.95})


def label(name: str, heard: str | None, score: float = 0.8, reason: str = "", **fields: Any) -> dict[str, Any]:
    """A row of the first labels: a pseudo-label, accepted unless there is a reason."""
    teachers = [] if heard is None else [{"name": "faster-whisper@1", "text": heard, "score": score}]
    row = {
        "utterance": name,
        "user": "ann",
        "text": None if reason or heard is None else heard.lower().strip("."),
        "source": "pseudo",
        "confidence": score,
        "teachers": teachers,
        "accepted": not reason,
        "reason": reason,
        "scope": "all",
    }
    return {**row, **fields}


def judged(row: dict[str, Any], read: tuple[str, float] | None, rules: AgreementRules = BOTH) -> dict[str, Any]:
    table = pa.Table.from_pylist([row], LABELS)
    found = second_labels(table, {} if read is None else {row["utterance"]: read}, TEACHER, {}, rules)
    assert found.table.schema.equals(LABELS)
    [made] = found.table.to_pylist()
    return made


def test_what_both_heard_is_a_label_of_two_teachers() -> None:
    made = judged(label("u", "Turn on."), ("turn on", 0.9))
    assert (made["text"], made["accepted"], made["reason"], made["confidence"]) == ("turn on", True, "", 0.9)
    assert [(one["name"], one["text"], one["score"]) for one in made["teachers"]] == [
        ("faster-whisper@1", "Turn on.", 0.8),  # as it wrote; and first, for a cascade hands on that text
        (TEACHER, "turn on", 0.9),
    ]


def test_words_that_the_adapter_cannot_spell_come_from_the_transcriber_once_enough_users_say_them() -> None:
    said = [("ann", "Rub out 12"), ("bob", "rub out 7"), ("cat", "Robot 5"), ("cat", "Rub out")]
    read = {
        "u0": ("repeat one two", 0.9),
        "u1": ("repeat nine", 0.4),
        "u2": ("repeat five", 0.9),
        "u3": ("repeat", 0.7),
    }
    table = pa.Table.from_pylist([label(f"u{at}", raw, user=user) for at, (user, raw) in enumerate(said)], LABELS)

    def made(users: int | None) -> Any:
        return second_labels(table, read, TEACHER, {}, BOTH, {"repeat", "out"}.__contains__, users)

    found = made(3)
    assert found.unknown == {"rub"} and (found.compared, found.alike) == (
        4,
        0,
    )  # to believe one teacher is no agreement
    assert found.table.column("text").to_pylist() == ["rub out one two", None, None, "rub out"]
    assert found.table.column("confidence").to_pylist()[0] == 0.8  # of the less sure one: both had a part in it
    assert made(4).unknown == made(None).unknown == frozenset()
    assert made(None).table.column("accepted").to_pylist() == [False] * 4


def test_an_unsure_transcript_teaches_no_word_and_brings_none() -> None:
    """A decoder's invention is heard in many voices: two teachers must have heard what the first one was unsure of."""
    unsure = "unsure: mean token probability 0.21, at least 0.6 is needed"
    invented = [label(f"u{at}", "Thanks for watching.", 0.21, unsure, user=user) for at, user in enumerate("abc")]
    read = {f"u{at}": ("stop", 0.9) for at in range(7)}

    def made(rows: list[dict[str, Any]]) -> Any:
        table = pa.Table.from_pylist(rows, LABELS)
        return second_labels(table, read, TEACHER, {}, BOTH, {"stop", "for"}.__contains__, 3)

    found = made(invented)
    assert not found.unknown and found.table.column("accepted").to_pylist() == [False] * 3
    sure = [label(f"u{at + 3}", "Thanks", 0.9, user=user) for at, user in enumerate("abc")]
    again = label("u6", "Thanks", 0.21, unsure)
    found = made(
        [*invented, *sure, again]
    )  # sure of it elsewhere: it is a word, and still not in what was not believed
    assert found.unknown == {"thanks"}
    assert found.table.column("accepted").to_pylist() == [False] * 3 + [True] * 3 + [False]


def test_a_word_is_spelled_by_all_its_tokens() -> None:
    class Tokenizer:
        words = ("", " re", "peat", " rub")

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": {" repeat": [1, 2], " rub": [3], " rubpeat": [3, 2]}[text]}

        def decode(self, ids: list[int]) -> str:
            return "".join(self.words[one] for one in ids)

    spells = can_spell([" re", "peat"], Tokenizer())
    assert [spells(word) for word in ("repeat", "rub", "rubpeat")] == [True, False, False]


def test_a_dispute_takes_away_what_one_teacher_had_accepted() -> None:
    made = judged(label("u", "turn on the light"), ("turn on a light", 0.94), ALONE)
    assert (made["text"], made["accepted"]) == (None, False)
    assert made["reason"] == "disputed: whisper and adapter differ in 0.25 of the words"
    assert len(made["teachers"]) == 2


def test_the_adapter_alone_is_believed_from_its_own_bar_on() -> None:
    made = judged(label("u", "turn on the light"), ("turn on a light", 0.95), ALONE)
    assert (made["text"], made["accepted"], made["confidence"]) == ("turn on a light", True, 0.95)


def test_what_the_adapter_read_is_a_label_in_spoken_form() -> None:
    assert judged(label("u", "stop"), ("two o five", 0.95), ALONE)["text"] == "two oh five"


def test_an_unsure_transcript_counts_once_the_adapter_heard_the_same() -> None:
    unsure = label("u", "Stop.", 0.4, "unsure: mean token probability 0.40, at least 0.6 is needed")
    assert judged(unsure, ("stop", 0.7))["text"] == "stop"
    assert judged(unsure, ("drop", 0.7))["reason"].startswith("disputed: ")
    assert judged(unsure, ("", 0.0))["reason"].startswith("unsure: fewer than two teachers")


@pytest.mark.parametrize("reason", ["repetition: compression ratio 3.0", "too fast: 9.0 words a second"])
def test_a_decoders_loop_agrees_with_nobody(reason: str) -> None:
    """Even where the adapter read the very same: the transcriber's text is no evidence, the adapter's alone may be."""
    looping = label("u", "no no no", 0.9, reason)
    made = judged(looping, ("no no no", 0.7), ALONE)
    assert not made["accepted"] and made["reason"] == f"{reason}; the adapter (0.70) is believed alone from 0.95 on"
    assert judged(looping, ("no no no", 0.99))["reason"].endswith("the adapter (0.99) is never believed alone")
    assert judged(looping, ("no", 0.96), ALONE)["text"] == "no"


@pytest.mark.parametrize(
    "reason",
    [
        "no consent: it is withheld",
        "no speech: probability 0.90, at most 0.6 is accepted",
        "another script: 'П' is Cyrillic",
        "empty transcript: no text was given",
    ],
)
def test_other_reasons_stand_whatever_the_adapter_heard(reason: str) -> None:
    row = label("u", "stop", 0.9, reason)
    assert judged(row, ("stop", 0.99), ALONE) == row


def test_without_a_first_teacher_the_adapter_does_not_take_its_place() -> None:
    """The first of the teachers is what a cascade is judged by."""
    row = label("u", None, reason="no transcript: the transcriber could not take the recording")
    assert judged(row, ("stop", 0.99), ALONE) == row


@pytest.mark.parametrize("accepted", [True, False])
def test_a_human_transcript_passes_as_it_is(accepted: bool) -> None:
    reason = "" if accepted else "no consent: it is withheld"
    row = label("u", "Stop!", 0.9, reason, text="go" if accepted else None, source="human", confidence=1.0)
    assert judged(row, ("stop", 0.99), ALONE) == row


def test_a_label_that_the_adapter_could_not_read_is_not_agreed_on() -> None:
    assert judged(label("u", "stop"), None)["reason"] == "no features: the adapter could not read the recording"


def test_the_language_decides_how_the_transcribers_digits_are_said() -> None:
    table = pa.Table.from_pylist([label("u", "Tor 12.")], LABELS)
    read = {"u": ("tor zwölf", 0.5)}
    assert second_labels(table, read, TEACHER, {"u": "de"}, BOTH).table.to_pylist()[0]["text"] == "tor zwölf"


def test_agreement_is_counted_where_both_heard_words() -> None:
    loop = "repetition: compression ratio 3.0"
    table = pa.Table.from_pylist(
        [label("a", "stop"), label("b", "stop"), label("c", "stop"), label("d", "stop", 0.9, loop)], LABELS
    )
    read = {"a": ("stop", 0.9), "b": ("drop", 0.9), "c": ("", 0.0), "d": ("stop", 0.9)}
    found = second_labels(table, read, TEACHER, {}, BOTH)
    assert (found.compared, found.alike) == (2, 1)
    assert found.table.column("utterance").to_pylist() == ["a", "b", "c", "d"]


def test_who_is_asked_follows_from_the_recordings_and_not_from_the_rules() -> None:
    table = pa.Table.from_pylist(
        [
            label("told", "stop", source="human"),
            label("untold", "stop"),
            label("unsure", "stop", 0.1, "unsure: mean token probability 0.10, at least 0.6 is needed"),
            label("silent", "stop", 0.9, "no speech: probability 0.90"),
            label("withheld", "stop", 0.9, "no consent: it is withheld"),
        ],
        LABELS,
    )
    assert asked_of(table) == {"untold", "unsure", "silent"}


def test_settings_reach_the_rules() -> None:
    def rules(**changes: Any) -> AgreementRules:
        lists: dict[str, list[str]] = {"cohorts": [], "base_cohorts": [], "personal_cohorts": []}
        return agreement_rules(Settings(**lists, pseudo_labels=PseudoLabels(**changes)))

    assert rules() == ALONE
    assert rules(adapter_alone=None, whisper_alone=0.99) == AgreementRules(alone={WHISPER: 0.99})


# --- what an adapter reads --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher() -> AdapterTeacher:
    """One that has learned the six words."""
    from stages.alignment.trainer import Trainer

    trainer = Trainer(CONFIG, train_config(epochs=12), spoken(160), rows())
    for _ in range(12):
        trainer.run_epoch()
    weights = {name: value.numpy() for name, value in trainer.bridge.state_dict().items()}
    return AdapterTeacher(TEACHER, CONFIG, weights, rows().numpy(), [f" {word}" for word in WORDS])


def features(folder: Path, count: int = 40) -> Path:
    made = []
    for example in spoken(count, seed=5):
        frames = example.frames.numpy().astype("<f2")
        made.append(
            {
                "utterance": example.utterance,
                "user": "ann",
                "cohort": "c",
                "shard": "shard-00000.tar",
                "audio_sha256": f"audio of {example.utterance}",
                "duration_s": 1.0,
                "n_frames": len(frames),
                "width": frames.shape[1],
                "frames": frames.tobytes(),
                "encoder": "e@1",
            }
        )
    write_table(pa.Table.from_pylist(made, FEATURES), folder / "shard-00000.parquet")
    return folder / "shard-00000.parquet"


def test_only_what_is_asked_is_read_and_each_gets_its_own_text(tmp_path: Path, teacher: AdapterTeacher) -> None:
    said = {example.utterance: example.text for example in spoken(40, seed=5)}
    asked = set(sorted(said)[:37])  # more than a batch
    steps: list[int] = []
    table, problems = read_shard(features(tmp_path), asked, Reader(teacher), steps.append)
    assert table.schema.equals(READ_OUTS) and problems == [] and sum(steps) == 37
    found = {row["utterance"]: row for row in table.to_pylist()}
    assert set(found) == asked
    right = [name for name, row in found.items() if row["text"] == said[name]]
    assert len(right) > 30  # a mix-up of the order within a batch would leave hardly any
    assert all(row["audio_sha256"] == f"audio of {name}" and 0.0 < row["score"] <= 1.0 for name, row in found.items())


def test_a_plain_function_reads_the_same(tmp_path: Path, teacher: AdapterTeacher) -> None:
    frames = [example.frames.numpy() for example in spoken(3, seed=5)]
    assert read_frames(teacher, frames, 2) == Reader(teacher).read(frames, 2)


def test_the_key_covers_teacher_features_and_what_is_asked() -> None:
    told = [("a", "f", ["u"]), ("b", "f", ["u"]), ("a", "g", ["u"]), ("a", "f", []), ("a", "f", ["u", "v"])]
    assert len({read_outs_key(*one) for one in told}) == 5
    assert read_outs_key("a", "f", {"v", "u"}) == read_outs_key("a", "f", ["u", "v"])  # in whatever order


def test_what_could_not_be_asked_about_is_read_once_it_can_be(
    tmp_path: Path, teacher: AdapterTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard was not transcribed, so that it had nothing to ask; what was kept of it then must not stand for an answer."""
    from pipeline.runs import over_shards
    from pipeline.runs import second_labels as stage

    project = make_project(tmp_path)
    features(project.features("c"))
    monkeypatch.setattr(AdapterTeacher, "load", lambda *folders: teacher)
    context, run = context_of(project, Away()), SimpleNamespace(metrics=dict, tags=dict)
    names = [example.utterance for example in spoken(5, seed=5)]
    with in_this_process(over_shards):
        assert stage._read(context, "c", {"in another shard"}, run)[1] == {}
        assert set(stage._read(context, "c", set(names), run)[1]) == set(names)

    def read_again(*_: Any) -> None:
        raise AssertionError("it was read before")

    monkeypatch.setattr(stage, "over_shards", read_again)
    assert set(stage._read(context, "c", set(names), run)[1]) == set(names)


def test_teachers_who_heard_other_words_in_another_script_make_no_label() -> None:
    def label_of(read: str) -> Any:
        row = label("u1", "Включи свет на кухне.")
        found = second_labels(pa.Table.from_pylist([row], LABELS), {"u1": (read, 0.9)}, TEACHER, {"u1": "ru"}, BOTH)
        return found.table.to_pylist()[0]

    assert label_of("включи свет на кухне")["text"] == "включи свет на кухне"
    other = label_of("закрой дверь")
    assert not other["accepted"] and other["reason"].startswith("disputed")
