"""The lineage of adapters, walked back to the audio; and two adapters side by side."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.project import Project
from pipeline.tracking.reference import Reference
from pipeline.tracking.why import Walk
from stages.atomic import write_json
from stages.errors import InputError
from tests.helpers_adapters import GOOD, another_base, compute, context_of, relabel, set_params

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def made(adapters_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose base learned from the cohort, everything sent, ann's and bob's adapters promoted."""
    folder = tmp_path_factory.mktemp("why") / "project"
    shutil.copytree(adapters_project, folder)
    project = Project(folder)
    content = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    (folder / "params.yaml").write_text(yaml.safe_dump(content | {"base_cohorts": ["home"]}), encoding="utf-8")
    path = project.base_adapter / "adapter.json"
    record = json.loads(path.read_text())
    names = [f"{user}-{number:03d}" for user in ("ann", "bob", "cid") for number in range(10)]
    write_json(path, {**record, "train_utterances": names[3:], "held_out_utterances": names[:3]})
    tracker = context_of(project).tracker
    with tracker.run("base", device="test", device_kind="virtual") as run:
        run.adapter(project.base_adapter, "base")
    from pipeline.tracking.registry import promote

    promote(tracker, "home")
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy; the store keeps absolute paths of its files, so that it goes on reading the first one's."""
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("COLUMNS", "200")
    return Project(tmp_path / "project")


def why(*arguments: str) -> tuple[int, Any]:
    done = CliRunner().invoke(app, ["adapters", "why", "--json", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, json.loads(done.output)


def test_every_adapter_walks_back_to_the_hash_of_the_audio(project: Project) -> None:
    code, found = why("--all")
    assert [one["adapter"] for one in found] == ["base", "home/ann", "home/bob", "home/cid"]
    assert [(one["adapter"], one["problems"]) for one in found if not one["complete"]] == []
    assert code == 0
    audio, users = {}, {}
    for shard in project.cohort("home").glob("shard-*.tar"):
        with tarfile.open(shard) as archive:
            for member in archive:
                content = archive.extractfile(member).read()  # type: ignore[union-attr]
                name, _, kind = member.name.partition(".")
                if kind == "flac":
                    audio[name] = hashlib.sha256(content).hexdigest()
                else:
                    users[name] = json.loads(content)["user"]
    base, ann = found[0], found[1]
    assert base["recordings"] == {"by_cohort": {"home": 30}, "missing": 0, "status": "verified"}
    for one in found[1:]:
        record = json.loads((project.root / "artifacts" / "adapters" / one["adapter"] / "adapter.json").read_text())
        named = [*record["train_utterances"], *record["held_out_utterances"]]
        for part in ("recordings", "features"):
            assert {row["utterance"]: row["audio_sha256"] for row in one[part]} == {name: audio[name] for name in named}
        assert {users[name] for name in named} == {record["user"]}
        for part in ("recordings", "labels", "features"):
            assert {row["status"] for row in one[part]} == {"verified"}
        parts = [one[name] for name in ("weights", "inputs", "base", "run", "evaluation")]
        assert [part["status"] for part in parts] == ["verified"] * 5
        assert one["base"]["sha256"] == base["adapter_sha256"]
        assert one["base"]["recordings"]["by_cohort"] == {"home": 30}
        assert one["devices"]["trained_on"]["kind"] == "virtual"
    assert [item["aliases"] for item in ann["versions"]] == [["challenger", "champion"]]
    assert ann["versions"][0]["rule"] == "2"
    assert "held-out utterances" in ann["versions"][0]["why"]
    assert found[3]["devices"]["aliases"] == ["challenger"]

    text = CliRunner().invoke(app, ["adapters", "why", "home/ann"]).output
    for word in ("lineage complete", "ann-000", audio["ann-000"][:12], "promoted by rule 2", "champion", "virtual"):
        assert word in text
    code, champion = why("home/ann@champion")
    assert (code, champion["adapter_sha256"]) == (0, ann["adapter_sha256"])


def spoil(path: Path) -> None:
    """Change a file's last byte; a name of its own, since it may be linked."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def spoil_audio(project: Project) -> None:
    [shard] = project.cohort("home").glob("shard-*.tar")
    content = bytearray(shard.read_bytes())
    with tarfile.open(shard) as archive:
        member = next(item for item in archive if item.name == "ann-000.flac")
        content[member.offset_data + member.size - 5] ^= 1
    shard.write_bytes(bytes(content))


def rename(project: Project) -> None:
    project.cohort("home").rename(project.cohort("house"))


def forget_run(project: Project) -> None:
    """A store of its own, where nothing was recorded."""
    shutil.rmtree(project.private / "mlflow")


def break_store(project: Project) -> None:
    (project.private / "mlflow" / "mlflow.db").write_bytes(b"no database")


FAULTS: dict[str, tuple[Callable[[Project], Any], str]] = {
    "a recording was changed": (spoil_audio, r"shard-00000.tar: its hash is not the one in cohort.yaml"),
    "the cohort was renamed": (rename, r"no such cohort. There are: house. If it was renamed"),
    "the weights were changed": (
        lambda p: spoil(p.adapters("home") / "ann" / "adapter.safetensors"),
        r"adapter.json says .*it was changed",
    ),
    "the weights are gone": (
        lambda p: (p.adapters("home") / "ann" / "adapter.safetensors").unlink(),
        r"adapter.safetensors: not there",
    ),
    "the record is cut off": (
        lambda p: (p.adapters("home") / "ann" / "adapter.json").write_text("{"),
        r"adapter.json: not readable as JSON",
    ),
    "the base was changed": (lambda p: spoil(p.base_adapter / "adapter.safetensors"), r"base: .*it was changed"),
    "a label says something else": (
        lambda p: relabel(p, "ann-000", text="echo echo"),
        r"1 of 28 of the labels are not accepted or do not say",
    ),
    "the labels are gone": (lambda p: p.second_labels("home").unlink(), r"home.parquet: not there"),
    "the features are gone": (lambda p: shutil.rmtree(p.features("home")), r"holds no features"),
    "no evaluation": (lambda p: p.evaluation("home").unlink(), r""),
    "no store": (forget_run, r"no tracking store"),
    "a store that cannot be read": (break_store, r"mlflow.db"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_told_and_the_rest_goes_on(project: Project, fault: str) -> None:
    spoil_it, message = FAULTS[fault]
    spoil_it(project)
    told = Walk(context_of(project)).of(Reference("home", "ann"))
    if fault == "no evaluation":  # the run of the evaluation keeps the figures
        assert (told["complete"], told["evaluation"]["status"]) == (True, "told")
        return
    assert not told["complete"]
    assert any(re.search(message, problem) for problem in told["problems"]), told["problems"]
    if fault not in ("the record is cut off",):
        assert "devices" in told  # the walk went to its end
    done = CliRunner().invoke(app, ["adapters", "why", "home/ann"])
    assert done.exit_code == 1
    assert "what does not fit" in done.output


@pytest.mark.parametrize("change", [another_base, lambda p: shutil.rmtree(p.base_adapter)])
def test_a_base_that_is_not_in_the_workspace_any_more_is_told_from_the_registry(
    project: Project, change: Callable[[Project], Any]
) -> None:
    before = why("home/ann")[1]["base"]["sha256"]
    change(project)
    code, told = why("home/ann")
    assert (code, told["problems"]) == (0, [])
    assert (told["base"]["sha256"], told["base"]["status"]) == (before, "verified")


def test_a_run_whose_files_were_changed_is_told(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project(made)
    monkeypatch.chdir(made)
    run = why("home/bob")[1]["run"]["id"]
    [stored] = (project.private / "mlflow" / "artifacts").glob(f"**/{run}/artifacts/adapter/adapter.safetensors")
    whole = stored.read_bytes()
    spoil(stored)
    try:
        code, told = why("home/bob")
    finally:
        stored.write_bytes(whole)
    assert (code, told["run"]["status"]) == (1, "broken")
    assert "changed after they were recorded" in " ".join(told["problems"])


def test_wrong_names_are_told(project: Project) -> None:
    for wrong in (["home"], ["home/ann/x"], ["home/ann@"], [], ["home/ann", "--all"]):
        assert isinstance(CliRunner().invoke(app, ["adapters", "why", *wrong]).exception, InputError), wrong
    code, told = why("home/ann@9")
    assert code == 1
    assert "home/ann@9: no such version. Registered of home/ann: 1 (challenger, champion)." in told["problems"]
    code, told = why("home/zoe")
    assert (code, "no adapter there" in told["problems"][0]) == (1, True)


def test_two_adapters_side_by_side(project: Project) -> None:
    champion = json.loads(project.evaluation("home").read_text())["users"]["ann"]
    set_params(project, personalize=GOOD)
    compute(project)
    now = json.loads(project.evaluation("home").read_text())["users"]["ann"]
    done = CliRunner().invoke(app, ["adapters", "compare", "home/ann@champion", "home/ann", "--json"])
    found = json.loads(done.output)
    assert found["figures"]["wer"][:2] == [champion["personal"]["wer"], now["personal"]["wer"]]
    assert found["figures"]["wer"][2] == pytest.approx(now["personal"]["wer"] - champion["personal"]["wer"])
    assert found["figures"]["guard_wer"][1] == now["guard"]["personal"]["wer"]
    assert found["settings"] == {"personalize.learning_rate": [0.01, 1e-9], "personalize.steps": [6, 1]}
    assert not found["same"]
    assert [one["version"] for one in found["adapters"]] == ["1", ""]
    table = CliRunner().invoke(app, ["adapters", "compare", "home/ann", "home/bob"]).output
    assert "held_out_sha256" in table
    assert "the error rates do not compare" in table
    same = CliRunner().invoke(app, ["adapters", "compare", "home/bob", "home/bob@champion"]).output
    # bob was trained anew as well: with one step
    assert "personalize.steps" in same
    for wrong in (["base", "home/ann"], ["home/ann", "home/zoe"], ["home/ann@9", "home/ann"]):
        assert isinstance(CliRunner().invoke(app, ["adapters", "compare", *wrong]).exception, InputError), wrong
