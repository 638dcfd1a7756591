"""Who takes a version first: the same on every device, about the share of them, and never nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jetson_agent.canary import GUARD, HALTED, SHARE, decide, first, halted, share_of, verdicts
from jetson_agent.home import Home
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
    assert decision(other, said(**{**enough, canaries[0]: "unjudged"})) == "wait"
    assert decision(other, said(**enough)) == "take"
    for failed in (said(**enough, other="failed"), {HALTED: "it stumbles", **said(**enough)}):
        assert decision(other, failed) == decision(canaries[0], failed) == "halted"
    assert halted({HALTED: "it stumbles"}) == "it stumbles"
    assert "other" in halted(said(other="failed"))


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
