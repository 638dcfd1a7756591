"""A base in two rounds: what the second learns, who is kept out of it, and that it goes on where it was stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.project import Project
from pipeline.tracking.spool import Spool
from tests.helpers_adapters import set_params
from tests.helpers_rounds import EPOCHS, HELD_OUT, RIGHT, UNSURE, USERS, WRONG, Trained, build

pytestmark = pytest.mark.integration

LEARNERS = [user for user in USERS if user != HELD_OUT]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dict[str, Any], list[Any]]:
    """A project of two rounds, what its base says of itself, and the setup of each epoch."""
    project = build(tmp_path_factory.mktemp("rounds") / "project", rounds=2)
    with pytest.MonkeyPatch.context() as monkeypatch:
        trained = Trained(monkeypatch)
        told = trained.run(project)
        return project, told, trained.setups


def texts(setup: Any) -> dict[str, str]:
    return dict(zip(setup.training.utterances, setup.training.texts, strict=True))


def names(numbers: range) -> set[str]:
    return {f"{user}-{number:03d}" for user in LEARNERS for number in numbers}


def test_the_second_round_learns_what_both_heard(whole: tuple[Project, dict[str, Any], list[Any]]) -> None:
    _, _, setups = whole
    assert len(setups) == 2 * EPOCHS
    first, second = texts(setups[0]), texts(setups[-1])
    assert not names(UNSURE) & set(first) and names(WRONG) <= set(first)
    assert len(names(UNSURE) & set(second)) >= 2  # the base confirms what Whisper was not sure of
    assert len(names(RIGHT) & set(second)) >= 5
    learned = names(WRONG) & set(second)  # only what the base alone is sure of, and by its own words
    assert not [name for name in learned if second[name] == first[name]]


def test_nobody_who_judges_is_learned_from_and_the_judging_stays_the_same(
    whole: tuple[Project, dict[str, Any], list[Any]],
) -> None:
    _, _, setups = whole
    first, second = setups[0], setups[-1]
    assert {name.partition("-")[0] for name in first.held_out.utterances} == {HELD_OUT}
    for setup in (first, second):
        assert not [name for name in setup.training.utterances if name.startswith(HELD_OUT)]
    assert (second.held_out.utterances, second.held_out.texts) == (first.held_out.utterances, first.held_out.texts)


def test_each_round_tells_what_it_accepted(whole: tuple[Project, dict[str, Any], list[Any]]) -> None:
    project, told, setups = whole
    metrics = told["metrics"]
    one, two = metrics["rounds"]
    untold, human = len(LEARNERS) * UNSURE.stop, len(LEARNERS) * 20
    assert (one["round"], one["human"], one["pseudo"]) == (1, human, len(names(RIGHT)) + len(names(WRONG)))
    assert (two["round"], two["human"]) == (2, human)
    assert two["pseudo"] + sum(two["rejected"].values()) == untold
    assert 0 < two["agreed"] < two["compared"] <= untold and two["rejected"]["disputed"] > 0
    assert metrics["dev_wer"] == min(one["dev_wer"], two["dev_wer"])
    taken = setups[(metrics["round"] - 1) * EPOCHS]
    assert told["train_utterances"] == taken.training.utterances
    curve = metrics["curve"]
    assert [step for step, _ in curve["loss"]] == list(range(1, 2 * EPOCHS + 1))
    seconds = [at for _, at, _ in curve["dev_wer"]]
    assert seconds == sorted(seconds) and metrics["train_seconds"] == pytest.approx(seconds[-1])
    spool = Spool(project.private / "spool")
    [run] = [record for record in map(spool.read, spool.waiting()) if record.name == "base"]
    figures = {name: value for name, value, *_ in run.metrics}
    assert (figures["round_1.pseudo"], figures["round_2.pseudo"]) == (one["pseudo"], two["pseudo"])
    assert figures["round_2.rejected.disputed"] == two["rejected"]["disputed"]


def weights(project: Project) -> str:
    return json.loads((project.base_adapter / "adapter.json").read_text(encoding="utf-8"))["weights_sha256"]


@pytest.mark.parametrize("stopped", [EPOCHS - 1, EPOCHS + 2])
def test_it_goes_on_where_it_was_stopped(
    whole: tuple[Project, dict[str, Any], list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: int
) -> None:
    """In the first round and in the second: no epoch is trained again, and the very same base comes out."""
    project = Project(tmp_path / "project")
    shutil.copytree(whole[0].root, project.root, ignore=shutil.ignore_patterns("adapters", "spool"))
    trained = Trained(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        trained.run(project, stop_before=stopped)
    told = trained.run(project)
    assert len(trained.setups) == 2 * EPOCHS - stopped
    assert told["weights_sha256"] == whole[1]["weights_sha256"]
    assert not list((project.private / "checkpoints").iterdir())


def test_without_untold_utterances_there_is_no_second_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    project, trained = build(tmp_path / "project", untold=False, rounds=2, epochs=2), Trained(monkeypatch)
    caplog.set_level("INFO")
    told = trained.run(project)
    assert len(trained.setups) == 2 and len(told["metrics"]["rounds"]) == 1
    assert "people transcribed every utterance that trains" in caplog.text
    set_params(project, base={"rounds": 1})
    assert trained.run(project)["weights_sha256"] == told["weights_sha256"]


def test_what_judges_the_personal_adapters_is_in_no_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second round's labels are joined anew: what the first one kept back must not come in by that door."""
    from pipeline.runs.base_setup import reserved_of
    from tests.helpers_adapters import context_of

    project, trained = build(tmp_path / "project", rounds=2, epochs=1), Trained(monkeypatch)
    params = project.root / "params.yaml"
    content = yaml.safe_load(params.read_text(encoding="utf-8"))
    params.write_text(yaml.safe_dump(content | {"personal_cohorts": ["home"]}), encoding="utf-8")
    set_params(project, personalize={"train_utterances": 5})
    trained.run(project)
    first, second = (set(setup.training.utterances) for setup in trained.setups)
    judging = {name for _, name in reserved_of(context_of(project), "home")}
    assert {name.partition("-")[0] for name in judging} == set(USERS)
    assert first and second and first != second
    assert not judging & (first | second)


def test_the_rules_train_a_base_anew_only_where_there_is_a_second_round(tmp_path: Path) -> None:
    """DVC compares the manifest: with one round, turning what second_labels reads must not change it."""
    from pipeline.runs import base_inputs
    from tests.helpers_adapters import Away, context_of

    project = build(tmp_path / "project", untold=False)

    def manifest(rounds: int, alone: float) -> bytes:
        set_params(project, base={"rounds": rounds}, pseudo_labels={"adapter_alone": alone})
        base_inputs.run(context_of(project, Away()))
        return project.base_inputs.read_bytes()

    assert manifest(1, 0.95) == manifest(1, 0.5)
    assert manifest(2, 0.95) != manifest(2, 0.5)


def test_a_base_learns_words_in_pieces_and_against_rows_of_the_whole_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.errors import InputError

    project, trained = build(tmp_path / "project", untold=False, epochs=1), Trained(monkeypatch)
    plain = trained.run(project)
    set_params(project, alignment={"sampled_rows": 3})
    drawn = trained.run(project)
    [setup] = trained.setups
    assert setup.train.sampled_rows == 3 and setup.table is not None and len(setup.table) == 7
    assert drawn["weights_sha256"] != plain["weights_sha256"]
    set_params(project, alignment={"sampled_rows": 8})
    with pytest.raises(InputError, match="sampled_rows is 8, but the LLM's table has 7 rows"):
        trained.run(project)
