"""Who trains a base and who judges it: speakers apart, also where one voice speaks in two cohorts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.cohorts.demo import base_voice, base_voices
from pipeline.cohorts.speak import Said, plan
from pipeline.runs import base_setup
from pipeline.runs.base_setup import speaker, split_people
from pipeline.settings import Base
from stages.errors import InputError
from stages.examples import LabelledUtterance


def item(cohort: str, user: str) -> LabelledUtterance:
    return LabelledUtterance(f"{cohort}-{user}", user, cohort, "go", "human", np.zeros((1, 1), np.float16), None)


def split(monkeypatch: pytest.MonkeyPatch, items: list[LabelledUtterance], share: float = 0.2) -> Any:
    monkeypatch.setattr(base_setup, "load_labelled", lambda *_, **__: items)
    settings = SimpleNamespace(base=Base(dev_users=share), base_cohorts=["any"])
    return split_people(SimpleNamespace(settings=settings))  # type: ignore[arg-type]  # all that it asks for


def test_a_synthetic_voice_judges_in_all_its_cohorts_or_in_none(monkeypatch: pytest.MonkeyPatch) -> None:
    spoken = [user.user for user in plan(Said(("go",), words=True), 1, base_voices())]
    assert {base_voice(user) for user in spoken} == set(base_voices())
    first = [item("base-synthetic", user) for user in base_voices()]
    twins = [item(cohort, user) for cohort in ("commands", "names") for user in spoken]
    found = split(monkeypatch, [*first, *twins])
    judging = {speaker(one) for one in found.judging}
    assert len(judging) == round(0.2 * len(first)) and not judging & {speaker(one) for one in found.training}
    assert len(found.judging) == 3 * len(judging) == len(found.held_out)  # as COHORT/USER
    # and the demo alone is held out as it has always been
    alone = split(monkeypatch, first)
    assert {f"base-synthetic/{one.user}" for one in alone.judging} == alone.held_out == judging


def test_people_of_the_same_name_in_two_cohorts_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [item(cohort, user) for cohort in ("home", "work") for user in ("ann", "x-ray", "bob")]
    found = split(monkeypatch, items, share=0.5)
    assert len(found.held_out) == 3 and found.held_out == {f"{one.cohort}/{one.user}" for one in found.judging}


def test_without_a_label_there_is_nothing_to_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no utterance"):
        split(monkeypatch, [])
