"""Budgets: a training pauses while the device is hot or serves, and goes on."""

from __future__ import annotations

import os
import time

import pytest

from jetson_agent import budgets
from jetson_agent.budgets import Gate, Limits, is_serving, power_mode
from pipeline.cluster import worker
from stages.errors import EdgealignError, SettingsError
from stages.yielding import between_steps, gated
from tests.helpers_device import fake_sys

LIMITS = Limits(85.0, 75.0)


@pytest.fixture
def every_step(monkeypatch):
    monkeypatch.setattr(budgets, "POLL_S", 0.0)


def gate_over(degrees, serving=lambda: False):
    told, slept = iter(degrees), []
    gate = Gate(LIMITS, lambda: next(told), serving, lambda seconds: slept.append(seconds))
    return gate, slept


def test_a_hot_device_pauses_until_it_is_well_below(every_step):
    gate, slept = gate_over([84.0, 86.0, 80.0, 76.0, 74.0, 80.0])
    gate()
    assert slept == []
    gate()  # 86: too hot; 80 and 76 are not cool enough; 74 is
    assert len(slept) == 3
    gate()  # 80 is no reason to pause again
    assert len(slept) == 3


def test_a_device_that_does_not_cool_down_ends_the_training_with_its_temperature(monkeypatch):
    monkeypatch.setattr(budgets, "LONGEST_COOLING_S", 2.0)
    gate, slept = gate_over([90.0] * 9)
    with pytest.raises(EdgealignError, match=r"at 90 C.*needed below 75 C"):
        gate()
    assert (len(slept), gate.paused_s) == (2, 2.0)


def test_a_device_without_sensors_never_pauses(every_step):
    gate, slept = gate_over([None])
    gate()
    assert slept == []


def test_training_makes_way_for_serving_and_is_not_starved(tmp_path):
    answers = iter([True, True, False])
    gate, slept = gate_over([50.0], lambda: next(answers))
    gate()
    assert len(slept) == 2
    gate, slept = gate_over([50.0], lambda: True)
    gate()
    assert len(slept) == budgets.LONGEST_YIELD_S / budgets.POLL_S


def test_the_flag_of_a_service_that_died_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEALIGN_AGENT_HOME", str(tmp_path))
    flag = tmp_path / "serving"
    assert not is_serving()
    flag.touch()
    assert is_serving() and is_serving(flag)
    old = time.time() - 60
    os.utime(flag, (old, old))
    assert not is_serving()


def test_limits_travel_by_the_environment():
    assert Limits.of_environment(Limits(60.0, 50.0).variables()) == Limits(60.0, 50.0)
    with pytest.raises(SettingsError, match="lower than the first"):
        Limits(60.0, 60.0)
    with pytest.raises(SettingsError, match="need degrees"):
        Limits.of_environment({budgets.PAUSE_VARIABLE: "hot"})


def test_the_power_mode_is_nvpmodels(tmp_path):
    program = tmp_path / "nvpmodel"
    program.write_text("#!/bin/sh\necho 'NV Power Mode: MAXN_SUPER'\necho 2\n")
    program.chmod(0o755)
    assert power_mode(str(program)) == "MAXN_SUPER"
    assert power_mode(str(tmp_path / "none")) is None


def test_both_trainings_ask_before_each_step():
    from stages.alignment.embedlink import EmbedLink
    from stages.alignment.personal import PersonalConfig, personalize
    from stages.alignment.trainer import Trainer
    from tests.helpers_alignment import CONFIG, rows, spoken, train_config

    calls = []
    trainer = Trainer(CONFIG, train_config(batch_size=2), spoken(4), rows())
    with gated(lambda: calls.append(1)):
        trainer.run_epoch()
        assert len(calls) == 2
        personalize(trainer.bridge.eval(), EmbedLink(rows()), spoken(2), PersonalConfig(steps=3))
    assert len(calls) == 5


def test_the_gate_holds_only_within_its_block():
    calls = []
    with gated(lambda: calls.append(1)):
        between_steps()
    between_steps()
    assert calls == [1]


def test_a_task_tells_energy_temperature_and_samples(tmp_path, monkeypatch):
    from jetson_agent.telemetry import sampler, sysfs

    root = fake_sys(tmp_path, degrees=61.0)
    made = sampler.Sampler
    monkeypatch.setattr(sampler, "Sampler", lambda: made(program="/no/tegrastats", root=root))
    monkeypatch.setattr(worker, "measured", lambda call: worker.Outcome(call(), None, "node", 0, 0.1))
    assert sysfs.read(root).power_w == 6.0
    outcome = worker.run_task(lambda: between_steps() or 7, ())
    assert outcome.value == 7
    assert outcome.load.hottest_c == 61.0
    assert outcome.load.energy_j > 0.0
    assert ("system/device_power_watts", 6.0) in [sample[:2] for sample in outcome.load.samples]
