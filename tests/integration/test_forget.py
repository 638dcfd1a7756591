"""What `edgealign cohort forget` leaves on a whole project: every byte searched, the others' things compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.settings import load_settings
from pipeline.words import word_lists
from stages.atomic import sha256_file
from tests.helpers_erasure import COHORTS, SLUG, World, utterances_of
from tests.helpers_forget import Outcome, check_forgotten, forget, others, runs_of
from tests.helpers_traces import Traces, search

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def test_every_trace_is_there_before(world: World, traces: Traces) -> None:
    """The search finds what it is meant to find, in every kind of place; or the tests below would show nothing."""
    found = search(world.folder, traces)
    for place in (
        "project/data/",
        "project/artifacts/features/home",
        "project/artifacts/transcripts",
        "project/artifacts/labels",
        "project/artifacts/read_outs/home",
        "project/artifacts/second_labels",
        "project/artifacts/adapters/base",
        f"project/artifacts/adapters/home/{SLUG}",
        "project/artifacts/evaluations",
        "project/plots",
        "project/.dvc/cache/files/md5",
        "remote/files/md5",
        "project/.edgealign/mlflow/mlflow.db",
        "project/.edgealign/mlflow/artifacts",
        "project/.edgealign/spool",
        "project/.edgealign/quarantine",
        "project/.edgealign/replay",
        "project/.edgealign/incoming",
        "project/.edgealign/examples",
        "project/.edgealign/words/home",
        "xdg/",
        "site/",
    ):
        assert any(item.startswith(place) for item in found), place
    assert not any(item.startswith("project/.git/") for item in found), "git must never learn a name"


def test_nothing_is_left_of_the_person_and_everything_of_the_others(
    forgotten: World, traces: Traces, after: tuple[dict[str, Any], Outcome, Path]
) -> None:
    before, result, _ = after
    assert result.left == [], result.said
    assert result.found
    check_forgotten(forgotten, traces, before)
    project = forgotten.project
    settings = load_settings(project.root)
    assert (settings.cohorts, settings.personal_cohorts) == (["home", "far"], ["home", "far"])
    quarantine = (project.private / "quarantine" / "home.csv").read_text(encoding="utf-8")
    assert quarantine == "item,reason\nann/9.wav,silent\n"
    assert [(one.owner, one.read()) for one in word_lists(project)] == [
        ("everyone", ["ottavia"]),
        ("home/ann", ["bjorn"]),
    ]
    assert (project.private / "replay" / "home" / "ann" / "buffer.json").is_file()
    assert "zebulon" in (project.llm / "tokenizer.json").read_text(encoding="utf-8")
    evaluation = json.loads(project.evaluation("home").read_text(encoding="utf-8"))
    assert sorted(evaluation["users"]) == ["ann", "bob", "zoe"]
    assert "ann" in (project.plots / "report.html").read_text(encoding="utf-8")


def test_dvc_computes_nothing_of_the_others_again(forgotten: World) -> None:
    status = json.loads(forgotten.dvc("status", "--json"))
    # base_inputs finds out that recordings of the base went, so that `dvc repro` trains it again; the report has a cohort less
    assert set(status) == {"base_inputs", "report"}
    assert forgotten.dvc("status", "--cloud").strip().endswith("in sync.")


def test_a_second_clone_gets_the_others(
    forgotten: World, traces: Traces, after: tuple[dict[str, Any], Outcome, Path]
) -> None:
    forgotten.run("git", "add", "--all")
    user = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    forgotten.run("git", *user, "commit", "--quiet", "-m", "One user less")
    clone = World(forgotten.folder / "second")
    clone.folder.mkdir()
    forgotten.run("git", "clone", "--quiet", str(forgotten.project.root), str(clone.project.root))
    store = str(forgotten.folder / "remote")
    forgotten.dvc("remote", "modify", "--local", "store", "url", store, cwd=clone.project.root)
    forgotten.dvc("pull", "--quiet", cwd=clone.project.root)
    assert others(clone) == after[0]
    assert search(clone.folder, traces) == []


def test_another_clone_is_cleaned_by_the_same_command(world: World, traces: Traces) -> None:
    """Its cache has the old objects; what was erased once has one proof, or two clones would disagree about data.dvc."""
    clone = World(world.folder / "second")
    clone.folder.mkdir()
    world.run("git", "clone", "--quiet", str(world.project.root), str(clone.project.root))
    store = str(world.folder / "remote")
    clone.dvc("remote", "modify", "--local", "store", "url", store)
    clone.dvc("pull", "--quiet")
    first = forget(world)
    world.run("git", "add", "--all")
    world.run("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "-m", "One user less")
    clone.run("git", "pull", "--quiet")
    assert search(clone.folder, traces)
    with pytest.raises(AssertionError, match=r"data/ is not what data\.dvc says"):
        forget(clone)
    clone.dvc("pull", "--quiet", "--force")
    again = forget(clone)
    assert (again.left, again.erasure) == ([], first.erasure)
    assert search(clone.folder, traces) == []
    assert clone.run("git", "status", "--porcelain").stdout == ""


def test_the_proof_tells_what_was_done_and_nobodys_name(
    forgotten: World, after: tuple[dict[str, Any], Outcome, Path]
) -> None:
    from pipeline.cohorts.erasure.tombstones import erased_recordings, retrain_notice

    project = forgotten.project
    [proof] = (project.root / "data" / "erasures").glob("*.json")
    content = json.loads(proof.read_text(encoding="utf-8"))
    assert proof.stem == after[1].erasure
    assert content["verification"]["places_left"] == 0
    assert content["erased"]["recordings"] == 28  # 14 today, 14 in the older version
    assert content["objects"]
    assert content["runs"]
    refused = erased_recordings(project)
    for cohort, users in COHORTS.items():
        for take in (0, 1):
            for item in utterances_of(cohort, SLUG, users[SLUG], take):
                assert refused[item.source_sha256] == after[1].erasure
                assert refused[item.audio_sha256] == after[1].erasure
        for user in set(users) - {SLUG}:
            assert not refused.keys() & {item.source_sha256 for item in utterances_of(cohort, user, users[user], 1)}
    notice = retrain_notice(project)
    assert [line.partition(":")[0] for line in notice] == ["base", "far/carol", "home/ann", "home/bob", "home/zoe"]
    base = sha256_file(project.base_adapter / "adapter.safetensors")
    assert {"sha256": base, "kind": "base"} in content["retrain"]


def test_mlflow_keeps_the_others_and_marks_what_learned_from_the_person(forgotten: World) -> None:
    found = runs_of(forgotten)
    users = {(run["tags"]["cohort"], run["tags"]["user"]): run for run in found["runs"] if run["tags"].get("user")}
    assert sorted(users) == [("far", "carol"), ("home", "ann"), ("home", "bob"), ("home", "zoe")]
    ann = users["home", "ann"]
    assert ann["tags"]["retrain"].startswith("erasure ")
    assert ann["losses"] == 50
    assert set(ann["files"]) >= {"adapter/adapter.json", "adapter/adapter.safetensors", "adapter/MLmodel"}
    [base] = [run for run in found["runs"] if run["tags"]["stage"] == "base"]
    assert base["tags"]["retrain"].startswith("erasure ")
    names = json.loads(base["files"]["adapter/adapter.json"])["train_utterances"]
    assert sum(name.startswith(("ann-", "bob-", "zoe-")) for name in names) == len(names) > 8
    others = ("base", "far.carol", "home.ann", "home.bob", "home.zoe")
    assert sorted(found["models"]) == [f"edgealign.{name}" for name in others]
