"""Who trains a base and who judges it: speakers apart, also where one voice speaks in two cohorts."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pyarrow import table

from pipeline.cohorts.demo import base_voice, base_voices
from pipeline.cohorts.speak import Said, plan
from pipeline.runs import base_setup, evaluate
from pipeline.runs.base_setup import speaker, split_people
from pipeline.settings import Base, Evaluate, Personalize
from stages.errors import InputError
from stages.examples import LabelledUtterance
from stages.personalize import UserSplit, split_user


def item(cohort: str, user: str, number: int = 0, text: str = "go", source: str = "human") -> LabelledUtterance:
    name = f"{cohort}-{user}-{number}"
    return LabelledUtterance(name, user, cohort, text, source, np.zeros((1, 1), np.float16), None)


def context(
    monkeypatch: pytest.MonkeyPatch, items: list[LabelledUtterance], share: float = 0.2, personal: tuple[str, ...] = ()
) -> Any:
    """``personal``: cohorts whose users get adapters, four utterances to learn from."""

    def users_of(cohort: str) -> list[str]:
        return [one.user for one in items if one.cohort == cohort]

    cohorts = list(dict.fromkeys(one.cohort for one in items))
    monkeypatch.setattr(base_setup, "load_labelled", lambda *_, **__: items)
    monkeypatch.setattr("stages.features.read_features", lambda cohort: table({"user": users_of(cohort)}))
    monkeypatch.setattr("stages.schema.read_table", lambda path, _: path)
    monkeypatch.setattr("stages.examples.join", lambda _, cohort, __: [one for one in items if one.cohort == cohort])
    settings = SimpleNamespace(
        base=Base(dev_users=share),
        base_cohorts=cohorts,
        personal_cohorts=list(personal),
        personalize=Personalize(train_utterances=4),
        evaluate=Evaluate(guard_utterances=60),
    )
    project = SimpleNamespace(features=str, labels=str)
    return SimpleNamespace(settings=settings, project=project)


def split(
    monkeypatch: pytest.MonkeyPatch, items: list[LabelledUtterance], share: float = 0.2, personal: tuple[str, ...] = ()
) -> Any:
    return split_people(context(monkeypatch, items, share, personal))


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


def test_what_judges_a_personal_adapter_trains_no_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cohort may train the base and have personal adapters: base and adapters are judged by what neither has learned."""
    users = ("ann", "bob", "cid", "dot", "eve")
    home = [item("home", user, number, f"sentence {number}") for user in users for number in range(20)]
    work = [item("work", user, number, f"sentence {number}") for user in users for number in range(20)]
    found = split(monkeypatch, [*home, *work], personal=("home", "away"))
    trained = {(one.cohort, one.utterance) for one in found.training}
    for user in users:
        said = [one for one in home if one.user == user]
        personal = split_user(said, 4, 4, 0, judge=4)
        assert isinstance(personal, UserSplit) and len(personal.held_out) == 4
        judging = {("home", one.utterance) for one in personal.held_out}
        assert judging <= found.reserved and not judging & trained
        if f"home/{user}" not in found.held_out:  # the base keeps what is left
            assert len([one for one in found.training if one.cohort == "home" and one.user == user]) == 16
    assert len([one for one in found.training if one.cohort == "work"]) % 20 == 0
    assert split(monkeypatch, [*home, *work], personal=("away",)).reserved == frozenset()


def test_the_sentence_that_judges_is_not_learned_from_the_same_voice(monkeypatch: pytest.MonkeyPatch) -> None:
    said = [item("home", "ann", number, f"sentence {number % 10}") for number in range(20)]
    found = split(monkeypatch, said, share=0.0, personal=("home",))
    judged = {one.text for one in said if (one.cohort, one.utterance) in found.reserved}
    assert judged and found.training and not judged & {one.text for one in found.training}


def test_the_base_always_has_something_left(monkeypatch: pytest.MonkeyPatch) -> None:
    same = [item("home", "ann", number, "go", "human" if number < 3 else "pseudo") for number in range(6)]
    four = [item("home", "ann", number, f"sentence {number}") for number in range(4)]
    assert split(monkeypatch, same, share=0.0, personal=("home",)).training == same
    assert len(split(monkeypatch, four, share=0.0, personal=("home",)).training) == 3
    # too few for an adapter: nothing has to be judged
    assert split(monkeypatch, four[:3], share=0.0, personal=("home",)).training == four[:3]


def test_what_the_transcriber_wrote_judges_no_base(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [
        item("home", user, number, source="human" if number else "pseudo") for user in "abcde" for number in range(3)
    ]
    found = split(monkeypatch, items)
    assert {one.source for one in found.judging} == {"human"} and len(found.judging) == 2
    assert not {f"{one.cohort}/{one.user}" for one in found.training} & found.held_out and len(found.held_out) == 1


def test_an_utterance_that_trained_guards_nobody_though_another_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [replace(item(cohort, user), utterance="001") for cohort in ("home", "work") for user in "abcde"]
    found = context(monkeypatch, items)
    record = SimpleNamespace(held_out_utterances=["001"])
    monkeypatch.setattr("stages.alignment.record.read_record", lambda _: record)
    found.project.base_adapter = "base"
    trained = {f"{one.cohort}/{one.user}" for one in split_people(found).training}
    guard = {f"{one.cohort}/{one.user}" for one in evaluate._guard(found)}
    assert len(guard) == 2 and not guard & trained
