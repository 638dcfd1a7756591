"""Several workers train a base together, without Ray, whole trainings: parts, agreement, slow and restarted ones, quality."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stages.alignment.exchange import Head
from stages.alignment.trainer import Trainer
from stages.base_parallel import Share, Worker, divide, head_of
from tests.helpers_alignment import CONFIG, rows, spoken
from tests.helpers_parallel import EXCHANGE, alone, setup, wer

pytestmark = pytest.mark.integration


def train(workers: list[Worker], head: Head, rounds: int, slow: frozenset[int] = frozenset()) -> list[int]:
    """How many steps each worker took in the last round."""
    for _ in range(rounds):
        done = [worker.round(0.0 if place in slow else None) for place, worker in enumerate(workers)]
        update = head.merge([update for update, _ in done], [float(steps) for _, steps in done])
        for worker in workers:
            worker.receive(update)
    return [steps for _, steps in done]


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
    train(workers, head_of(parts[0]), parts[0].rounds)
    assert all(same(worker.weights(), workers[0].weights()) for worker in workers)
    assert untrained > 0.9 and wer(made, workers[0].weights()) < alone(count) + 0.05


def test_a_slow_worker_takes_fewer_steps_at_the_same_rate_and_holds_nobody_up() -> None:
    parts = shares()
    workers, head = [Worker(part) for part in parts], head_of(parts[0])
    for _ in range(3):
        assert train(workers, head, 1, slow=frozenset([1])) == [4, 1]
    assert same(workers[0].weights(), workers[1].weights())
    rates = []
    for worker in workers:
        worker._schedule.move(worker.done * EXCHANGE.local_steps)
        rates.append(worker._trainer.optimizer.param_groups[0]["lr"])
    assert rates[0] == rates[1]
    train(workers, head, parts[0].rounds - 3, slow=frozenset([1]))
    assert wer(setup(), workers[0].weights()) < alone(2) + 0.1


def test_one_that_is_started_again_goes_on_with_the_others() -> None:
    parts = shares()
    workers, head = [Worker(part) for part in parts], head_of(parts[0])
    half = parts[0].rounds // 2
    train(workers, head, half)
    agreed = {name: value.numpy() for name, value in head.weights.items()}
    workers = [workers[0], Worker(parts[1], agreed, half)]
    assert same(workers[0].weights(), workers[1].weights())  # the head's books alone are enough to begin again
    train(workers, head, parts[0].rounds - half)
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
