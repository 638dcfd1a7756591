"""Who takes a version first: the same on every device, about the share of them, and never nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jetson_agent.canary import (
    DEVICE,
    GONE_AFTER_S,
    GUARD,
    HALTED,
    SHARE,
    all_devices_of,
    decide,
    devices_of,
    first,
    halted,
    place,
    share_of,
    verdicts,
)
from jetson_agent.home import Home
from jetson_agent.registry import iso
from jetson_agent.settings import RolloutSettings, read_settings
from stages.errors import SettingsError

FLEET = [f"device-{number}" for number in range(200)]


def said(**verdict: str) -> dict[str, str]:
    return {GUARD + device: json.dumps({"verdict": word}) for device, word in verdict.items()}


def test_the_share_goes_first_and_each_version_has_its_own_canaries() -> None:
    for share in (0.1, 0.4, 0.8):
        assert abs(len(first(FLEET, "m@3", share)) / len(FLEET) - share) < 0.1
    assert first(FLEET, "m@3", 0.2) <= first(FLEET, "m@3", 0.3)
    assert first(FLEET, "m@3", 0.2) != first(FLEET, "m@4", 0.2)
    assert first(reversed(FLEET), "m@3", 0.2) == first(FLEET, "m@3", 0.2)  # type: ignore[arg-type]
    assert first(FLEET, "m@3", 1.0) == set(FLEET)
    assert len(first(FLEET, "m@3", 1e-9)) == 1  # a share that nobody is below would wait for ever
    assert first([], "m@3", 0.5) == set()
    assert decide("alone", "m@3", {}, [], 0.01, 1.0).what == "take"


def test_others_wait_for_enough_that_passed_and_nobody_that_failed() -> None:
    canaries = sorted(first(FLEET, "m@3", 0.05))
    other = next(device for device in FLEET if device not in canaries)

    def decision(device: str, tags: dict[str, str]) -> str:
        return decide(device, "m@3", tags, FLEET, 0.05, 0.5).what

    assert decision(canaries[0], {}) == "take"
    needed = -(-len(canaries) // 2)
    enough = dict.fromkeys(canaries[:needed], "passed")
    assert decision(other, said(**dict(list(enough.items())[1:]))) == "wait"
    few = dict(list(enough.items())[2:])
    assert decision(other, said(**few, **{canaries[0]: "unjudged"})) == "wait"
    assert decision(other, said(**enough)) == "take"
    for failed in (said(**enough, other="failed"), {HALTED: "it stumbles", **said(**enough)}):
        assert decision(other, failed) == decision(canaries[0], failed) == "halted"
    assert halted({HALTED: "it stumbles"}) == "it stumbles"
    assert "other" in halted(said(other="failed"))


def test_nobody_waits_for_a_device_that_is_gone() -> None:
    now = 1.8e9
    when = {"here": iso(now - 3600), "away": iso(now - GONE_AFTER_S + 60), "gone": iso(now - GONE_AFTER_S - 60)}
    when |= {"ahead": iso(now + 1e6), "typed": "soon", "zoneless": iso(now)[:19]}
    tags = {DEVICE + device: json.dumps({"version": "1", "when": told}) for device, told in when.items()}
    tags |= {DEVICE + "silent": "{}", DEVICE + "broken": "x", "made_for": "{}"}
    assert set(all_devices_of(tags)) - set(devices_of(tags, now)) == {"gone"}

    mine = sorted(["desk", "car", "phone"], key=lambda device: place(device, "m@3"))
    tags = {DEVICE + device: json.dumps({"when": iso(now)}) for device in mine}
    assert decide(mine[1], "m@3", {}, devices_of(tags, now), 1e-9, 0.5).what == "wait"
    tags[DEVICE + mine[0]] = json.dumps({"when": iso(now - GONE_AFTER_S - 60)})
    assert decide(mine[1], "m@3", {}, devices_of(tags, now), 1e-9, 0.5).what == "take"
    assert decide(mine[2], "m@3", {}, devices_of(tags, now), 1e-9, 0.5).what == "wait"


def test_where_the_first_cannot_judge_the_next_in_the_order_tries_and_the_others_wait_for_it() -> None:
    mine = sorted(FLEET[:5], key=lambda device: place(device, "m@3"))

    def decisions(tags: dict[str, str]) -> list[str]:
        return [decide(device, "m@3", tags, mine, 1e-9, 0.5).what for device in mine[1:]]

    assert decisions({}) == ["wait"] * 4
    assert decisions(said(**{mine[0]: "unjudged"})) == ["take", "wait", "wait", "wait"]
    assert decisions({GUARD + mine[0]: "{}"}) == ["take", "wait", "wait", "wait"]
    assert decisions(said(**{mine[0]: "unjudged", mine[1]: "failed"})) == ["halted"] * 4
    assert decisions(said(**{mine[0]: "unjudged", mine[1]: "passed"})) == ["take"] * 4
    unjudged: dict[str, str] = {}
    for device in mine:  # nobody can judge: all come to it, one after the other
        assert decide(device, "m@3", said(**unjudged), mine, 1e-9, 0.5).what == "take"
        unjudged[device] = "unjudged"


def test_who_cannot_judge_counts_not_towards_those_that_must_pass_and_the_awaited_are_named() -> None:
    canaries = sorted(first(FLEET, "m@3", 0.05))
    other = next(device for device in FLEET if device not in canaries)
    assert len(canaries) > 3
    able = canaries[-3:]
    tags = said(**dict.fromkeys(canaries[:-3], "unjudged"), **{able[0]: "passed"})
    decision = decide(other, "m@3", tags, FLEET, 0.05, 0.5)
    assert decision.what == "wait"
    assert f"1 device(s) passed it, 2 needed; awaited: {able[1]}, {able[2]} " in decision.why
    assert decide(other, "m@3", {**tags, **said(**{able[1]: "passed"})}, FLEET, 0.05, 0.5).what == "take"


def test_tags_that_somebody_mistyped_decide_nothing() -> None:
    assert share_of({SHARE: "half"}, 0.3) == share_of({SHARE: "7"}, 0.3) == share_of({}, 0.3) == 0.3
    assert share_of({SHARE: "0.25"}, 0.3) == 0.25
    assert verdicts({GUARD + "x": "passed", GUARD + "y": "[1]"}) == {
        "x": {"verdict": "unjudged"},
        "y": {"verdict": "unjudged"},
    }


def test_settings_refuse_what_they_do_not_know(tmp_path: Path) -> None:
    path = tmp_path / "rollout.json"
    for content, told in (
        ('{"share": 0}', "share: .*greater than 0"),
        ('{"share": "0.2"}', "share: .*number"),
        ('{"device": "ann\'s"}', "device: .*pattern"),
        ('{"server": "host:5000"}', "server: .*http"),
        ('{"server": "http://ann:secret@host"}', "MLFLOW_TRACKING_USERNAME"),
        ('{"aliases": "champion"}', "aliases: .*not permitted"),
    ):
        path.write_text(content)
        with pytest.raises(SettingsError, match=told):
            read_settings(path, RolloutSettings)
    path.write_text('{"server": "http://host:5000/"}')
    assert read_settings(path, RolloutSettings).server == "http://host:5000"


def test_a_device_is_enrolled_under_a_name_that_tells_nobody_and_keeps_it(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "agent")
    home.enrol("", "edgealign")
    home.enrol("sqlite:///project.db", "edgealign")
    assert not home.folder.exists()
    home.enrol("http://host:5000", "speech")
    name = home.rollout.device
    assert name.startswith("device-") and home.rollout.experiment == "speech"
    home.enrol("http://other:5000", "speech")
    assert (home.rollout.device, home.rollout.server) == (name, "http://other:5000")
    assert home.following("http://third:1", "challenger").alias == "challenger"
    with pytest.raises(SettingsError, match="server"):
        home.following("third")
