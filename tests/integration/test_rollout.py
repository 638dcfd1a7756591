"""Roll-out by alias against a real MLflow server: checked, judged on the device, canaries first, halted where it got worse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from jetson_agent.canary import DEVICE, GUARD, HALTED, SHARE, devices_of, first, verdicts
from jetson_agent.cli import app
from jetson_agent.rollout import Sent, push
from jetson_agent.update import adapt
from pipeline.cli import app as edgealign
from pipeline.cohorts.erasure.person import Person
from pipeline.cohorts.erasure.state import Erasure
from pipeline.cohorts.erasure.tracking import TrackingStore, erase, look
from pipeline.project import Project
from stages.alignment.adapter import load_base, load_personal, read_record, save_base
from stages.errors import InputError, TrackingError
from tests.helpers_adapters import set_params
from tests.helpers_cohorts import make_project
from tests.helpers_rollout import World, changed, copies, correct, follow, in_use, make_home, publish, run, tiny_models
from tests.helpers_server import ROOT, free_port, plain_environment, server

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("rollout")
    models = tiny_models(folder / "models")
    teacher = make_home(folder / "teacher", models)
    correct(teacher)
    assert adapt(teacher).taken
    version = teacher.shelf.current()
    assert version is not None
    (folder / "place").mkdir()
    with server(folder, free_port()) as uri:
        found = World(uri, folder, models, version.folder, folder / "place")
        found.publish("teacher", alias="")  # the project is recorded there
        yield found


def test_a_device_takes_the_champion_once(world: World, tmp_path: Path) -> None:
    version = world.publish("ann")
    home = world.device(tmp_path, "ann")
    before = sorted(path for path in home.folder.rglob("*"))
    done, told = run(home, dry_run=True)
    assert done and f"would check and judge version {version}" in told
    assert sorted(path for path in home.folder.rglob("*") if path.name != ".adapt.lock") == before
    assert not [tag for tag in world.tags("ann", version) if tag.startswith(GUARD)]

    done, told = run(home)
    assert done and f"version {version} taken" in told
    tags = world.tags("ann", version)
    assert in_use(home) == tags["adapter_sha256"]
    verdict = verdicts(tags)["kitchen-1"]
    assert verdict["verdict"] == "passed"
    assert verdict["wer"]["after"]["own"] < verdict["wer"]["before"]["own"]
    model = world.client.get_registered_model("edgealign.home.ann")
    assert json.loads(model.tags[DEVICE + "kitchen-1"])["version"] == version

    events = home.shelf.history()
    world.client.set_registered_model_tag(model.name, DEVICE + "kitchen-1", '{"when": "2020-01-01T00:00:00+00:00"}')
    done, told = run(home)
    assert done and told == f"version {version} is in use: nothing to do"
    assert home.shelf.history() == events
    assert "kitchen-1" in devices_of(dict(world.client.get_registered_model(model.name).tags))  # not gone: it pulls

    home.shelf.rollback("stumbles")  # by its user, who is not overruled
    assert "--again" in run(home)[1]
    assert in_use(home) is None
    assert run(home, again=True)[0] and in_use(home) == tags["adapter_sha256"]


def test_what_is_not_what_was_registered_is_refused(world: World, tmp_path: Path) -> None:
    first_version = world.publish("bob", 0.9)
    home = world.device(tmp_path, "bob")
    assert run(home)[0]
    used = in_use(home)
    assert used == world.tags("bob", first_version)["adapter_sha256"]

    def refused(match: str) -> None:
        with pytest.raises(InputError, match=match):
            run(home)
        assert in_use(home) == used
        assert not list(home.own.glob("edgealign-pull-*"))

    world.publish("bob", 1.0, base_sha256="0" * 64)
    refused("made for the base 000000000000, this device has")
    wrong = changed(world.good, tmp_path / "wrong", 1.1, user="eve")
    publish(world.uri, wrong, "bob", place=tmp_path / "wrong-project")
    refused("adapter of home/eve, this is the device of home/bob")
    tampered = world.publish("bob", 1.2)
    source = world.client.get_model_version("edgealign.home.bob", tampered).source
    [path] = (world.folder / "server").glob(f"**/{source.partition(':')[2].strip('/')}/adapter.safetensors")
    path.write_bytes(path.read_bytes()[:-2] + b"\0\0")
    refused("its weights have the hash .*, its adapter.json says")
    world.client.set_model_version_tag("edgealign.home.bob", tampered, "retrain", "erasure e-1")
    refused("erased")
    world.client.delete_registered_model_alias("edgealign.home.bob", "champion")
    refused("bears no alias 'champion'; there is: challenger")
    assert not [event for event in home.shelf.history() if event.what == "refused"]

    stranger = world.device(tmp_path, "cid", "hall-1")
    done = CliRunner().invoke(app, ["pull", "--home", str(stranger.folder)])
    assert done.exit_code == 1 and "no registered model edgealign.home.cid" in str(done.exception)
    follow(stranger, f"http://127.0.0.1:{free_port()}", "hall-1")
    with pytest.raises(TrackingError, match="Connection refused"):
        run(stranger)
    follow(stranger, world.uri, "cid-hall")
    with pytest.raises(InputError, match="names its user"):
        run(stranger)


def test_where_the_guard_gets_worse_the_fleet_halts_and_goes_back(world: World, tmp_path: Path) -> None:
    fair = world.publish("dan")
    trusting = world.device(tmp_path, "dan", "t-1", tolerance=100.0, guard_tolerance=100.0, share=1.0)
    [careful, third] = copies(follow(world.device(tmp_path, "dan", "t-0"), world.uri, "t-0", share=1.0), ["t-2", "t-3"])
    assert all(run(home)[0] for home in (trusting, careful, third))
    used = in_use(careful)
    bad = world.publish("dan", -6.0)
    assert run(trusting)[0]
    assert in_use(trusting) == world.tags("dan", bad)["adapter_sha256"] != used

    done = CliRunner().invoke(app, ["pull", "--home", str(careful.folder)])
    assert done.exit_code == 1 and f"version {bad} refused: worse than what is in use" in done.output
    assert in_use(careful) == used and careful.shelf.history()[-1].what == "refused"
    tags = world.tags("dan", bad)
    assert verdicts(tags)["t-2"]["verdict"] == "failed"
    assert "t-2" in tags[HALTED]

    done_, told = run(third)
    assert done_ and "is halted" in told and in_use(third) == used
    done_, told = run(trusting)
    assert done_ and f"left version {bad} (halted" in told and in_use(trusting) == used
    assert run(trusting)[0] and in_use(trusting) == used  # and stays there
    model = world.client.get_registered_model("edgealign.home.dan")
    assert json.loads(model.tags[DEVICE + "t-1"])["version"] == fair


def test_a_version_that_later_corrections_show_to_be_worse_is_left_and_halted(world: World, tmp_path: Path) -> None:
    good = world.publish("lea")
    home = follow(
        make_home(tmp_path / "agent", replace(world.models, user="lea")), world.uri, "t-1", guard_tolerance=100.0
    )
    assert run(home)[0]
    used = in_use(home)
    correct(home, 8)
    assert f"version {good} stays, judged again" in run(home)[1]
    assert f"version {good} is in use: nothing to do" in run(home)[1]
    events = home.shelf.history()
    assert [event.what for event in events] == ["taken", "judged"]
    assert verdicts(world.tags("lea", good))["t-1"]["judged"]["own"] == events[1].figures["judged"]["own"] >= 3

    for path in home.replay.folder.glob("*.safetensors"):
        path.unlink()  # nothing judges the next one
    bad = world.publish("lea", -6.0)
    assert run(home)[0] and in_use(home) == world.tags("lea", bad)["adapter_sha256"]
    correct(home)
    done, told = run(home)
    assert not done and f"version {bad} left, judged again: worse than what is in use" in told
    assert in_use(home) == used
    assert "t-1" in world.tags("lea", bad)[HALTED] and verdicts(world.tags("lea", bad))["t-1"]["verdict"] == "failed"
    assert run(home)[0] and in_use(home) == used


def test_where_the_power_fails_after_the_swap_the_verdict_goes_out_later(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = world.publish("eli")
    home = world.device(tmp_path, "eli")
    with monkeypatch.context() as cut:
        cut.setattr("jetson_agent.rollout.push", lambda *arguments: Sent(0, 0, 0))
        assert run(home)[0]
    taken = in_use(home)
    assert taken is not None and not verdicts(world.tags("eli", version))
    told = run(home)[1]
    assert "told the registry 1 thing(s)" in told and f"version {version} is in use" in told
    assert verdicts(world.tags("eli", version))["kitchen-1"]["verdict"] == "passed"
    assert in_use(home) == taken


def test_of_five_devices_the_canaries_go_first(world: World, tmp_path: Path) -> None:
    world.publish("fay", 0.9)
    names = [f"room-{number}" for number in range(5)]
    fleet = dict(zip(names, copies(world.device(tmp_path, "fay", "template", share=1.0), names), strict=True))
    for home in fleet.values():
        assert run(home)[0]
    old = in_use(fleet["room-0"])
    version = world.publish("fay")
    world.client.set_model_version_tag("edgealign.home.fay", version, SHARE, "0.4")
    canaries = first(names, f"edgealign.home.fay@{version}", 0.4)
    assert 0 < len(canaries) < 5
    rest = [name for name in names if name not in canaries]
    for name in rest:
        assert f"version {version} waits: 0 device(s) passed it" in run(fleet[name])[1]
        assert in_use(fleet[name]) == old
    for name in canaries:
        assert "taken" in run(fleet[name])[1]
    for name in rest:
        assert "taken" in run(fleet[name])[1]
    assert {in_use(home) for home in fleet.values()} == {world.tags("fay", version)["adapter_sha256"]}
    assert {said["verdict"] for said in verdicts(world.tags("fay", version)).values()} == {"passed"}


def test_the_head_sees_each_device_and_sets_share_and_halt(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path / "project")
    set_params(project, tracking={"uri": world.uri})
    monkeypatch.chdir(project.root)

    def head(*options: str) -> dict[str, Any]:
        done = CliRunner().invoke(edgealign, ["adapters", "rollout", "home/hal", "--json", *options])
        assert done.exit_code == 0, done.output + str(done.exception)
        found: dict[str, Any] = json.loads(done.output)
        return found

    version = world.publish("hal")
    assert head() == {
        "adapter": "home/hal",
        "version": version,
        "aliases": ["challenger", "champion"],
        "share": None,
        "halted": None,
        "devices": [],
    }
    home = world.device(tmp_path, "hal")
    assert head("--halt", "hisses in the car")["halted"].endswith(": hisses in the car")
    assert "is halted" in run(home)[1] and in_use(home) is None
    [device] = head()["devices"]
    assert (device["device"], device["in_use"], device["verdict"]) == ("kitchen-1", None, None)
    told = head("--resume", "--share", "0.5")
    assert told["halted"] is None and told["share"] == 0.5
    assert run(home)[0] and in_use(home) is not None
    [device] = head()["devices"]
    assert (device["in_use"], device["verdict"], device["canary"]) == (version, "passed", True)
    assert device["wer"]["after"]["own"] < device["wer"]["before"]["own"]
    table = CliRunner().invoke(edgealign, ["adapters", "rollout", "home/hal"])
    assert table.exit_code == 0 and "kitchen-1" in table.output and "passed" in table.output
    head("--halt", "hisses")
    assert "left version" in run(home)[1] and in_use(home) is None
    head("--resume")
    assert run(home)[0] and in_use(home) is not None  # it was left for its halt alone
    world.client.set_registered_model_tag("edgealign.home.hal", DEVICE + "old", '{"when": "2020-01-01"}')
    assert [device["canary"] for device in head("--share", "1")["devices"]] == [True, False]  # shown, but gone
    for wrong in (["--share", "1.5"], ["--halt", "x", "--resume"]):
        assert CliRunner().invoke(edgealign, ["adapters", "rollout", "home/hal", *wrong]).exit_code == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from jetson_agent.home import Home
from jetson_agent.outbox import Outbox
from jetson_agent.rollout import push
remove, left = Outbox._remove, [int(sys.argv[2])]

def killed(self, folder):  # the registry has it; the device does not know
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    remove(self, folder)

Outbox._remove = killed
home = Home.open(Path(sys.argv[1]))
push(home, home.rollout)
"""


def test_days_without_a_network_are_told_in_order_and_once(world: World, tmp_path: Path) -> None:
    home = world.device(tmp_path, "gil")
    follow(home, f"http://127.0.0.1:{free_port()}", "kitchen-1")
    adapt(home)
    correct(home, 40, seed=8)
    adapt(home)
    from jetson_agent.journal import roll_back

    roll_back(home, "tried")
    sent = push(home, home.rollout)
    kinds = [item.entry.kind for item in home.outbox.waiting()]
    assert sent.problem and (sent.told, sent.waiting) == (0, len(kinds))
    assert kinds[:2] == ["update", "adapter"] and kinds[-1] == "update" and len(kinds) in (4, 5)
    status = json.loads(CliRunner().invoke(app, ["status", "--home", str(home.folder)]).output)
    assert status["outbox"]["entries"] == len(kinds) and status["outbox"]["bytes"] > 1000

    follow(home, world.uri, "kitchen-1")
    environment = plain_environment(**{key: os.environ[key] for key in ("HOME",) if key in os.environ})
    for done in ("0", "1", "0"):  # cut off after the server's answer: at the update, then twice at its adapter
        child = subprocess.run([sys.executable, "-c", KILLED, str(home.folder), done], env=environment, cwd=ROOT)
        assert child.returncode == -signal.SIGKILL
    sent = push(home, home.rollout)
    assert (sent.told, sent.waiting, sent.problem) == (len(kinds) - 1, 0, "")
    assert push(home, home.rollout).told == 0

    events = home.shelf.history()
    experiment = world.client.get_experiment_by_name("edgealign").experiment_id
    runs = world.client.search_runs([experiment], "tags.user = 'gil'", order_by=["end_time ASC"])
    assert [run.data.tags["what"] for run in runs] == [event.what for event in events]
    assert [run.info.end_time for run in runs] == [int(event.when * 1000) for event in events]
    assert runs[0].data.metrics["wer.after.own"] == events[0].figures["wer"]["after"]["own"]
    assert runs[0].data.metrics["corrections"] == 30
    history = world.client.get_metric_history(runs[0].info.run_id, "wer.after.own")
    assert len(history) == 1
    found = sorted(
        world.client.search_model_versions("name = 'edgealign.home.gil'"), key=lambda item: int(item.version)
    )
    assert len(found) == kinds.count("adapter")
    assert [item.run_id for item in found] == [run.info.run_id for run in runs if run.data.tags["what"] == "taken"]
    assert {item.tags["source"] for item in found} == {"device"}
    assert dict(world.client.get_registered_model("edgealign.home.gil").aliases or {}) == {}
    path = Path(world.client.download_artifacts(found[0].run_id, "adapter/adapter.json", str(tmp_path)))
    assert json.loads(path.read_text())["train_utterances"] == []  # names of recordings stay on the device

    # an erasure on the head finds what devices told, and a device that comes back does not bring the person back
    project = Project(tmp_path / "erasing")
    project.private.mkdir(parents=True)
    erasure = Erasure(project, "e-1", "2026-11-23", None, Person("gil", {"home": "gil"}), ["home"])
    store = TrackingStore(world.uri, None, None)
    seen = look(store, erasure)
    assert {run.info.run_id for run in runs} <= set(seen.runs) and "edgealign.home.gil" in seen.models
    erase(store, erasure, seen)
    assert look(store, erasure, finished=True).places("") == []
    adapt(home)
    sent = push(home, home.rollout)
    assert sent.told == 0 and sent.waiting > 0 and "edgealign-agent forget home/gil" in sent.problem
    home.forget("gil")
    assert push(home, home.rollout).problem == ""


def test_a_new_base_comes_with_its_users_adapter_canaries_first(world: World, tmp_path: Path) -> None:
    """Last: the base's registered model is shared by all users."""
    place = tmp_path / "publish"
    base = read_record(world.models.base)
    old = publish(world.uri, world.models.base, None, alias="", place=place)
    world.publish("ida", 0.9)
    names = [f"desk-{number}" for number in range(3)]
    fleet = dict(zip(names, copies(world.device(tmp_path, "ida", "template", share=1.0), names), strict=True))
    for home in fleet.values():
        assert run(home)[0]  # the base bears no alias: nobody follows it
        assert home.device.base == world.models.base

    better, made = tmp_path / "better", tmp_path / "made"
    bridge, _, record = load_base(world.models.base)
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.mul_(1.001)
    save_base(better, bridge, record)
    new = publish(world.uri, better, None, place=place)
    key = {"base_sha256": record.weights_sha256}
    assert record.weights_sha256 != base.weights_sha256
    version_of_old = in_use(fleet["desk-0"])
    told = run(fleet["desk-0"])[1]
    assert f"base version {new} waits: its user has no adapter for it" in told
    version = publish(world.uri, changed(world.good, made, 1.0, user="ida", **key), "ida", place=place)
    world.client.set_model_version_tag("edgealign.base", new, SHARE, "0.01")
    [canary] = first(names, f"edgealign.base@{new}", 0.01)
    rest = [name for name in names if name != canary]
    world.client.set_registered_model_tag("edgealign.base", DEVICE + canary, "{}")
    for name in rest:
        told = run(fleet[name])[1]
        assert (
            f"base version {new} waits: 0 device(s) passed it" in told
            and f"version {version} waits for its base" in told
        )
    told = run(fleet[canary], dry_run=True)[1]
    assert f"would check and judge base version {new}" in told
    told = run(fleet[canary])[1]
    assert f"base version {new} taken with version {version} of the user's adapter" in told
    home = fleet[canary]
    device, shelf = home.in_use()
    current = shelf.current()
    assert current is not None
    load_personal(current.folder, device.base)  # fit each other
    assert read_record(device.base).weights_sha256 == record.weights_sha256
    assert verdicts(dict(world.client.get_model_version("edgealign.base", new).tags))[canary]["verdict"] == "passed"
    assert adapt(home).figures["utterances"] > 0  # learning goes on, on the new base
    assert "is in use" in run(home)[1] or "came after it" in run(home)[1]

    assert "taken" in run(fleet[rest[0]])[1]
    follow(fleet[rest[1]], world.uri, rest[1], tolerance=0.0)
    world.client.set_model_version_tag("edgealign.base", new, HALTED, "hisses")
    assert f"base version {new} is halted: hisses" in run(fleet[rest[1]])[1]
    for name in (canary, rest[0]):
        assert f"left base version {new} (halted: hisses)" in run(fleet[name])[1]
        assert fleet[name].device.base == world.models.base and in_use(fleet[name]) == version_of_old
    world.client.delete_registered_model_alias("edgealign.base", "champion")
    assert old != new
