"""Learning on a device, on a tiny base that knows six words: what helps its user is taken, what would harm is not."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from jetson_agent.home import Device, Home, held_out_of, language_of
from jetson_agent.replay import Remembered
from jetson_agent.update import adapt
from stages.alignment.adapter import read_record, save
from stages.errors import InputError
from stages.schema import INDEX, write_table
from stages.text import UNKNOWN
from tests.helpers_adapters import write_cohort
from tests.helpers_alignment import WORDS, spoken
from tests.helpers_cohorts import make_project
from tests.helpers_rollout import LEARN, correct, tell


@pytest.mark.parametrize("method", ["replay+average", "replay", "average", "ewc", "none"])
def test_an_update_helps_its_user_and_leaves_others_as_they_are(home: Home, method: str) -> None:
    tell(home, **LEARN, method=method)
    correct(home)
    outcome = adapt(home)
    wer = outcome.figures["wer"]
    if method == "replay+average":  # the default
        assert outcome.taken
    if not outcome.taken:
        # a method that cannot keep others as they are is refused, and the base goes on
        assert home.shelf.current() is None
        assert [event.what for event in home.shelf.history()] == ["refused"]
        return
    assert wer["after"]["own"] < wer["base"]["own"]
    assert wer["after"]["general"] <= wer["base"]["general"] + LEARN["tolerance"]
    version = home.shelf.current()
    assert version is not None
    record = read_record(version.folder)
    assert (record.cohort, record.user, record.kind) == ("home", "ann", "personal")
    assert not set(record.train_utterances) & set(record.held_out_utterances)


def test_rounds_build_on_all_that_is_remembered_and_can_be_taken_back(home: Home) -> None:
    correct(home, 12)
    first = adapt(home)
    assert first.taken
    correct(home, 40, seed=8)
    second = adapt(home)
    assert second.figures["utterances"] > first.figures["utterances"]
    taken = [event.number for event in home.shelf.history() if event.what == "taken"]
    assert home.shelf.current().number == taken[-1]  # type: ignore[union-attr]  # two were judged, one at least taken
    for _ in taken:
        before = home.shelf.rollback("tried")
    assert before is None


def test_wrong_corrections_are_not_taken(home: Home) -> None:
    """What is said of one sentence alone can be learned; of everything, it makes nothing better that others say."""
    for place, item in enumerate(spoken(24, seed=9)):
        words = [WORDS[(WORDS.index(word) + 1 + place % 5) % len(WORDS)] for word in item.text.split()]
        frames = item.frames.numpy().astype(np.float16)
        home.replay.add(Remembered(f"w{place}", None, frames, item.text, " ".join(words), "correction", 0.5))
    outcome = adapt(home)
    assert not outcome.taken
    assert home.shelf.current() is None


def test_too_few_corrections_wait(home: Home) -> None:
    correct(home, 2)
    outcome = adapt(home)
    assert not outcome.taken and "correct more first" in outcome.why
    assert home.shelf.history() == []


def test_a_device_that_is_not_set_up_says_how(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="edgealign-agent setup --project"):
        adapt(Home.open(tmp_path))


def test_a_person_is_forgotten_on_the_device(home: Home) -> None:
    correct(home, 3)
    assert home.forget("ann", dry_run=True) == ([home.own], 0)
    assert home.own.is_dir()
    assert home.forget("eve", "elsewhere") == ([], 0)
    assert home.forget("eve", "others") == ([], 10)
    assert b"eve" not in home.others.read_bytes()
    assert {item.user for side in home.general() for item in side} == {"dora", "finn", "gus"}
    own = home.own
    home.forget("ann")
    assert not own.exists()
    with pytest.raises(InputError, match="not there"):
        _ = home.device


def test_forgetting_waits_for_an_update_and_the_update_after_it_makes_nothing_anew(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jetson_agent.home.FORGET_WAIT_S", 0.2)
    correct(home, 3)
    own = home.own
    with ThreadPoolExecutor(1) as pool:
        with home.changing():
            with pytest.raises(InputError, match=r"under way.*end `edgealign-agent serve`"):
                home.forget("ann")
            assert home.device.user == "ann" and len(home.replay.items()) == 3
            assert home.forget("ann", dry_run=True) == ([own], 0)
            assert home.forget("eve", "others") == ([], 10)  # has no folder here: nothing to wait for
            waits = pool.submit(adapt, home)
            time.sleep(0.5)
            assert not waits.done()
            (home.folder / "device.json").unlink()  # as forget does under the lock
            shutil.rmtree(own)
        with pytest.raises(InputError, match="not there"):
            waits.result(20)
    assert not own.exists()


def test_another_users_device_stays_when_somebody_is_forgotten(home: Home, models: Device) -> None:
    correct(home, 3)
    home.set_up(replace(models, user="bob"), [])
    correct(home, 3)
    home.forget("ann", "home")
    assert home.device.user == "bob" and len(home.replay.items()) == 3
    assert not (home.folder / "home" / "ann").exists()


def test_set_up_from_a_project_follows_its_server_and_keeps_adapters_of_another_base_apart(
    models: Device, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    shutil.copytree(models.base, project / "artifacts" / "adapters" / "base")
    for name in ("encoder", "llm"):
        (project / "models" / name).mkdir(parents=True)
        (project / "models" / name / "identity.json").write_text("{}")
    told = {
        "base_cohorts": [],
        "features": {"padding_s": 0.25},
        "tracking": {"uri": "http://here:5000", "experiment": "speech"},
        "promotion": {"guard_tolerance": 0.05},
    }
    (project / "params.yaml").write_text(json.dumps(told))
    found = Home.open(tmp_path / "agent")
    assert found.setup(project, "home", "ann").padding_s == 0.25
    settings = found.rollout
    assert (settings.server, settings.experiment, settings.guard_tolerance) == ("http://here:5000", "speech", 0.05)
    found.setup(project, "home", "ann", "http://there:5000")
    assert (found.rollout.server, found.rollout.device) == ("http://there:5000", settings.device)

    record = read_record(models.base)
    personal = replace(record, kind="personal", cohort="home", user="ann")
    save(tmp_path / "fits", {}, replace(personal, base_sha256=record.weights_sha256))
    found.shelf.take(tmp_path / "fits", "learned", {"method": "replay"})
    assert found.setup(project, "home", "ann").shelf == "shelf"
    save(tmp_path / "other", {}, replace(personal, base_sha256="0" * 64))
    found.shelf.take(tmp_path / "other", "learned", {"method": "replay"})
    assert found.setup(project, "home", "ann").shelf == f"shelf-{record.weights_sha256[:12]}"
    assert found.shelf.current() is None and len(found.history()) == 2


def test_a_device_speaks_the_language_of_its_users_recordings(home: Home, tmp_path: Path) -> None:
    assert home.device.language == "en"
    told = json.loads((home.folder / "device.json").read_text())
    del told["language"]  # set up by an older edgealign
    (home.folder / "device.json").write_text(json.dumps(told))
    assert home.device.language == "en"

    folder = tmp_path / "data" / "cohorts" / "home"
    folder.mkdir(parents=True)
    assert language_of(tmp_path, "home", "ann") == UNKNOWN  # no such cohort
    (folder / "cohort.yaml").write_text("language: de-AT\n")
    empty = dict.fromkeys(INDEX.names)
    rows = [
        {**empty, "user": user, "language": spoken} for user, spoken in (("ann", "ru"), ("bob", "en"), ("bob", "fi"))
    ]
    write_table(pa.Table.from_pylist(rows, schema=INDEX), folder / "index-00000.parquet")
    found = {user: language_of(tmp_path, "home", user) for user in ("ann", "bob", "new")}
    assert found == {"ann": "ru", "bob": UNKNOWN, "new": "de"}


def test_nobody_judges_a_device_by_the_name_of_an_utterance_that_trained(models: Device, tmp_path: Path) -> None:
    """The base's record tells names without cohorts, and two cohorts may have the same ones."""
    project = make_project(tmp_path / "project")
    for place, cohort in enumerate(("home", "work")):
        write_cohort(project, cohort, {"ann": 0.0}, place)
    params = project.root / "params.yaml"
    params.write_text(
        yaml.safe_dump(yaml.safe_load(params.read_text()) | {"base_cohorts": ["home", "work"]}), encoding="utf-8"
    )
    record = json.loads((models.base / "adapter.json").read_text())
    record |= {"train_utterances": ["ann-000"], "held_out_utterances": ["ann-000", "ann-001"]}
    project.base_adapter.mkdir(parents=True)
    (project.base_adapter / "adapter.json").write_text(json.dumps(record))
    assert [(item.cohort, item.utterance) for item in held_out_of(project.root)] == [
        ("home", "ann-001"),
        ("work", "ann-001"),
    ]
