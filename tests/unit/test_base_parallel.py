"""A base that several workers train together, without Ray: parts, agreement, slow and restarted workers, quality."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stages.alignment.trainer import Trainer
from stages.base_parallel import Share, Worker, beginning, divide
from tests.helpers_alignment import CONFIG, rows, spoken
from tests.helpers_parallel import EXCHANGE, alone, setup, wer


def train(workers: list[Worker], rounds: int, slow: frozenset[int] = frozenset()) -> None:
    for _ in range(rounds):
        done = [worker.round(0.0 if place in slow else None) for place, worker in enumerate(workers)]
        for worker in workers:
            worker.receive([update for update, _ in done], [float(steps) for _, steps in done])


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(value, other[name]) for name, value in one.items())


def shares(workers: int = 2) -> list[Share]:
    made = setup()
    return divide(made, workers, EXCHANGE)


def test_nobody_is_in_two_parts_and_nothing_is_left_out() -> None:
    made = setup(50)
    owner = dict(zip(made.training.utterances, made.training.users, strict=True))
    parts = divide(made, 3, EXCHANGE)
    people = [{owner[name] for name in part.setup.training.utterances} for part in parts]
    assert sum(len(one) for one in people) == len(set(made.training.users)) == len(set.union(*people))
    assert sorted(name for part in parts for name in part.setup.training.utterances) == sorted(made.training.utterances)
    sizes = [sum(len(frames) for frames in part.setup.training.frames) for part in parts]
    assert max(sizes) < 1.6 * min(sizes)
    assert {part.rounds for part in parts} == {round(16 * -(-50 // (3 * made.train.batch_size)) / 4)}
    with pytest.raises(ValueError, match="8 people for 9 workers"):
        divide(made, 9, EXCHANGE)


@pytest.mark.parametrize("count", [2, 4])
def test_workers_agree_bit_for_bit_and_learn_what_one_alone_would_learn(count: int) -> None:
    made = setup()
    parts = shares(count)
    workers = [Worker(part) for part in parts]
    assert all(same(worker.weights(), workers[0].weights()) for worker in workers)
    untrained = wer(made, workers[0].weights())
    train(workers, parts[0].rounds)
    assert all(same(worker.weights(), workers[0].weights()) for worker in workers)
    assert untrained > 0.9 and wer(made, workers[0].weights()) < alone(count) + 0.05


def test_a_slow_worker_takes_fewer_steps_at_the_same_rate_and_holds_nobody_up() -> None:
    parts = shares()
    workers = [Worker(part) for part in parts]
    for _ in range(3):
        updates = [workers[0].round(), workers[1].round(limit_s=0.0)]
        assert [steps for _, steps in updates] == [4, 1]
        for worker in workers:
            worker.receive([update for update, _ in updates], [float(steps) for _, steps in updates])
    assert same(workers[0].weights(), workers[1].weights())
    rates = []
    for worker in workers:
        worker._schedule.move(worker.done * EXCHANGE.local_steps)
        rates.append(worker._trainer.optimizer.param_groups[0]["lr"])
    assert rates[0] == rates[1]
    train(workers, parts[0].rounds - 3, slow=frozenset([1]))
    assert wer(setup(), workers[0].weights()) < alone(2) + 0.1


def test_one_that_is_started_again_goes_on_with_the_others() -> None:
    parts = shares()
    workers, book = [Worker(part) for part in parts], beginning(parts[0])
    half = parts[0].rounds // 2
    for _ in range(half):
        updates = [worker.round() for worker in workers]
        for receiver in (*workers, book):
            receiver.receive([update for update, _ in updates], [float(steps) for _, steps in updates])
    agreed = {name: value.numpy() for name, value in book.weights.items()}
    workers = [workers[0], Worker(parts[1], agreed, half)]
    assert same(workers[0].weights(), workers[1].weights())  # the book alone is enough to begin again
    train(workers, parts[0].rounds - half)
    assert same(workers[0].weights(), workers[1].weights())
    assert wer(setup(), workers[0].weights()) < alone(2) + 0.1


def test_the_rate_is_that_of_one_training() -> None:
    part = shares()[0]
    worker = Worker(replace(part, rounds=5))
    trainer = Trainer(CONFIG, replace(part.setup.train, epochs=1), spoken(20 * part.setup.train.batch_size), rows())
    for position in range(20):
        worker._schedule.move(position)
        assert worker._trainer.optimizer.param_groups[0]["lr"] == trainer.optimizer.param_groups[0]["lr"]
        trainer.optimizer.step()
        trainer.scheduler.step()
