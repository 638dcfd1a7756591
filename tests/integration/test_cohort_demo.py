"""Speaking with eSpeak NG itself: repeatable bytes, whole cohorts or none."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline.cohorts import demo
from pipeline.cohorts.acoustics import PEAK_LIMIT, generator, record
from pipeline.cohorts.demo import DemoUser, make_demo, plans, speak_cohort
from pipeline.cohorts.espeak import Speaker, Voice
from pipeline.cohorts.store import read_cohort
from pipeline.project import Project
from stages.atomic import sha256_file
from stages.audio import load_audio
from stages.errors import EdgealignError, InputError
from stages.quality import measure
from stages.schema import SAMPLE_RATE_HZ
from stages.shards import ShardItem, iter_shard, list_shards

pytestmark = pytest.mark.integration


def few(cohort: str = "quiet-voices", users: int = 3, utterances: int = 3) -> list[DemoUser]:
    return [
        dataclasses.replace(user, speeches=user.speeches[:utterances]) for user in plans()[cohort][:users]
    ]  # real users, shorter


def hashes(items: list[ShardItem]) -> dict[str, str]:
    return {item.utterance: item.audio_sha256 for item in items}


@pytest.fixture(scope="module")
def spoken() -> list[ShardItem]:
    return list(speak_cohort(few(), workers=1))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo with three cohorts of two speakers who say two things each."""
    short = {name: few(name, 2, 2) for name in plans()}
    monkeypatch.setattr(demo, "plans", lambda: short)


def tree(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): sha256_file(path) for path in root.rglob("*") if path.is_file()}


def test_order_and_number_of_processes_change_no_byte(spoken: list[ShardItem]) -> None:
    again = list(speak_cohort(few()[::-1], workers=3))
    assert hashes(again) == hashes(spoken)
    assert [item.utterance for item in again] == sorted(hashes(spoken))


def test_what_a_user_says_does_not_depend_on_the_others(spoken: list[ShardItem]) -> None:
    alone = hashes(list(speak_cohort(few()[1:2])))
    assert alone
    assert alone.items() <= hashes(spoken).items()


def test_speech_is_loud_enough_and_never_clipped(spoken: list[ShardItem]) -> None:
    for item in spoken:
        samples = load_audio(item.audio, item.utterance)
        quality = measure(samples, SAMPLE_RATE_HZ)
        assert quality.peak <= PEAK_LIMIT + 1e-3
        assert quality.rms > 0.005
        assert samples.size / SAMPLE_RATE_HZ == pytest.approx(item.duration_s)


def test_the_same_sentence_sounds_different_in_two_rooms() -> None:
    speech = Speaker()
    speech.use(Voice("en-us"))
    samples = speech.speak("<speak>turn on the lights</speak>")
    one, other = (record(samples, speech.rate_hz, key) for key in ("a", "b"))
    assert one.size != other.size
    np.testing.assert_array_equal(one, record(samples, speech.rate_hz, "a"))


def test_noise_comes_from_the_key() -> None:
    assert generator("a").random() == generator("a").random() != generator("b").random()


def test_an_unknown_voice_is_named() -> None:
    with pytest.raises(InputError, match="no-such-voice"):
        Speaker().use(Voice("no-such-voice"))


def test_every_voice_of_the_demo_exists() -> None:
    speaker = Speaker()
    for users in plans().values():
        for user in users:
            speaker.use(user.voice)


def test_made_twice_in_two_places_the_files_are_the_same(small: None, tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 2)):
        assert make_demo(tmp_path / name, workers) == list(plans())
    data = [tree(tmp_path / name / "data") for name in ("one", "two")]
    assert data[0] == data[1]
    assert len(data[0]) == 9  # of each cohort its shards, index and cohort.yaml


def test_a_second_run_does_nothing(small: None, tmp_path: Path) -> None:
    make_demo(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    said: list[str] = []
    assert make_demo(tmp_path, say=said.append) == []
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    assert len(said) == 3


def test_a_damaged_shard_is_made_again(small: None, tmp_path: Path) -> None:
    make_demo(tmp_path)
    before = tree(tmp_path / "data")
    shard = list_shards(Project(tmp_path).cohort("far-accents"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    assert make_demo(tmp_path) == ["far-accents"]
    assert tree(tmp_path / "data") == before


def test_what_a_stopped_run_had_made_is_recorded_by_the_next_one(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[list[str]] = []
    monkeypatch.setattr(demo, "track_with_dvc", lambda project, say, cohorts: recorded.append(list(cohorts)))
    makes = demo.make_spoken

    def stopped(project: Project, name: str, *rest: object) -> object:
        if name == "quiet-voices":
            raise KeyboardInterrupt
        return makes(project, name, *rest)  # type: ignore[arg-type]  # as they come

    monkeypatch.setattr(demo, "make_spoken", stopped)
    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path)
    assert recorded == [] and Project(tmp_path).cohort("base-synthetic").is_dir()
    monkeypatch.setattr(demo, "make_spoken", makes)
    assert make_demo(tmp_path) == ["quiet-voices", "far-accents"]
    assert recorded == [["base-synthetic", "quiet-voices", "far-accents"]]


def test_somebodys_own_cohort_of_that_name_is_left_alone(small: None, tmp_path: Path) -> None:
    make_demo(tmp_path)
    described = Project(tmp_path).cohort("far-accents") / "cohort.yaml"
    described.write_text(described.read_text().replace(demo.MADE_BY, "edgealign cohort add"))
    before = tree(tmp_path / "data")
    assert make_demo(tmp_path) == []
    assert tree(tmp_path / "data") == before


def test_the_description_counts_what_is_in_the_shards(small: None, tmp_path: Path) -> None:
    make_demo(tmp_path)
    folder = Project(tmp_path).cohort("far-accents")
    items = [item for shard in list_shards(folder) for item in iter_shard(shard)]
    described = read_cohort(folder)
    assert described.utterances == len(items) == 4
    assert set(described.users) == {item.user for item in items}
    assert described.seconds == pytest.approx(sum(item.duration_s for item in items), abs=0.01)
    assert not any(item.problem for item in items)


def test_an_error_in_the_middle_leaves_no_half_cohort(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken_so_far = speak_cohort

    def breaks_off(users: list[DemoUser], *rest: object) -> object:
        yield next(spoken_so_far(users, 1))
        raise OSError("disk full")

    monkeypatch.setattr(demo, "speak_cohort", breaks_off)
    with pytest.raises(OSError, match="disk full"):
        make_demo(tmp_path)
    assert not (tmp_path / "data").exists() or tree(tmp_path / "data") == {}
    assert set(tree(tmp_path / ".edgealign")) == {"incoming/base-synthetic.lock"}


def test_a_killed_speaker_is_replaced_and_a_voice_that_always_kills_is_named(
    monkeypatch: pytest.MonkeyPatch, spoken: list[ShardItem]
) -> None:
    killed = threading.Event()

    def kill_one() -> None:
        """The first child that runs our speaker (this process's own child, nobody else's)."""
        while not killed.is_set():
            for child in psutil.Process().children():
                if "spawn_main" in " ".join(child.cmdline()):
                    child.send_signal(signal.SIGKILL)
                    killed.set()
                    return
            time.sleep(0.005)

    killer = threading.Thread(target=kill_one)
    killer.start()
    again = list(speak_cohort(few(), workers=1))
    killed.set()
    killer.join()
    assert hashes(again) == hashes(spoken)
    monkeypatch.setattr(demo, "speak_user", _dies)
    with pytest.raises(EdgealignError, match="whisper was killed twice"):
        list(speak_cohort(few(users=1), workers=1))


def _dies(user: DemoUser) -> list[ShardItem]:
    os._exit(1)


def test_samples_are_16_khz(spoken: list[ShardItem]) -> None:
    item = spoken[0]
    assert load_audio(item.audio, item.utterance).size == round(item.duration_s * SAMPLE_RATE_HZ)
