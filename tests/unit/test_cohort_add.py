"""Recordings in: every kind of bad input has its reason, the good ones go in, and data/ is whole or as it was."""

from __future__ import annotations

import csv
import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.cohorts.add import Options, Outcome, add_cohort
from pipeline.cohorts.store import list_in_params, read_cohort
from pipeline.project import Project
from pipeline.settings import load_settings
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
