"""The keeper of a shared training, without Ray: everybody gets the same update a round, and nothing old is kept for ever."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from pipeline.cluster.data_parallel import Keeper
from stages.base_parallel import Worker, divide
from stages.errors import InputError
from tests.helpers_parallel import EXCHANGE, setup


def test_everybody_gets_one_update_a_round_and_no_old_one_is_kept() -> None:
    shares = divide(setup(32), 2, EXCHANGE)
    keeper, workers = Keeper(shares[0], 2), [Worker(share) for share in shares]
    lengths: list[int] = []

    async def together() -> None:
        made = [worker.round() for worker in workers]
        lengths.extend(len(content) for content, _ in made)
        told = await asyncio.gather(
            *(
                keeper.contribute(rank, worker.done, content, steps, worker.loss)
                for rank, (worker, (content, steps)) in enumerate(zip(workers, made, strict=True))
            )
        )
        assert [len(one.updates) for one in told] == [1, 1] and told[0].updates == told[1].updates
        for worker, one in zip(workers, told, strict=True):
            worker.receive(one.updates[0])

    async def train() -> None:
        for _ in range(3):
            await together()
        done, agreed = await keeper.where()
        assert done == 3 and agreed is not None
        for worker in workers:
            assert all(np.array_equal(worker.weights()[name], value) for name, value in agreed.items())
        # what everybody has received, and what was contributed to it, is not needed again
        assert list(keeper._merged) == [2]
        assert not any(one.content for closed in keeper._rounds.done for one in closed.contributions)
        found = await keeper.trained()
        assert found.rounds == 3 and found.late == 0 and len(found.losses) == 3
        assert sum(found.sent_bytes.values()) == sum(lengths)
        assert found.received_bytes[0] == found.received_bytes[1] > 0

    asyncio.run(train())


def test_one_that_is_late_receives_all_that_it_missed() -> None:
    shares = divide(setup(32), 2, EXCHANGE)
    keeper, (quick, slow) = Keeper(shares[0], 2), [Worker(share) for share in shares]
    keeper._rounds.first_s = keeper._rounds.least_s = 0.01

    async def train() -> None:
        for _ in range(3):
            content, steps = quick.round()
            for update in (await keeper.contribute(0, quick.done, content, steps, 0.0)).updates:
                quick.receive(update)
        (mine, few), (content, steps) = slow.round(limit_s=0.0), quick.round()
        keeper._rounds.least_s = 60.0
        told = await asyncio.gather(
            keeper.contribute(1, 0, mine, few, 0.0), keeper.contribute(0, 3, content, steps, 0.0)
        )
        assert [len(one.updates) for one in told] == [4, 1]
        for update in told[0].updates:
            slow.receive(update)
        quick.receive(told[1].updates[0])

    asyncio.run(train())
    assert slow.done == quick.done == 4
    assert all(np.array_equal(value, quick.weights()[name]) for name, value in slow.weights().items())


def test_an_update_of_another_training_is_refused() -> None:
    shares = divide(setup(32), 2, EXCHANGE)
    keeper = Keeper(shares[0], 2)
    with pytest.raises(InputError, match="not of this training"):
        asyncio.run(keeper.contribute(0, 0, b"something else", 4, 0.0))
    assert asyncio.run(keeper.where()) == (0, None)
