"""Workers that meet: all there, one late, one that never comes again, one that was started anew."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.cluster.rounds import Next, Rounds


def ranks(told: Next) -> list[list[int]]:
    return [[one.rank for one in found.contributions] for found in told.rounds]


def test_a_round_closes_when_all_are_there_and_everybody_gets_the_same() -> None:
    async def meet() -> None:
        rounds = Rounds(3)
        for number in range(2):
            told = await asyncio.gather(
                *(rounds.contribute(rank, number, b"%d" % rank, 8, rank / 2) for rank in (2, 0, 1))
            )
            assert told[0].rounds == told[1].rounds == told[2].rounds
            assert ranks(told[0]) == [[0, 1, 2]] and told[0].rounds[0].number == number
            assert told[0].rounds[0].loss == 0.5
            assert told[0].rounds[0].updates == [b"0", b"1", b"2"] and told[0].rounds[0].shares == [8.0, 8.0, 8.0]
        assert rounds.sent_bytes == {0: 2, 1: 2, 2: 2}

    asyncio.run(meet())


def test_who_is_late_counts_in_the_next_round_and_receives_all_it_missed() -> None:
    async def meet() -> None:
        rounds = Rounds(2, least_s=0.05)
        await asyncio.gather(rounds.contribute(0, 0, b"a", 8), rounds.contribute(1, 0, b"b", 8))
        await asyncio.gather(rounds.contribute(0, 1, b"a", 8), rounds.contribute(1, 1, b"b", 8))
        alone = await rounds.contribute(0, 2, b"c", 8)
        assert ranks(alone) == [[0]]
        both = await asyncio.gather(rounds.contribute(0, 3, b"d", 8), rounds.contribute(1, 2, b"late", 2))
        assert ranks(both[0]) == [[0, 1]] and ranks(both[1]) == [[0], [0, 1]]
        assert both[1].rounds[-1].updates == [b"d", b"late"] and both[1].rounds[-1].shares == [8.0, 2.0]

    asyncio.run(meet())


def test_a_worker_that_never_comes_again_stops_nobody() -> None:
    async def meet() -> None:
        rounds = Rounds(2, least_s=0.01)
        for number in range(2):
            await asyncio.gather(rounds.contribute(0, number, b"a", 8), rounds.contribute(1, number, b"b", 8))
        for number in range(2, 6):
            assert ranks(await rounds.contribute(0, number, b"a", 8)) == [[0]]

    asyncio.run(meet())


def test_the_first_round_waits_for_those_who_still_load() -> None:
    async def meet() -> None:
        rounds = Rounds(2, least_s=0.01, first_s=30.0)
        early = asyncio.create_task(rounds.contribute(0, 0, b"a", 8))
        await asyncio.sleep(0.2)
        assert not early.done()
        await rounds.contribute(1, 0, b"b", 8)
        assert ranks(await early) == [[0, 1]]

    asyncio.run(meet())


def test_one_that_was_started_again_replaces_what_it_had_handed_in() -> None:
    async def meet() -> None:
        rounds = Rounds(2)
        before = asyncio.create_task(rounds.contribute(0, 0, b"before", 3))
        await asyncio.sleep(0)
        before.cancel()
        told = await asyncio.gather(rounds.contribute(0, 0, b"after", 8), rounds.contribute(1, 0, b"b", 8))
        assert told[0].rounds[0].updates == [b"after", b"b"]

    asyncio.run(meet())


def test_workers_are_told_how_long_the_others_take() -> None:
    async def meet() -> None:
        rounds = Rounds(2, least_s=0.01)
        limits = []
        for number in range(4):

            async def work(rank: int, number: int = number) -> Next:
                await asyncio.sleep(0.05)
                return await rounds.contribute(rank, number, b"", 8)

            limits.append((await asyncio.gather(work(0), work(1)))[0].limit_s)
        assert limits[0] is None
        assert all(limit is not None and 0.04 < limit < 1.0 for limit in limits[1:])

    asyncio.run(meet())


def test_after_the_last_round_nobody_waits() -> None:
    async def meet() -> None:
        rounds = Rounds(2, total=1, first_s=0.01)
        assert ranks(await rounds.contribute(0, 0, b"a", 8)) == [[0]]
        assert rounds.over
        assert ranks(await rounds.contribute(1, 0, b"too late", 8)) == [[0]]
        assert len(rounds.done) == 1 and rounds.sent_bytes == {0: 1}

    asyncio.run(meet())


def test_strangers_are_refused() -> None:
    with pytest.raises(ValueError, match="worker 2 of 2"):
        asyncio.run(Rounds(2).contribute(2, 0, b"", 1))
    with pytest.raises(ValueError, match="has seen 1 rounds"):
        asyncio.run(Rounds(2).contribute(0, 1, b"", 1))
