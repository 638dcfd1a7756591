"""Personal adapters listed and promoted: the stages' own files and records, a real embedded store, a real server."""

from __future__ import annotations

import getpass
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pipeline.project import Project
from pipeline.runs import evaluate
from pipeline.tracking.registry import Registry, promote, standings
from pipeline.tracking.rollback import Rollback, rollback
from stages.atomic import sha256_file
from stages.errors import InputError, TrackingError
from stages.schema import INDEX, read_table, write_table
from tests.helpers_adapters import (
    FAIR,
    GOOD,
    client_of,
    compute,
    context_of,
    entry,
    set_params,
    tracker_of,
)
from tests.helpers_server import free_port, server

pytestmark = pytest.mark.integration

ANN = "edgealign.home.ann"


@pytest.fixture
def project(untracked: Project, fresh_store: Path) -> Project:
    """A copy of the project with an empty store."""
    (untracked.private / "mlflow").mkdir()
    shutil.copy(fresh_store, untracked.private / "mlflow")
    return untracked


def test_what_is_sent_again_is_no_second_version_and_an_older_one_no_challenger(project: Project) -> None:
    tracker, client = tracker_of(project), client_of(project)
    set_params(project, personalize=GOOD)
    compute(project)  # a second adapter of each user
    waiting = tracker.spool.waiting()
    [early, late] = [
        record
        for record in map(tracker.spool.read, waiting)
        if (record.tags["stage"], record.tags.get("user")) == ("personalize", "ann")
    ]

    def there() -> tuple[list[str], str]:
        versions = client.search_model_versions(f"name = '{ANN}'")
        digests = [item.tags["adapter_sha256"] for item in sorted(versions, key=lambda item: int(item.version))]
        return digests, client.get_model_version_by_alias(ANN, "challenger").tags["adapter_sha256"]

    tracker._open().send(late)
    tracker._open().send(early)
    newest, oldest = late.tags["adapter_sha256"], early.tags["adapter_sha256"]
    assert there() == ([newest, oldest], newest)
    for record in (late, early):
        tracker_of(project)._open().send(record)  # another process, to which nothing was acknowledged
    assert there() == ([newest, oldest], newest)
    assert tracker.send().refused == 0
    assert there() == ([newest, oldest], newest)


def test_what_the_rule_takes_is_registered_with_its_reasons(project: Project) -> None:
    ann, bob, cid = promote(tracker_of(project), "home")
    assert [ann.version, bob.version, cid.version] == ["1", "1", ""]
    assert [list(one.broken) for one in (ann, bob, cid)] == [[], [], ["better"]]
    assert f"{entry(project, 'cid')['base']['wer']:.4f}" in cid.broken["better"]
    client = client_of(project)
    # every adapter that was trained is a version; being champion is told by the alias
    assert {model.name for model in client.search_registered_models()} == {
        ANN,
        *(f"edgealign.home.{u}" for u in ("bob", "cid")),
    }
    assert set(client.get_registered_model("edgealign.home.cid").aliases) == {"challenger"}
    model, version = client.get_registered_model(ANN), client.get_model_version_by_alias(ANN, "champion")
    assert {alias: str(number) for alias, number in model.aliases.items()} == {"champion": "1", "challenger": "1"}
    # what an erasure looks for
    assert {"cohort": "home", "user": "ann"}.items() <= dict(model.tags).items()
    assert {"cohort": "home", "user": "ann"}.items() <= dict(version.tags).items()
    digest = sha256_file(project.adapters("home") / "ann" / "adapter.safetensors")
    found = entry(project, "ann")
    assert float(version.tags["wer"]) == found["personal"]["wer"] < found["base"]["wer"]
    assert float(version.tags["base_wer"]) == found["base"]["wer"]
    assert (version.tags["rule"], version.tags["decision"]) == ("2", "promoted")
    assert {"git_commit", "data_md5", "trained_git_commit", "trained_data_md5", "why"} <= set(version.tags)
    assert version.tags["adapter_sha256"] == digest
    # erasing whoever promoted it must not take this user's version along
    assert getpass.getuser() not in version.tags.values()
    run = client.get_run(version.run_id)
    assert (run.data.tags["stage"], run.data.tags["user"]) == ("personalize", "ann")
    assert version.source == f"{run.info.artifact_uri}/adapter"
    path = client.download_artifacts(version.run_id, "adapter/adapter.safetensors")
    assert sha256_file(Path(path)) == digest
    assert tracker_of(project).spool.waiting() == []  # sent first: the run has to be there

    again = promote(tracker_of(project), "home", "ann")
    assert [one.is_champion for one in again] == [True]
    assert len(client.search_model_versions(f"name = '{ANN}'")) == 1


def test_a_better_one_follows_a_worse_one_does_not_and_moving_the_alias_back_undoes_it(project: Project) -> None:
    client = client_of(project)
    promote(tracker_of(project), "home", "ann")
    fair = (project.adapters("home") / "ann" / "adapter.safetensors").read_bytes()
    set_params(project, personalize=GOOD)
    compute(project)
    [better] = promote(tracker_of(project), "home", "ann")
    assert better.version == "2"
    challengers: list[str] = []

    def aliases() -> dict[str, str]:
        found = {alias: str(version) for alias, version in client.get_registered_model(ANN).aliases.items()}
        challengers.append(found.pop("challenger"))
        return found

    assert aliases() == {"champion": "2", "previous": "1"}
    assert client.get_model_version(ANN, "2").tags["champion_before"] == "1"

    set_params(project, personalize=FAIR)
    compute(project)
    assert (project.adapters("home") / "ann" / "adapter.safetensors").read_bytes() == fair
    [worse] = promote(tracker_of(project), "home", "ann")
    assert list(worse.broken) == ["champion"]
    assert "version 2" in worse.broken["champion"]
    assert aliases() == {"champion": "2", "previous": "1"}

    client.set_registered_model_alias(ANN, "champion", "1")
    [back] = promote(tracker_of(project), "home", "ann")
    assert back.is_champion
    set_params(project, personalize=GOOD)
    compute(project)
    [forth] = promote(tracker_of(project), "home", "ann")
    assert forth.version == "2"  # the same adapter from the same run is not registered twice
    assert aliases() == {"champion": "2", "previous": "1"}

    # a person was erased from whom the champion learned: it holds nobody back
    client.set_model_version_tag(ANN, "2", "retrain", "erasure e-1")
    set_params(project, personalize=FAIR)
    compute(project)
    [instead] = promote(tracker_of(project), "home", "ann")
    assert instead.version == "1"
    assert aliases() == {"champion": "1", "previous": "2"}
    # whatever is champion, the challenger is the one that was trained last
    assert challengers == ["2", "1", "2", "1"]


def test_a_rollback_swaps_the_aliases_and_promote_does_not_undo_it(project: Project) -> None:
    tracker, client = tracker_of(project), client_of(project)
    with pytest.raises(InputError, match="has no champion"):
        rollback(tracker, "home", "ann")
    promote(tracker, "home", "ann")
    with pytest.raises(InputError, match="version 1 is the first champion"):
        rollback(tracker, "home", "ann")
    set_params(project, personalize=GOOD)
    compute(project)
    promote(tracker, "home", "ann")

    def bearers() -> tuple[str, str]:
        aliases = client.get_registered_model(ANN).aliases
        return str(aliases["champion"]), str(aliases["previous"])

    assert rollback(tracker, "home", "ann", dry_run=True) == Rollback("1", "2")
    assert bearers() == ("2", "1")
    client.set_model_version_tag(ANN, "1", "retrain", "erasure e-1")
    with pytest.raises(InputError, match="erasure e-1"):
        rollback(tracker, "home", "ann")
    assert bearers() == ("2", "1")
    client.delete_model_version_tag(ANN, "1", "retrain")
    rollback(tracker, "home", "ann", "it stumbled in the car")
    assert bearers() == ("1", "2")
    assert client.get_model_version(ANN, "2").tags["withdrawn"].endswith("for version 1: it stumbled in the car")
    assert "in place of version 2" in client.get_model_version(ANN, "1").tags["restored"]
    [ann] = promote(tracker, "home", "ann")
    assert "it stumbled in the car" in ann.broken["withdrawn"]
    assert bearers() == ("1", "2")
    [ann] = promote(tracker, "home", "ann", again=True)
    assert (ann.version, bearers()) == ("2", ("2", "1"))
    assert "withdrawn" not in client.get_model_version(ANN, "2").tags


def test_no_old_adapter_stands_in_for_one_whose_training_failed(untracked: Project) -> None:
    folder = untracked.adapters("home")
    before = {user: (folder / user / "adapter.json").read_bytes() for user in ("ann", "bob", "cid")}
    compute(untracked, lost=["home/ann"])
    assert (folder / "ann" / "adapter.json").read_bytes() == before["ann"]  # its key still fits: nothing was to train
    set_params(untracked, personalize=GOOD)
    compute(untracked, lost=["home/ann"])
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["bob", "cid"]
    assert (folder / "bob" / "adapter.json").read_bytes() != before["bob"]
    judged = json.loads(untracked.evaluation("home").read_text(encoding="utf-8"))
    assert sorted(judged["users"]) == ["bob", "cid"]
    compute(untracked)  # tried again, it trains: what was lost does not count as done
    assert entry(untracked, "ann")["adapter_sha256"] != json.loads(before["ann"])["weights_sha256"]


def test_how_many_utterances_the_llm_was_asked_about_is_told(untracked: Project) -> None:
    found = entry(untracked, "ann")
    assert (found["llm_utterances"], found.get("response_kl")) == (0, None)
    set_params(untracked, evaluate={"llm_utterances": 2, "max_new_tokens": 2})
    template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    (untracked.llm / "chat_template.jinja").write_text(template, encoding="utf-8")
    compute(untracked)
    found = entry(untracked, "ann")
    assert found["llm_utterances"] == 2 < found["test_utterances"]
    assert found["response_kl"] is not None


def test_a_dry_run_registers_nothing(project: Project) -> None:
    ann, bob, cid = promote(tracker_of(project), "home", dry_run=True)
    assert [list(one.broken) for one in (ann, bob, cid)] == [[], [], ["better"]]
    assert {ann.version, bob.version} == {""}
    assert {alias for model in client_of(project).search_registered_models() for alias in model.aliases} == {
        "challenger"
    }


def test_an_adapter_that_no_run_carries_is_refused(project: Project) -> None:
    """A second clone that pulled the adapter, with a store of its own."""
    shutil.rmtree(project.private / "spool")
    [ann] = promote(tracker_of(project), "home", "ann")
    assert list(ann.broken) == ["run"]
    assert "tracking.uri" in ann.broken["run"]
    assert client_of(project).search_registered_models() == []


def test_a_run_whose_files_were_changed_is_refused(project: Project) -> None:
    tracker = tracker_of(project)
    assert tracker.send().waiting == 0
    stored = (project.private / "mlflow" / "artifacts").rglob("adapter.safetensors")
    digest = sha256_file(project.adapters("home") / "ann" / "adapter.safetensors")
    [mine] = [path for path in stored if sha256_file(path) == digest]
    content = mine.read_bytes()
    mine.unlink()  # it may be a link to the project's own file
    mine.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    ann, bob, _ = promote(tracker, "home")
    assert list(ann.broken) == ["run"]
    assert "not these" in ann.broken["run"].replace("\n", " ")
    assert bob.version == "1"


def test_the_command_line(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.cli import app

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["adapters", *arguments])

    monkeypatch.chdir(project.root)
    monkeypatch.setenv("COLUMNS", "200")
    refused = run("promote", "home/cid")
    assert refused.exit_code == 1
    assert "home/cid: refused\n  better: WER" in refused.output
    trial = run("promote", "home/ann", "--dry-run")
    assert (trial.exit_code, "would be promoted" in trial.output) == (0, True)
    assert "home/ann: promoted, version 1 is the champion" in run("promote", "home/ann").output
    everybody = run("promote", "--all", "home")
    assert everybody.exit_code == 0
    assert "home/ann: is the champion already (version 1)" in everybody.output
    assert "home/bob: promoted" in everybody.output
    assert "2 of 3 adapters are champions." in everybody.output

    listed = json.loads(run("list", "--json").output)
    assert [(one["user"], one["champion"], one["may_be_promoted"]) for one in listed] == [
        ("ann", True, False),
        ("bob", True, False),
        ("cid", False, False),
    ]
    figures = entry(project, "ann")
    assert (listed[0]["base_wer"], listed[0]["wer"]) == (figures["base"]["wer"], figures["personal"]["wer"])
    assert listed[0]["adapter_bytes"] == (project.adapters("home") / "ann" / "adapter.safetensors").stat().st_size
    table = run("list").output
    [row] = [line for line in table.splitlines() if line.split()[:1] == ["home/ann"]]
    assert f"{figures['base']['wer']:.3f}" in row
    assert "is champion" in row
    assert "no: better: WER" in table
    for wrong in ([], ["home"], ["home/"], ["home/ann", "--all", "home"], ["home/zoe"], ["--all", "far"]):
        failed = run("promote", *wrong)
        assert isinstance(failed.exception, InputError), wrong
    assert "home/ann, home/bob, home/cid" in str(run("promote", "home/zoe").exception)


def test_listing_makes_no_store(untracked: Project) -> None:
    found = standings(tracker_of(untracked), ["home"])
    assert [(one.candidate.user, list(one.broken)) for one in found] == [("ann", []), ("bob", []), ("cid", ["better"])]
    assert not (untracked.private / "mlflow").exists()


def test_a_server_keeps_the_champions_and_one_that_is_away_is_told(untracked: Project, tmp_path: Path) -> None:
    port = free_port()
    set_params(untracked, tracking={"uri": f"http://127.0.0.1:{port}", "experiment": "team/speech"})
    for call in (lambda t: promote(t, "home"), lambda t: standings(t, ["home"])):
        with pytest.raises(TrackingError, match=str(port)):
            call(tracker_of(untracked))
    with server(tmp_path, port):
        ann, bob, cid = promote(tracker_of(untracked), "home")  # the spool went out first
        assert [ann.version, bob.version, cid.version] == ["1", "1", ""]
        champions = Registry(tracker_of(untracked)).champions("home")
        assert {user: one.version for user, one in champions.items()} == {"ann": "1", "bob": "1"}
        version = client_of(untracked).get_model_version_by_alias("team-speech.home.ann", "champion")
        path = client_of(untracked).download_artifacts(version.run_id, "adapter/adapter.safetensors")
        assert sha256_file(Path(path)) == ann.candidate.file_sha256


def test_a_port_that_nobody_listens_at_is_told_at_once(untracked: Project) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        set_params(untracked, tracking={"uri": f"http://127.0.0.1:{probe.getsockname()[1]}"})
        with pytest.raises(TrackingError, match="Connection refused"):
            standings(tracker_of(untracked), ["home"])


def test_who_speaks_another_language_is_judged_in_it_and_english_figures_stand(untracked: Project) -> None:
    context, folder = context_of(untracked), untracked.cohort("home")

    def keys(language: str) -> tuple[dict[str, str], set[str]]:
        for path in folder.glob("index-*.parquet"):
            table = read_table(path, INDEX)
            column = pa.array([language] * len(table), pa.string())
            table = table.set_column(table.column_names.index("language"), "language", column)
            write_table(table, path)
        folders, held_out = evaluate._held_out(context, "home")
        spoken = {item.language for items in held_out.values() for item in items}
        return evaluate._keys(context, folders, held_out, []), spoken

    told = json.loads(untracked.evaluation("home").read_text(encoding="utf-8"))["users"]
    judged = {user: found["key"] for user, found in told.items()}
    assert keys("en") == (judged, {"en"})
    assert keys("en-GB")[0] == judged
    changed, spoken = keys("de")
    assert spoken == {"de"} and not set(changed.values()) & set(judged.values())
