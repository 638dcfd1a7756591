"""The load of the machine in a run: MLflow's names, few samples, and nothing that reaches the stage."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import pytest

from pipeline import system_metrics
from pipeline.system_metrics import SystemMetrics, host_probe


class Ticks:
    """A probe that counts its calls and says when there were enough."""

    def __init__(self, enough: int, fails: Callable[[int], bool] = lambda call: False) -> None:
        self.calls, self.enough, self.fails = 0, enough, fails
        self.done = threading.Event()

    def __call__(self) -> Mapping[str, float]:
        self.calls += 1
        if self.calls >= self.enough:
            self.done.set()
        if self.fails(self.calls):
            raise OSError("the sensor is gone")
        return {"power_watts": float(self.calls), "unknown": float("nan")}


def test_the_names_are_those_that_mlflow_itself_gives() -> None:
    """Its UI puts what is called so under "System metrics"; monitors of MLflow are asked what they call theirs."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    theirs: dict[str, float] = {}
    for monitor in (CPUMonitor(), DiskMonitor(), NetworkMonitor()):
        monitor.collect_metrics()
        theirs |= monitor.aggregate_metrics()
    ours = host_probe()()
    assert set(ours) == set(theirs)
    for name in ("system_memory_usage_megabytes", "disk_usage_megabytes", "disk_usage_percentage"):
        assert ours[name] == pytest.approx(theirs[name], rel=0.2), name


def test_a_stage_of_an_instant_has_one_sample_and_steps_count_from_nought() -> None:
    probe = Ticks(3)
    sampler = SystemMetrics([probe], interval_s=0.005).start()
    assert probe.done.wait(10.0)
    points = sampler.stop()
    assert [(name, value, step) for name, value, _, step in points] == [
        ("system/power_watts", float(call + 1), call) for call in range(probe.calls)
    ]
    assert [at for _, _, at, _ in points] == sorted(at for _, _, at, _ in points)
    short = SystemMetrics([Ticks(1)], interval_s=60.0).start().stop()
    assert [(name, value, step) for name, value, _, step in short] == [("system/power_watts", 1.0, 0)]


def test_a_long_stage_keeps_no_more_samples_than_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_metrics, "MOST_SAMPLES", 8)
    probe = Ticks(40)
    sampler = SystemMetrics([probe], interval_s=0.0005).start()
    assert probe.done.wait(20.0)
    points = sampler.stop()
    assert len(points) <= 8
    values = [value for _, value, _, _ in points]
    assert values == sorted(values)
    assert values[0] == 1.0
    assert values[-1] >= 33  # it still covers the whole of the stage


def test_a_sensor_that_fails_is_left_out_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    broken, sound = Ticks(1, lambda call: True), Ticks(3)
    sampler = SystemMetrics([broken, sound], interval_s=0.005).start()
    assert sound.done.wait(10.0)
    assert len(sampler.stop()) == sound.calls
    assert broken.calls == 1
    assert [record.message for record in caplog.records] == [
        "tracking: a probe of this machine fails and is left out: the sensor is gone"
    ]


def test_nothing_is_left_running() -> None:
    SystemMetrics([Ticks(1)], interval_s=60.0).start().stop()
    assert "system-metrics" not in {thread.name for thread in threading.enumerate()}
