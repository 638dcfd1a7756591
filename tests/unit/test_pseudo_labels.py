"""Transcripts and labels of a shard, with a teacher that says what it is told to say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from helpers_models import tone

from pipeline.project import Project
from stages.agreement import ADAPTER, AgreementRules
from stages.atomic import sha256_bytes
from stages.audio import encode_flac
from stages.examples import join
from stages.pseudo_labels import (
    TRANSCRIPTS,
    Rules,
    Transcript,
    label_table,
    labels_key,
    transcribe_shard,
    transcripts_key,
)
from stages.schema import LABELS, read_table, write_table
from stages.shards import ShardItem, write_shards
from tests.helpers_adapters import Away, context_of
from tests.helpers_cohorts import make_project

GRANTED = {"granted": True, "scope": "all", "date": None}
SURE = Transcript("Turn on the lights.", 0.9, 0.1, 1.0)


class Saying:
    """A teacher of English that hears the same in every recording and counts them."""

    identity = "saying@1"

    def __init__(self, heard: Transcript = SURE) -> None:
        self.heard = heard
        self.count = 0

    def speaks(self, language: str) -> bool:
        return language == "en"

    def transcribe(self, samples: np.ndarray, language: str) -> Transcript:
        assert samples.dtype == np.float32
        self.count += 1
        return self.heard


def item(utterance: str = "u1", text: str | None = None, seconds: float = 2.0, **fields: Any) -> ShardItem:
    audio = encode_flac(tone(seconds))
    values = {"user": "ann", "language": "en", "consent": GRANTED, "source_sha256": "0" * 64} | fields
    return ShardItem(utterance, text=text, duration_s=seconds, audio=audio, audio_sha256=sha256_bytes(audio), **values)


def labels_of(
    folder: Path, items: list[ShardItem], teacher: Saying | None = None, rules: Rules | None = None
) -> list[dict[str, Any]]:
    """Rows of the labels after both steps."""
    shard = write_shards(items, folder / "shards")[0]
    table, _ = transcribe_shard(shard, teacher or Saying(), True)
    write_table(table, folder / "transcripts.parquet")
    labels = label_table(shard, folder / "transcripts.parquet", rules or Rules())
    assert labels.schema.equals(LABELS)
    return labels.to_pylist()


def test_a_human_transcript_wins_and_is_brought_to_spoken_form(tmp_path: Path) -> None:
    (row,) = labels_of(tmp_path, [item(text="Call 5 people!")])
    assert (row["text"], row["source"], row["confidence"], row["accepted"]) == ("call five people", "human", 1.0, True)


def test_the_teacher_is_kept_beside_a_human_transcript_as_it_wrote(tmp_path: Path) -> None:
    (row,) = labels_of(tmp_path, [item(text="yes")])
    assert row["teachers"] == [{"name": "saying@1", "text": "Turn on the lights.", "score": 0.9}]


def test_a_sure_transcript_becomes_a_label(tmp_path: Path) -> None:
    (row,) = labels_of(tmp_path, [item()])
    assert (row["text"], row["source"], row["confidence"]) == ("turn on the lights", "pseudo", 0.9)
    assert (row["accepted"], row["reason"]) == (True, "")


def test_capitals_of_the_teacher_are_letters(tmp_path: Path) -> None:
    (row,) = labels_of(tmp_path, [item()], Saying(replace(SURE, text="Erase NTD.")))
    assert row["text"] == "erase n t d"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"score": 0.59}, "unsure"),
        ({"no_speech": 0.61}, "no speech"),
        ({"compression": 2.5}, "repetition"),
        ({"text": "no " * 13}, "too fast"),
        ({"text": "123456789012345"}, "too fast"),
        ({"text": ""}, "empty transcript"),
        ({"text": "Привет"}, "another script"),
        ({"text": "..."}, "no words"),
    ],
)
def test_a_doubtful_transcript_is_rejected_with_its_reason(tmp_path: Path, change: dict[str, Any], kind: str) -> None:
    (row,) = labels_of(tmp_path, [item()], Saying(replace(SURE, **change)))
    assert (row["accepted"], row["text"], row["reason"].split(":")[0]) == (False, None, kind)


def test_what_is_on_a_threshold_passes(tmp_path: Path) -> None:
    (row,) = labels_of(tmp_path, [item()], Saying(Transcript("no " * 12, 0.6, 0.6, 2.4)))
    assert row["accepted"]


def test_a_human_transcript_is_not_judged_by_the_teachers_doubts(tmp_path: Path) -> None:
    (row,) = labels_of(tmp_path, [item(text="yes")], Saying(Transcript("", 0.0, 1.0, 1.0)))
    assert row["accepted"]


def test_another_rule_judges_the_same_transcripts_anew(tmp_path: Path) -> None:
    assert labels_of(tmp_path, [item()])[0]["accepted"]
    shard = tmp_path / "shards" / "shard-00000.tar"
    strict = label_table(shard, tmp_path / "transcripts.parquet", Rules(min_confidence=0.95)).to_pylist()
    assert not strict[0]["accepted"]


@pytest.mark.parametrize("consent", [{}, {"granted": False, "scope": "all"}, {"granted": "yes", "scope": "all"}])
@pytest.mark.parametrize("text", ["yes", None])
def test_nothing_trains_without_consent(tmp_path: Path, consent: dict[str, Any], text: str | None) -> None:
    (row,) = labels_of(tmp_path, [item(text=text, consent=consent)])
    assert (row["accepted"], row["text"], row["reason"].split(":")[0]) == (False, None, "no consent")


def test_a_personal_consent_trains_the_users_own_adapter_alone(tmp_path: Path) -> None:
    personal = {"granted": True, "scope": "personal", "date": "2026-11-01"}
    rows = labels_of(tmp_path, [item("u1", text="yes"), item("u2", text="no", consent=personal)])
    assert [(row["accepted"], row["scope"]) for row in rows] == [(True, "all"), (True, "personal")]
    frames = np.zeros((4, 2), dtype="<f2").tobytes()
    features = pa.Table.from_pylist(
        [
            {"utterance": name, "user": "a", "cohort": "c", "n_frames": 4, "width": 2, "frames": frames}
            for name in ("u1", "u2")
        ]
    )
    labels = pa.Table.from_pylist(rows, schema=LABELS)
    assert [found.utterance for found in join(features, labels)] == ["u1", "u2"]
    assert [found.utterance for found in join(features, labels, "base")] == ["u1"]


@pytest.mark.parametrize(("text", "kind"), [("", "empty transcript"), ("привет", "another script")])
def test_an_unusable_human_transcript_is_rejected_not_replaced(tmp_path: Path, text: str, kind: str) -> None:
    (row,) = labels_of(tmp_path, [item(text=text)])
    assert (row["accepted"], row["source"], row["reason"].split(":")[0]) == (False, "human", kind)


@pytest.mark.parametrize(
    ("fields", "words"), [({"language": "fr"}, "does not know"), ({"seconds": 31.0}, "lasts 31.0 s")]
)
def test_what_the_teacher_cannot_take_is_a_problem_and_gets_no_label(
    tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    shard = write_shards([item("u1", **fields), item("u2")], tmp_path / "shards")[0]
    teacher = Saying()
    table, problems = transcribe_shard(shard, teacher, True)
    write_table(table, tmp_path / "transcripts.parquet")
    rows = label_table(shard, tmp_path / "transcripts.parquet", Rules()).to_pylist()
    assert teacher.count == 1
    assert [problem.item for problem in problems] == ["shard-00000.tar/u1"]
    assert words in problems[0].reason
    assert [(row["accepted"], row["reason"].split(":")[0]) for row in rows] == [(False, "no transcript"), (True, "")]


def test_a_human_transcript_in_another_language_needs_no_teacher(tmp_path: Path) -> None:
    (row,) = labels_of(tmp_path, [item(text="Ça va?", language="fr")])
    assert (row["text"], row["accepted"], row["teachers"]) == ("ça va", True, [])


def test_told_utterances_are_passed_over_where_asked(tmp_path: Path) -> None:
    shard = write_shards([item("u1", text="yes"), item("u2")], tmp_path / "shards")[0]
    seen: list[int] = []
    table, problems = transcribe_shard(shard, Saying(), False, seen.append)
    assert (table["utterance"].to_pylist(), problems, sum(seen)) == (["u2"], [], 2)


def test_a_shard_that_was_not_transcribed_keeps_its_human_labels(tmp_path: Path) -> None:
    withheld = item("u3", consent={"granted": False, "scope": "all"})
    shard = write_shards([item("u1", text="Yes!"), item("u2"), withheld], tmp_path)[0]
    told, untold, refused = label_table(shard, None, Rules()).to_pylist()
    assert (told["text"], told["source"], told["accepted"], told["teachers"]) == ("yes", "human", True, [])
    assert (untold["text"], untold["source"], untold["accepted"]) == (None, "pseudo", False)
    assert untold["reason"].split(":")[0] == "not transcribed"
    assert refused["reason"].split(":")[0] == "no consent"


def test_labels_of_all_shards_are_written_where_one_could_not_be_transcribed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The second shard's work fails; the third one is no tar, so that nothing at all is known of it."""
    from pipeline.runs import pseudo_labels as stage
    from stages.second_labels import asked_of, second_labels

    project = project_with(tmp_path, [item("u1", text="yes"), item("u2"), item("u3", text="no"), item("u4")])
    (project.cohort("c") / "shard-00002.tar").write_bytes(b"no tar" * 200)
    monkeypatch.setattr(stage, "over_shards", transcribing_only("shard-00000.tar"))
    stage.run(context_of(project, Away()), "c")
    labels = read_table(project.labels("c"), LABELS)
    rows = {row["utterance"]: row for row in labels.to_pylist()}
    assert {name: row["accepted"] for name, row in rows.items()} == {"u1": True, "u2": True, "u3": True, "u4": False}
    assert rows["u3"]["text"] == "no"
    assert "no labels of shard-00002.tar" in caplog.text
    # downstream: the adapter is asked, and alone it gives no label; what people said stands
    assert asked_of(labels) == {"u2", "u4"}
    read = dict.fromkeys(("u2", "u4"), ("turn on the lights", 0.9))
    after = second_labels(labels, read, "adapter", {}, AgreementRules(alone={ADAPTER: 0.5})).table.to_pylist()
    assert [(row["accepted"], row["reason"].split(":")[0]) for row in after] == [(True, "")] * 3 + [
        (False, "not transcribed")
    ]


def test_other_weights_in_the_same_folder_transcribe_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is loaded here to know that: the workers get the name."""
    from pipeline.runs import pseudo_labels as stage

    project = project_with(tmp_path, [item("u1"), item("u2")])
    todo: list[int] = []

    def over_shards(*told: Any) -> None:
        todo.append(len(told[2]))
        assert told[4][0] == str(tmp_path / "whisper")
        transcribing_only("shard-00000.tar")(*told)

    monkeypatch.setattr(stage, "over_shards", over_shards)
    for weights in (b"some", b"some", b"others"):
        (tmp_path / "whisper" / "model.bin").write_bytes(weights)
        stage.run(context_of(project, Away()), "c")
    assert todo == [1, 1]


def project_with(folder: Path, items: list[ShardItem]) -> Project:
    """A project whose cohort ``c`` holds the items, two in a shard, and whose transcriber is a folder that cannot be loaded."""
    project = make_project(folder)
    path = project.root / "params.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content |= {"cohorts": ["c"], "base_cohorts": [], "personal_cohorts": ["c"]}
    content["pseudo_labels"]["untold_only"] = []
    content["models"]["transcriber"] = str(folder / "whisper")
    (folder / "whisper").mkdir()
    (folder / "whisper" / "model.bin").write_bytes(b"weights")
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    project.cohort("c").mkdir(parents=True)
    write_shards(items, project.cohort("c"), max_items=2)
    return project


def transcribing_only(*names: str) -> Any:
    """In place of ``over_shards``: the shards of these names are transcribed, the work on others fails."""

    def over_shards(context: Any, stage: str, todo: list[Path], *told: Any) -> None:
        *_, keep, _run = told
        for shard in todo:
            if shard.name in names:
                keep(shard, *transcribe_shard(shard, Saying(), True))

    return over_shards


def test_broken_audio_is_a_problem_and_the_others_go_on(tmp_path: Path) -> None:
    good = item("u2")
    broken = replace(good, utterance="u1", audio=good.audio[:200])
    shard = write_shards([broken, good], tmp_path / "shards")[0]
    seen: list[int] = []
    table, problems = transcribe_shard(shard, Saying(), True, seen.append)
    assert table["utterance"].to_pylist() == ["u2"]
    assert len(problems) == 1
    assert sum(seen) == 2


def test_an_empty_result_keeps_the_schema(tmp_path: Path) -> None:
    shard = write_shards([item(text="yes")], tmp_path / "shards")[0]
    table, _ = transcribe_shard(shard, Saying(), False)
    assert isinstance(table, pa.Table)
    assert table.schema.equals(TRANSCRIPTS)


@pytest.mark.parametrize(
    "change",
    [("b", "t", 5, True), ("a", "u", 5, True), ("a", "t", 1, True), ("a", "t", 5, False), ("a", "t", 5, True, "go")],
)
def test_the_transcripts_key_covers_every_input(change: tuple[Any, ...]) -> None:
    assert transcripts_key(*change) != transcripts_key("a", "t", 5, True) == transcripts_key("a", "t", 5, True, "")


def test_a_worker_tells_its_transcriber_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.runs.pseudo_labels import TranscriptWorker

    monkeypatch.setattr("stages.models.prepare.prepare_transcriber", lambda model: f"folder of {model}")
    monkeypatch.setattr("stages.pseudo_labels.Transcriber", lambda *told: told)
    assert TranscriptWorker("toy", 5, 1, "call anna").transcriber == ("folder of toy", 5, 1, "call anna")  # type: ignore[comparison-overlap]  # a stand-in


def test_the_labels_key_covers_transcripts_and_rules() -> None:
    keys = {labels_key(["a"], Rules()), labels_key(["b"], Rules()), labels_key(["a"], Rules(max_no_speech=0.5))}
    assert len(keys) == 3
