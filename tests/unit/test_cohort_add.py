"""Recordings in: every kind of bad input has its reason, the good ones go in, and data/ is whole or as it was."""

from __future__ import annotations

import csv
import hashlib
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from helpers_cohorts import make_recordings

from pipeline.cohorts import store
from pipeline.cohorts.add import Options, Outcome, add_cohort, append_cohort
from pipeline.cohorts.espeak import Speaker, Voice
from pipeline.cohorts.index import read_index
from pipeline.cohorts.store import list_in_params, read_cohort
from pipeline.project import Project
from pipeline.settings import load_settings
from stages.consent import make_consent
from stages.errors import InputError
from stages.shards import iter_shard, list_shards

ROOT = Path(__file__).resolve().parents[2]


def tone(seconds: float, rate_hz: int = 16_000, level: float = 0.3) -> np.ndarray:
    """A voice-like sound: a few harmonics with a slow envelope."""
    time_s = np.arange(int(seconds * rate_hz)) / rate_hz
    voice = sum(np.sin(2 * np.pi * 140 * n * time_s) / n for n in range(1, 6))
    return level * voice / np.abs(voice).max() * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time_s))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "audio" / "sub").mkdir(parents=True)
    return Project(tmp_path)


def write_csv(
    project: Project, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("file", "user", "text")
) -> Path:
    path = project.root / "transcripts.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def bring_in(project: Project, table: Path, **given: object) -> Outcome:
    given.setdefault("tell", lambda line: None)
    options = Options(transcripts=table, workers=2)
    return add_cohort(project, "team", project.root / "audio", options, **given)  # type: ignore[arg-type]  # by name


def record(project: Project, name: str, samples: np.ndarray, rate_hz: int = 16_000) -> str:
    own = np.random.default_rng(len(name) + sum(name.encode())).normal(0, 1e-4, samples.shape)  # no two are the same
    soundfile.write(project.root / "audio" / name, samples + own if samples.any() else samples, rate_hz)
    return name


def bad_folder(project: Project) -> Path:
    audio = project.root / "audio"
    record(project, "good.wav", tone(1.0))
    record(project, "stereo.flac", np.stack([tone(1.0), tone(1.0)], axis=1))
    record(project, "telephone.wav", tone(1.0, 8_000), 8_000)
    record(project, "studio.wav", tone(1.0, 44_100), 44_100)
    record(project, "sub/untold.wav", tone(1.2))
    record(project, "silent.wav", np.zeros(16_000))
    record(project, "clipped.wav", np.clip(tone(1.0) * 50, -1.0, 1.0))
    record(project, "hour.wav", np.zeros(16_000 * 31))
    record(project, "click.wav", tone(0.05))
    shutil.copy(audio / "good.wav", audio / "z-copy.wav")
    (audio / "empty.wav").touch()
    (audio / "text.wav").write_text("not audio at all")
    (audio / "cut.flac").write_bytes((audio / "stereo.flac").read_bytes()[:-600])
    (project.root / "outside.wav").write_bytes((audio / "good.wav").read_bytes())
    (audio / "link.wav").symlink_to(project.root / "outside.wav")
    return write_csv(
        project,
        [
            ("good.wav", "Ann", "hello there"),
            ("stereo.flac", "Ann", "second"),
            ("telephone.wav", "bob", "third"),
            ("studio.wav", "bob", "fourth"),
            ("sub/untold.wav", "bob", ""),
            ("silent.wav", "bob", "x y"),
            ("clipped.wav", "bob", "x y"),
            ("hour.wav", "bob", "x y"),
            ("click.wav", "bob", "x y"),
            ("z-copy.wav", "bob", "hello there"),
            ("empty.wav", "bob", "x y"),
            ("text.wav", "bob", "x y"),
            ("cut.flac", "bob", "x y"),
            ("../outside.wav", "bob", "x y"),
            ("link.wav", "bob", "x y"),
            ("gone.wav", "bob", "x y"),
            ("good.wav", "Ann", "hello there"),
            ("", "bob", "x y"),
            ("stereo.flac", "", "x y"),
            ("telephone.wav", "bob", "привет"),
        ],
    )


REASONS = {
    "silent.wav": "silent",
    "clipped.wav": "clipped",
    "hour.wav": "lasts 31 s, and no speech was found in it",
    "click.wav": "lasts 0.05 s",
    "z-copy": "the same recording as good",
    "empty.wav": "empty",
    "text.wav": "not audio",
    "cut.flac": "cut.flac",
    "../outside.wav": "leaves the folder",
    "link.wav": "leaves the folder",
    "gone.wav": "no such file",
    "good.wav": "listed twice",
    "(no file)": "names no file",
    "stereo.flac": "names no user",
    "telephone.wav": "another script",
}


def test_every_bad_item_has_its_reason_and_the_good_ones_go_in(project: Project) -> None:
    found = bring_in(project, bad_folder(project))
    told = {re.sub(r"^(line [0-9]+: |recording )", "", problem.item): problem.reason for problem in found.problems}
    assert set(told) == set(REASONS)
    for item, reason in REASONS.items():
        assert reason in told[item], item
    items = [item for shard in list_shards(project.cohort("team")) for item in iter_shard(shard)]
    assert [item.utterance for item in items] == ["good", "stereo", "studio", "telephone", "untold"]
    assert {item.user for item in items} == {"Ann", "bob"}
    assert [item.text for item in items if item.utterance == "untold"] == [None]
    assert all(item.problem is None for item in items)
    report = (project.private / "quarantine" / "team.csv").read_text(encoding="utf-8")
    assert all(reason in report for reason in REASONS.values())
    assert found.converted == {
        "mixed down from 2 channels": 1,
        "resampled from 44100 Hz": 1,
        "resampled from 8000 Hz": 1,
    }


def shard_hashes(project: Project) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in project.cohort("team").iterdir()}


def test_the_same_input_gives_the_same_bytes(project: Project) -> None:
    table = bad_folder(project)
    bring_in(project, table)
    first = shard_hashes(project)
    bring_in(project, table, replace=True)
    assert shard_hashes(project) == first


def test_a_cohort_is_not_replaced_unasked(project: Project) -> None:
    table = bad_folder(project)
    bring_in(project, table)
    before = shard_hashes(project)
    assert bring_in(project, table).nothing_new  # from the very same recordings: whoever was stopped is not scolded
    record(project, "good.wav", tone(1.5))
    with pytest.raises(InputError, match="--replace"):
        bring_in(project, table)
    assert shard_hashes(project) == before
    bring_in(project, table, replace=True)
    assert shard_hashes(project) != before


def test_nothing_usable_writes_nothing(project: Project) -> None:
    (project.root / "audio" / "text.wav").write_text("not audio")
    with pytest.raises(InputError, match="no recording could be used"):
        bring_in(project, write_csv(project, [("text.wav", "bob", "x y")]))
    assert not project.cohort("team").exists()


def test_a_dry_run_writes_no_cohort(project: Project) -> None:
    said: list[str] = []
    bring_in(project, bad_folder(project), dry_run=True, tell=said.append)
    assert "dry run: 5 utterance(s) would go in, 15 would be set aside" in said
    assert not project.cohort("team").exists()
    assert not (project.private / "quarantine").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name,speaker\na,b\n", "lacks the column(s) file, text"),
        (b"", "lacks the column(s)"),
        (b"file,user,text\n\xff\xfe\xfd\n", "utf-8"),
        (b"file,user,text\na\x00b,c,d\n", "NUL"),
    ],
)
def test_an_unusable_csv_is_one_message(project: Project, content: bytes, said: str) -> None:
    table = project.root / "transcripts.csv"
    table.write_bytes(content)
    with pytest.raises(InputError) as caught:
        bring_in(project, table)
    assert said in str(caught.value)
    assert "transcripts.csv" in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_what_spreadsheets_save_is_read(project: Project, encoding: str) -> None:
    record(project, "a.wav", tone(1.0))
    table = project.root / "transcripts.csv"
    table.write_bytes('file,user,text\na.wav,Zoë,"say ""hi"", now"\n'.encode(encoding))
    bring_in(project, table)
    [item] = [item for shard in list_shards(project.cohort("team")) for item in iter_shard(shard)]
    assert (item.user, item.text) == ("Zoe", 'say "hi", now')
    assert read_cohort(project.cohort("team")).users["Zoe"].name == "Zoë"


def test_names_that_clean_to_the_same_stay_apart(project: Project) -> None:
    for name in ("a.wav", "b.wav", "sub/a.wav"):
        record(project, name, tone(1.0))
    rows = [("a.wav", "Zoë", "one"), ("b.wav", "Zoe", "two"), ("sub/a.wav", "../etc", "three")]
    bring_in(project, write_csv(project, rows))
    items = [item for shard in list_shards(project.cohort("team")) for item in iter_shard(shard)]
    assert len({item.user for item in items}) == 3
    assert len({item.utterance for item in items}) == 3


def test_params_keep_their_comments(project: Project) -> None:
    before = (project.root / "params.yaml").read_text(encoding="utf-8")
    assert list_in_params(project, "team", base=False, personal=True) == ["cohorts", "personal_cohorts"]
    after = (project.root / "params.yaml").read_text(encoding="utf-8")

    def folded(text: str) -> str:  # the lists grow, so the comments beside them move
        return re.sub(r" +#", " #", text)

    assert folded(after.replace(", team]", "]")) == folded(before)
    settings = load_settings(project.root)
    assert "team" in settings.cohorts
    assert "team" not in settings.base_cohorts


def test_cohorts_that_are_listed_at_once_are_all_listed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    real = store.edit_lists

    def slow(text: str, edit: Callable[[str, Any], None]) -> tuple[str, list[str]]:
        time.sleep(0.2)  # between reading and writing: the others get their turn
        return real(text, edit)

    monkeypatch.setattr(store, "edit_lists", slow)
    names = ["team", "choir", "crew"]
    with ThreadPoolExecutor(len(names)) as pool:
        lists = list(pool.map(lambda name: list_in_params(project, name, base=True, personal=False), names))
    assert lists == [["cohorts", "base_cohorts"]] * len(names)
    settings = load_settings(project.root)
    assert set(names) <= set(settings.cohorts) and set(names) <= set(settings.base_cohorts)


def sentences_with_pauses(count: int, pause_s: float) -> tuple[np.ndarray, int]:
    """Spoken sentences with silence (and a little noise) between them, and their rate."""
    speaker = Speaker()
    speaker.use(Voice("en-us", 160))
    said = [speaker.speak(f"<speak>turn on the light in room number {number}</speak>") for number in range(count)]
    pause = np.zeros(int(pause_s * speaker.rate_hz), said[0].dtype)
    whole = np.concatenate([part for sentence in said for part in (sentence, pause)])
    return whole + np.random.default_rng(0).normal(0, 1e-3, whole.size), speaker.rate_hz


def test_a_long_recording_is_cut_at_silences_and_goes_in_without_its_transcript(project: Project) -> None:
    samples, rate_hz = sentences_with_pauses(12, 2.0)
    soundfile.write(project.root / "audio" / "long.wav", samples, rate_hz)
    record(project, "long-0.wav", tone(1.0))
    table = write_csv(project, [("long.wav", "Ann", "all of it " * 100), ("long-0.wav", "Ann", "short one")])
    found = bring_in(project, table)
    items = [item for shard in list_shards(project.cohort("team")) for item in iter_shard(shard)]
    pieces = [item for item in items if item.utterance.startswith("long--")]
    assert [item.utterance for item in items if item not in pieces] == ["long-0"]
    assert 3 <= len(pieces) <= 12
    assert all(item.duration_s <= 15.5 and item.text is None and item.user == "Ann" for item in pieces)
    assert found.problems == []
    assert found.converted["long recordings cut at silences"] == 1
    assert any(what.startswith("transcripts of long recordings left out") for what in found.converted)


def test_a_long_recording_is_set_aside_where_it_must_not_be_cut(project: Project) -> None:
    record(project, "long.wav", tone(31.0))
    record(project, "short.wav", tone(1.0))
    options = Options(write_csv(project, [("long.wav", "Ann", ""), ("short.wav", "Ann", "")]), cut_long=False)
    found = add_cohort(project, "team", project.root / "audio", options, tell=lambda line: None)
    assert (found.utterances, len(found.problems)) == (1, 1)
    assert "at most 30 s are one utterance" in found.problems[0].reason


def test_what_was_erased_does_not_come_in_again(project: Project) -> None:
    import json

    record(project, "a.wav", tone(1.0))
    record(project, "b.wav", tone(1.2))
    table = write_csv(project, [("a.wav", "Ann", "one"), ("b.wav", "bob", "two")])
    bring_in(project, table)
    digests = read_index(project.cohort("team")).to_pydict()
    folder = project.root / "data" / "erasures"
    folder.mkdir()
    proof = {"recordings": {"source_sha256": [digests["source_sha256"][0]]}}
    (folder / "0123abcd.json").write_text(json.dumps(proof), encoding="utf-8")
    from pipeline.cohorts.erasure.tombstones import erased_recordings

    assert list(erased_recordings(project)) == [digests["source_sha256"][0]]
    found = bring_in(project, table, replace=True)
    assert found.utterances == 1
    assert [problem.item for problem in found.problems] == ["recording a"]
    assert "asked to be forgotten" in found.problems[0].reason


def test_an_existing_cohort_comes_in_again_as_a_webdataset_with_the_same_audio(project: Project) -> None:
    bring_in(project, bad_folder(project))
    first = read_index(project.cohort("team")).to_pydict()
    add_cohort(project, "copy", project.cohort("team"), Options(), tell=lambda line: None)
    again = read_index(project.cohort("copy")).to_pydict()
    for name in ("utterance", "user", "text", "audio_sha256", "granted", "scope"):
        assert again[name] == first[name], name


def test_append_keeps_the_shards_and_continues_names_and_consent(project: Project) -> None:
    for name in ("a.wav", "b.wav", "c.wav"):
        record(project, name, tone(1.0))
    consent = make_consent(True, "personal", "2026-11-01")
    options = Options(write_csv(project, [("a.wav", "Zoë", "one")]), consent=consent)
    add_cohort(project, "team", project.root / "audio", options, tell=lambda line: None)
    before = shard_hashes(project)
    more = Options(write_csv(project, [("a.wav", "Zoë", "one"), ("b.wav", "Zoë", "two"), ("c.wav", "Zoe", "three")]))
    found = append_cohort(project, "team", project.root / "audio", more, tell=lambda line: None)
    assert found.shards == ["shard-00001.tar"]
    after = shard_hashes(project)
    assert {name: after[name] for name in before if name != "cohort.yaml"} == {
        name: digest for name, digest in before.items() if name != "cohort.yaml"
    }
    index = read_index(project.cohort("team")).to_pydict()
    assert index["text"] == ["one", "two", "three"]
    assert index["user"][0] == index["user"][1] != index["user"][2]
    assert set(index["scope"]) == {"personal"}
    record_now = read_cohort(project.cohort("team"))
    assert (record_now.utterances, record_now.users["Zoe"].utterances) == (3, 2)
    again = append_cohort(project, "team", project.root / "audio", more, tell=lambda line: None)
    assert again.nothing_new
    assert shard_hashes(project) == after


def test_an_index_that_is_lost_is_made_again_from_the_shards(project: Project) -> None:
    bring_in(project, bad_folder(project))
    first = read_index(project.cohort("team")).to_pydict()
    (project.cohort("team") / "index-00000.parquet").unlink()
    again = read_index(project.cohort("team")).to_pydict()
    for name in ("utterance", "user", "text", "shard", "duration_s", "source_sha256", "audio_sha256", "granted"):
        assert again[name] == first[name], name
    assert again["source_rate_hz"] == [None] * 5
    assert all(level is not None for level in again["level_dbfs"])


def test_any_number_of_workers_gives_the_same_bytes(project: Project) -> None:
    audio = make_recordings(project.root / "many", ["ann", "bob"], 80)
    found = []
    for workers in (0, 1, 3):
        add_cohort(project, "team", audio, Options(workers=workers), replace=True, tell=lambda line: None)
        found.append(shard_hashes(project))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 5  # three shards, index, cohort.yaml
