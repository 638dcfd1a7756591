"""The figures of a shared training, without training anything and without a network."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from benchmarks import exchange
from benchmarks.exchange_wire import Counted, Meter, Reading, Task, Traffic, _counted
from stages.alignment.exchange import ExchangeConfig


def test_the_readings_around_a_stretch_are_set_against_its_updates() -> None:
    """One host sends 10 bytes a second and receives 1, another sends 20 and receives nothing. Readings take up to 4 s: the
    ones that count had ended before the stretch began (8, not 12) and began after it had ended (54, not 49)."""
    meter = Meter([None, None])
    times = [(0, 1), (3, 4), (8, 9), (9, 13), (47, 51), (52, 56), (60, 61)]
    counts = [[(10 * at, at), (20 * at, 0)] for at in ((began + ended) / 2 for began, ended in times)]
    meter.readings = [Reading(*time, count) for time, count in zip(times, counts, strict=True)]
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
    assert found.wire == [Traffic(455.0, 45.5), Traffic(910.0, 0.0)]  # from 8.5 to 54
    assert found.idle == [Traffic(15.0, 1.5), Traffic(30.0, 0.0)]  # from 0.5 to 3.5, over two seconds
    assert found.before == [Traffic(485.0, 48.5), Traffic(970.0, 0.0)]  # from 0.5 to 49
    assert found.updates == [Traffic(400.0, 40.0), Traffic(400.0, 40.0)]  # of four of the five rounds
    assert found.steps == 12 and found.dense_bytes == 4 * 1000 * 12 and found.seconds == 40.0
    assert found.worst == Traffic(910.0, 45.5)


def test_a_stretch_that_was_not_read_to_its_end_is_no_figure() -> None:
    meter = Meter([None])
    with pytest.raises(RuntimeError, match="read from never"):
        meter.between(1.0, 2.0)
    meter.readings = [Reading(at, at, [(int(at), 0)]) for at in (1.0, 2.0, 3.0)]
    assert meter.between(1.0, 3.0) == [Traffic(2, 0)]
    for start, end in ((0.5, 2.0), (1.5, 3.5)):
        with pytest.raises(RuntimeError, match="needed from before"):
            meter.between(start, end)


def test_the_wires_ratio_is_that_of_the_worker_that_sent_most(monkeypatch: pytest.MonkeyPatch) -> None:
    traffic = [Traffic(100e3, 200e3), Traffic(400e3, 100e3)]
    idle = [Traffic(1e3, 2e3), Traffic(5e3, 1e3)]
    counted = Counted(1_000_000, 10, 20.0, [Traffic(50e3, 60e3)] * 2, traffic, idle, traffic, 0.25)
    monkeypatch.setattr(exchange, "_kept", lambda asked, measure: asdict(counted))
    found = {figure.name: figure for figure in exchange._wire(exchange.Size(), 2)}
    assert found["wire_ratio_sent_2_workers"].value == 100 and found["wire_ratio_sent_2_workers"].met
    assert found["wire_ratio_received_2_workers"].value == 200
    assert found["updates_of_the_wire_2_workers"].value == 0.11
    assert found["idle_on_the_wire_2_workers"].value == 0.12
    assert found["wire_wer_2_workers"].value == 0.25


def test_quality_is_the_mean_over_the_seeds_and_bytes_are_the_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(asked: list[Any], measure: object) -> dict[str, Any]:
        seed, dense = asked[3], asked[-1] == "dense"
        wer = 0.05 + 0.01 * seed if dense else 0.052 + 0.016 * seed
        size = 1000 if dense else 10 - seed
        return {"wer": wer, "steps": 160, "bytes_each": size, "received_each": 1000 if dense else 20}

    monkeypatch.setattr(exchange, "_kept", kept)
    found = {figure.name: figure for figure in exchange._quality(exchange.Size(seeds=(0, 1)), 4)}
    assert found["bytes_ratio_4_workers"].value == 100 and found["bytes_ratio_4_workers"].met
    assert found["bytes_ratio_received_4_workers"].value == 50
    assert found["wer_over_dense_4_workers"].value == 0.005
    assert found["wer_dense_4_workers"].value == 0.055 and "scale 20" in found["wer_dense_4_workers"].note
