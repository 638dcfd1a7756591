"""The learner of the service: when it begins, that it makes way, that trouble is told and passes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jetson_agent.home import Home
from jetson_agent.serve.engine import Turn
from jetson_agent.serve.intake import Refused
from jetson_agent.serve.learning import Learner
from jetson_agent.serve.settings import ServeSettings
from jetson_agent.serve.talk import Conversation
from tests.helpers_rollout import correct


class Engine:
    """What the learner sees of the service's engine."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.replay = home.replay
        self.device = home.device
        self.settings = ServeSettings()
        self.busy = False
        self.refreshed = 0

    def refresh(self) -> bool:
        self.refreshed += 1
        return False


@pytest.fixture
def engine(home: Home) -> Engine:
    return Engine(home)


@pytest.fixture
def learner(engine: Engine) -> Iterator[Learner]:
    found = Learner(engine, 0)  # type: ignore[arg-type]  # as far as the learner looks
    found.start()
    yield found
    found.close()


def until(true: Any, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_begins_by_itself_after_enough_corrections_and_not_again_without_new_ones(engine: Engine) -> None:
    correct(engine.home, 4)
    found = Learner(engine, 5)  # type: ignore[arg-type]
    found.start()
    try:
        time.sleep(2.5)
        assert found.state().last is None and found.state().waiting_corrections == 4
        correct(engine.home, 26, seed=8)
        until(lambda: found.state().last is not None)
        outcome = found.state().last
        until(lambda: found.state().state == "waiting")
        time.sleep(2.5)
        assert found.state().last is outcome
        assert found.state().waiting_corrections == 0
    finally:
        found.close()


def test_what_came_to_nothing_is_not_tried_again_and_again(engine: Engine) -> None:
    correct(engine.home, 2)  # too few to judge by: no line of the history says that it was tried
    found = Learner(engine, 2)  # type: ignore[arg-type]
    found.start()
    try:
        until(lambda: found.state().last is not None)
        outcome = found.state().last
        time.sleep(2.5)
        assert found.state().last is outcome
    finally:
        found.close()


def test_it_waits_while_somebody_waits_for_a_first_word(engine: Engine, learner: Learner) -> None:
    correct(engine.home, 30)
    engine.busy = True
    number = learner.ask()
    assert not learner.wait(number, 4.0)
    assert learner.state().state == "learning"
    engine.busy = False
    assert learner.wait(number, 60)


def test_asked_in_the_middle_of_an_update_it_begins_another(engine: Engine, learner: Learner) -> None:
    correct(engine.home, 30)
    engine.busy = True
    first = learner.ask()
    until(lambda: learner.state().state == "learning")
    second = learner.ask()
    assert second == first + 1
    engine.busy = False
    assert learner.wait(second, 60)
    assert len(engine.home.shelf.history()) == 2


def test_trouble_is_told_and_passes(engine: Engine, learner: Learner) -> None:
    correct(engine.home, 30)
    settings = engine.home.folder / "learn.json"
    good = settings.read_text()
    settings.write_text("{")
    assert learner.wait(learner.ask(), 60)
    until(lambda: learner.state().error is not None)
    assert "learn.json" in str(learner.state().error)
    settings.write_text(good)
    assert learner.wait(learner.ask(), 60)
    assert learner.state().error is None and learner.state().last is not None


def test_the_end_of_the_service_does_not_wait_for_an_update(engine: Engine) -> None:
    correct(engine.home, 30)
    found = Learner(engine, 0)  # type: ignore[arg-type]
    found.start()
    engine.busy = True
    found.ask()
    until(lambda: found.state().state == "learning")
    engine.busy = False
    found.close()
    assert found.state().last is None and engine.home.shelf.history() == []
    assert len(engine.home.replay.items()) == 30


def test_it_takes_up_what_others_put_on_the_shelf(engine: Engine, learner: Learner) -> None:
    until(lambda: engine.refreshed >= 2)


def heard(engine: Engine, name: str = "u1", confidence: float = 0.5) -> tuple[Conversation, Turn]:
    """A conversation after one utterance."""
    told = SimpleNamespace(
        text="heard", frames=np.zeros((5, 2)), read_out=SimpleNamespace(confidence=confidence), seconds={}
    )
    turn = Turn(name, np.zeros(1600, np.float32), told, None, 0.0)  # type: ignore[arg-type]
    talk = Conversation(engine, SimpleNamespace())  # type: ignore[arg-type]  # as far as what is kept looks
    talk._remember(turn)
    return talk, turn


@pytest.mark.parametrize("ended", ["forgotten", "another's"])
@pytest.mark.parametrize("confidence", [0.5, 1.0])
def test_a_service_that_runs_keeps_nothing_of_whom_the_device_is_no_longer_for(
    home: Home, ended: str, confidence: float
) -> None:
    engine = Engine(home)
    talk, turn = heard(engine, confidence=confidence)
    if ended == "forgotten":
        home.forget("ann")
    else:
        home.set_up(replace(home.device, user="bob"), [])
    for _ in range(2):  # it was dropped the first time
        with pytest.raises(Refused, match="no longer set up for home/ann: start the service again") as refused:
            asyncio.run(talk.correct("u1", "turn on"))
        assert refused.value.status == 410 and not talk._recent
    talk._remember(turn)
    asyncio.run(talk._keep_confident(turn))
    assert not talk._recent
    assert list(home.folder.glob("*/ann")) == ([] if ended == "forgotten" else [home.folder / "home" / "ann"])
    assert not list(home.folder.rglob("*.safetensors"))[1:]  # the other people's


def test_what_is_being_remembered_is_forgotten_as_well(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(home)
    talk, _ = heard(engine)
    forgetting = threading.Thread(target=home.forget, args=("ann",))
    add, own = engine.replay.add, home.own

    def slowly(item: Any) -> None:
        forgetting.start()
        time.sleep(0.5)
        add(item)

    monkeypatch.setattr(engine.replay, "add", slowly)
    monkeypatch.setattr("jetson_agent.serve.talk.waiting", lambda _: 1)
    asyncio.run(talk.correct("u1", "turn on"))
    forgetting.join()
    assert not own.exists()


@pytest.mark.parametrize(
    ("language", "text", "kept"),
    [
        ("en", "Meet José at 5!", "meet jose at five"),
        ("en", "Включи свет!", "включи свет"),  # set up before devices were told their language
        ("ru", "Включи 5 ламп!", "включи пять ламп"),
        ("de", "Fünfzehn Uhr.", "fünfzehn uhr"),
        ("und", "Fünfzehn Uhr.", "fünfzehn uhr"),
        ("und", "Turn on 5!", "turn on five"),
    ],
)
def test_a_correction_is_kept_in_the_letters_of_its_language(home: Home, language: str, text: str, kept: str) -> None:
    home._write_device(replace(home.device, language=language))
    talk, _ = heard(Engine(home))
    assert asyncio.run(talk.correct("u1", text)).text == kept
    assert [item.text for item in home.replay.items()] == [kept]
    with pytest.raises(Refused, match="no word is in the text"):
        asyncio.run(talk.correct("u1", "?!"))
