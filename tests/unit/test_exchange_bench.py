"""The counting of bytes on the wire, without a network."""

from __future__ import annotations

from benchmarks.exchange_wire import Meter, Task, Traffic, _counted
from stages.alignment.exchange import ExchangeConfig


def test_counters_are_read_between_two_readings_and_set_against_the_updates_of_that_stretch() -> None:
    """One host sends 10 bytes a second and receives 1, another sends 20 and receives nothing."""
    meter = Meter([None, None])
    meter.readings = [(at, [(10 * at, at), (20 * at, 0)]) for at in (0, 4, 5, 100)]
    told = {
        "idle_from": 1.0,
        "began": 3.0,
        "closed": [10.0, 20.0, 30.5, 40.0, 50.0],
        "sent": [500, 500],
        "received": [50, 50],
        "parameters": 1000,
        "wer": 0.5,
    }
    found = _counted(Task(2, ExchangeConfig(local_steps=3)), told, meter)
    assert found.wire == [Traffic(400.0, 40.0), Traffic(800.0, 0.0)]
    assert found.idle == [Traffic(10.0, 1.0), Traffic(20.0, 0.0)]
    assert found.before == [Traffic(70.0, 7.0), Traffic(140.0, 0.0)]
    assert found.updates == [Traffic(400.0, 40.0), Traffic(400.0, 40.0)]  # of four of the five rounds
    assert found.steps == 12 and found.dense_bytes == 4 * 1000 * 12 and found.seconds == 40.0
    assert found.worst == Traffic(800.0, 40.0)
