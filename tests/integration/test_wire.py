"""What a shared training really puts on the wire: real processes on hosts of their own, counted by their interfaces."""

from __future__ import annotations

import pytest

from benchmarks.exchange_wire import Task, count
from stages.alignment.exchange import ExchangeConfig

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def test_the_wire_carries_the_updates_and_little_more() -> None:
    counted = count(Task(2, ExchangeConfig(local_steps=4), epochs=8, an4=False, idle_s=4.0))
    assert len(counted.wire) == 2 and counted.steps == 28
    for wire, updates in zip(counted.wire, counted.updates, strict=True):
        # an update is a bit and a quarter a weight: were it counted at all, headers make it more and never less
        assert updates.sent == pytest.approx(7 * 1.25 / 8 * counted.parameters, rel=0.1)
        assert wire.sent > updates.sent and wire.received > updates.received
        # far under the gradients, although heart-beats weigh more in so short a training
        assert max(wire.sent, wire.received) < counted.dense_bytes / 20
    assert all(one.sent > 0 for one in counted.idle)
