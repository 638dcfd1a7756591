"""The base stage with base.speller: a second adapter inside the base's folder, and the base as it was without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.project import Project
from pipeline.tracking.spool import Spool
from tests.helpers_adapters import set_params
from tests.helpers_rounds import HELD_OUT, Trained, build
from tests.helpers_speller import write_spelling_llm

pytestmark = pytest.mark.integration

EPOCHS = 2


def project_of(folder: Path, **base: Any) -> Project:
    """One whose LLM has letters, and in which a text has a sign that is none of them."""
    import pyarrow as pa

    from stages.schema import LABELS, read_table, write_table

    project = build(folder, untold=False, **{"epochs": EPOCHS, "speller": True, **base})
    write_spelling_llm(project.llm)
    rows = read_table(project.labels("home"), LABELS).to_pylist()
    rows[0]["text"], rows[1]["text"] = "alpha é", "alpha br'avo"
    assert not rows[0]["utterance"].startswith(HELD_OUT)
    write_table(pa.Table.from_pylist(rows, LABELS), project.labels("home"))
    return project


def record_of(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "adapter.json").read_text(encoding="utf-8"))
    return told


def speller_of(project: Project) -> Path:
    return project.base_adapter / "speller"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dict[str, Any], list[Any]]:
    project = project_of(tmp_path_factory.mktemp("speller") / "project")
    with pytest.MonkeyPatch.context() as monkeypatch:
        trained = Trained(monkeypatch)
        told = trained.run(project)
        return project, told, trained.setups


def test_both_adapters_are_there_and_read_together(whole: tuple[Project, dict[str, Any], list[Any]]) -> None:
    from stages.listener import Listener

    project, told, _ = whole
    mine = record_of(speller_of(project))
    assert (mine["kind"], mine["encoder"], mine["llm"]) == ("base", told["encoder"], told["llm"])
    assert len(mine["vocabulary"]) == 52 and mine["bridge"]["stack"] == 2 and mine["bridge"]["scale"] == 20.0
    assert len(mine["metrics"]["curve"]["dev_wer"]) == EPOCHS and mine["metrics"]["dev_wer"] is not None
    assert not list((project.private / "checkpoints").iterdir())
    listener = Listener.load(project.base_adapter, project.llm)
    [read] = listener.read([np.zeros((24, 12), dtype=np.float32)])
    assert isinstance(listener.text_of(read), str) and len(read.soft_tokens) == len(read.rows)


def test_the_speller_learns_from_the_same_utterances_but_those_that_cannot_be_spelled(
    whole: tuple[Project, dict[str, Any], list[Any]],
) -> None:
    project, _, setups = whole
    assert len(setups) == 2 * EPOCHS
    base, speller = setups[0], setups[-1]
    left_out = set(base.training.utterances) - set(speller.training.utterances)
    assert left_out == {base.training.utterances[base.training.texts.index("alpha é")]}
    assert record_of(speller_of(project))["metrics"]["cannot_spell"] == 1
    assert (speller.train.embedding_weight, speller.train.tempo, speller.train.sampled_rows) == (0.0, 0.12, 0)
    assert (speller.train.epochs, speller.train.learning_rate) == (base.train.epochs, base.train.learning_rate)
    text, target = speller.training.texts[0], speller.training.targets[0]
    assert text == "alpha bravo"  # nobody says an apostrophe
    assert "".join(speller.tokens[row] for row in target) == f" {text}"
    assert speller.held_out.utterances == base.held_out.utterances


def test_the_run_tells_of_the_speller_apart(whole: tuple[Project, dict[str, Any], list[Any]]) -> None:
    project, told, _ = whole
    spool = Spool(project.private / "spool")
    [run] = [record for record in map(spool.read, spool.waiting()) if record.name == "base"]
    figures = {name: value for name, value, *_ in run.metrics}
    assert figures["speller_best_dev_wer"] == record_of(speller_of(project))["metrics"]["dev_wer"]
    assert figures["best_dev_wer"] == told["metrics"]["dev_wer"] and figures["speller_cannot_spell"] == 1
    assert run.params["speller_vocabulary_size"] == "52"


def test_the_base_is_the_same_without_a_speller_and_the_old_one_goes(
    whole: tuple[Project, dict[str, Any], list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    project = Project(tmp_path / "project")
    shutil.copytree(whole[0].root, project.root)
    set_params(project, base={"speller": False})
    trained = Trained(monkeypatch)
    told = trained.run(project)
    assert len(trained.setups) == EPOCHS and not speller_of(project).exists()
    assert told["weights_sha256"] == whole[1]["weights_sha256"] and told["settings"] == whole[1]["settings"]


def test_it_goes_on_within_the_speller_and_leaves_the_base_alone(
    whole: tuple[Project, dict[str, Any], list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    project = Project(tmp_path / "project")
    shutil.copytree(whole[0].root, project.root, ignore=shutil.ignore_patterns("adapters", "spool"))
    trained = Trained(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        trained.run(project, stop_before=EPOCHS + 1)
    assert not project.base_adapter.exists()  # neither without the other
    told = trained.run(project)
    assert len(trained.setups) == EPOCHS - 1
    assert told["weights_sha256"] == whole[1]["weights_sha256"]
    assert record_of(speller_of(project))["weights_sha256"] == record_of(speller_of(whole[0]))["weights_sha256"]
    assert not list((project.private / "checkpoints").iterdir())


def test_where_nothing_can_be_spelled_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.errors import InputError

    project = build(tmp_path / "project", untold=False, epochs=1, speller=True)  # whose LLM has words alone
    with pytest.raises(InputError, match=r"none of .* can be spelled with the 0 letters .* base.speller to false"):
        Trained(monkeypatch).run(project)
