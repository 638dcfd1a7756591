"""Work on a real embedded Ray session: where it runs, and what happens to workers and items that go wrong."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipeline.cluster.placement import Placement
from pipeline.cluster.work import run_actors, run_tasks
from stages.errors import ClusterError, InputError

pytestmark = pytest.mark.integration

HEAD = Placement(cpus=1)
JETSON = Placement(cpus=0, jetson=1)


class Collected(dict):
    """Results by index; a second result for an item is an error."""

    def __call__(self, index, result):
        assert index not in self
        self[index] = result

    def values_by_index(self):
        return {index: result.value for index, result in self.items()}


# Defined in functions, these travel to the workers by value: workers cannot import the tests.
def square():
    return lambda number: number * number


def die_unless(marker_exists: bool = True):
    def work(number, marker):
        import signal
        from pathlib import Path

        if number == 1 and not Path(marker).exists():
            if marker_exists:
                Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    return work


def counting_actor():
    class Counting:
        def __init__(self, offset):
            if offset is None:
                raise ValueError("no offset")
            self.offset = offset

        def work(self, number, marker="", advance=None):
            import signal
            import time
            from pathlib import Path

            for step in range(3):
                time.sleep(0.3)
                if advance is not None:
                    advance(1)
                if step == 1 and marker and number == 1 and (marker == "always" or not Path(marker).exists()):
                    if marker != "always":
                        Path(marker).touch()
                    time.sleep(1.0)
                    os.kill(os.getpid(), signal.SIGKILL)
            return os.getpid(), number + self.offset

    return Counting


def test_work_for_a_jetson_runs_on_the_virtual_jetson_only(session):
    results = Collected()
    assert run_tasks(session, square(), [(i,) for i in range(4)], JETSON, retries=0, on_result=results) == []
    assert results.values_by_index() == {0: 0, 1: 1, 2: 4, 3: 9}
    assert {(result.node.name, result.node.kind, result.node.model) for result in results.values()} == {
        ("virtual-jetson-0", "virtual", "orin-8gb")
    }


def test_ordinary_work_runs_on_the_head_only(session):
    results = Collected()
    run_tasks(session, square(), [(i,) for i in range(12)], HEAD, retries=0, on_result=results)
    assert {result.node.name for result in results.values()} == {"head"}
    assert {result.node.kind for result in results.values()} == {"real"}


def test_results_carry_the_peak_memory_of_their_own_item(session):
    def allocate(size):
        block = bytearray(size)
        block[::4096] = b"x" * len(block[::4096])
        return len(block)

    results = Collected()
    one_by_one = Placement(cpus=2)
    run_tasks(session, allocate, [(300_000_000,), (1,)], one_by_one, retries=0, on_result=results)
    assert results[0].peak_rss_bytes > 300_000_000
    assert results[1].peak_rss_bytes < 300_000_000


def test_a_virtual_device_holds_no_more_than_it_offers(session):
    """6 GB on a machine with more: an item that takes them by mistake fails, the next one on the same device runs."""

    def allocate(size):
        import torch

        return torch.empty(size, dtype=torch.uint8).numel()  # asked for, not touched: the test takes no memory

    results = Collected()
    [failure] = run_tasks(session, allocate, [(7 * 10**9,), (10**9,)], JETSON, retries=0, on_result=results)
    assert failure.index == 0
    assert "than the 6.00 GB that this virtual device offers" in failure.message
    assert results.values_by_index() == {1: 10**9}
    assert (
        run_tasks(session, allocate, [(7 * 10**9,)], HEAD, retries=0, on_result=Collected()) == []
    )  # the head has no cap


def test_a_demand_that_no_node_meets_fails_with_what_each_lacks(session):
    impossible = Placement(cpus=0, jetson=1, memory_bytes=9_000_000_000, labels={"model": "thor-128gb"})
    with pytest.raises(ClusterError) as caught:
        run_tasks(session, square(), [(1,)], impossible, retries=0, on_result=Collected())
    message = str(caught.value)
    assert "memory 9.0 GB asked, memory 6.0 GB there" in message
    assert "label model=thor-128gb asked, model=orin-8gb there" in message
    assert "head" in message and "virtual-jetson-0" in message


def test_a_killed_worker_is_replaced_and_each_item_comes_once(session, tmp_path):
    results = Collected()
    arguments = [(i, str(tmp_path / "died")) for i in range(5)]
    assert run_tasks(session, die_unless(), arguments, HEAD, retries=1, on_result=results) == []
    assert (tmp_path / "died").exists()
    assert results.values_by_index() == {i: i for i in range(5)}


def test_an_item_that_always_kills_its_worker_becomes_a_failure(session, tmp_path):
    results = Collected()
    arguments = [(i, str(tmp_path / "never")) for i in range(5)]
    failures = run_tasks(
        session, die_unless(False), arguments, HEAD, retries=1, on_result=results, describe=lambda i: f"shard {i}"
    )
    assert [(failure.index, failure.item) for failure in failures] == [(1, "shard 1")]
    assert "lost 2 time(s)" in failures[0].message
    assert set(results) == {0, 2, 3, 4}


def test_an_item_that_raises_becomes_a_failure_with_its_message(session):
    def work(number):
        if number == 1:
            raise InputError("shard-1.tar: not a tar file")
        if number == 2:
            raise KeyError("speaker")
        return number

    results = Collected()
    failures = run_tasks(session, work, [(i,) for i in range(4)], HEAD, retries=0, on_result=results)
    assert failures[0].message == "shard-1.tar: not a tar file"
    assert failures[1].message.startswith("KeyError: 'speaker' (test_ray_work.py:")
    assert set(results) == {0, 3}


def test_a_silent_item_becomes_a_failure(session):
    def work(number):
        import time

        time.sleep(60 if number == 0 else 0)
        return number

    results = Collected()
    failures = run_tasks(session, work, [(0,), (1,)], HEAD, retries=0, on_result=results, no_progress_timeout_s=5.0)
    assert [failure.index for failure in failures] == [0]
    assert "no progress for 5 s" in failures[0].message
    assert set(results) == {1}


def test_actors_construct_once_and_take_item_after_item(session):
    results = Collected()
    items = [(i,) for i in range(5)]
    assert run_actors(session, counting_actor(), (100,), items, HEAD, workers=2, retries=0, on_result=results) == []
    assert {index: result.value[1] for index, result in results.items()} == {i: i + 100 for i in range(5)}
    assert len({result.value[0] for result in results.values()}) == 2


def test_a_dead_actor_is_replaced_and_its_progress_counts_once(session, tmp_path):
    results, advances = Collected(), []
    items = [(i, str(tmp_path / "died")) for i in range(3)]
    failures = run_actors(
        session,
        counting_actor(),
        (0,),
        items,
        HEAD,
        workers=2,
        retries=1,
        on_result=results,
        on_advance=advances.append,
    )
    assert failures == []
    assert (tmp_path / "died").exists()
    assert set(results) == {0, 1, 2}
    assert sum(advances) == 9
    assert min(advances) < 0  # what the dead worker had counted was taken back


def test_an_item_that_always_kills_its_actor_becomes_a_failure(session):
    results = Collected()
    items = [(i, "always") for i in range(3)]
    failures = run_actors(session, counting_actor(), (0,), items, HEAD, workers=2, retries=1, on_result=results)
    assert [failure.index for failure in failures] == [1]
    assert set(results) == {0, 2}


def test_actors_that_cannot_be_constructed_end_the_run(session):
    with pytest.raises(ClusterError, match="ValueError: no offset"):
        run_actors(session, counting_actor(), (None,), [(1,)], HEAD, workers=1, retries=2, on_result=Collected())


def test_the_fleet_is_asked_while_it_works_and_a_task_brings_its_load(session, tmp_path):
    from pipeline.fleet import look, table

    def until():
        def work(marker):
            import time

            while not Path(marker).exists():
                time.sleep(0.05)
            return 7

        return work

    rows, collected = [], Collected()
    marker = tmp_path / "go"
    asking = threading.Thread(target=lambda: (rows.extend(wait_for_work(session, look)), marker.touch()))
    asking.start()
    run_tasks(session, until(), [(str(marker),)], JETSON, retries=0, on_result=collected)
    asking.join()
    assert [(row["kind"], row["working"], row["problem"]) for row in rows] == [("virtual", True, "")]
    assert rows[0]["telemetry"]["memory_total_bytes"] == psutil.virtual_memory().total
    assert [name for name, *_ in collected[0].load.samples].count("system/device_memory_usage_megabytes") >= 1
    assert table(rows).row_count == 1


def wait_for_work(session, look):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        rows = look(session)
        if all(row["working"] for row in rows):
            return rows
    return rows
