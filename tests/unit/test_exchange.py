"""Sparse updates between workers: nothing is lost, everybody agrees, and nobody receives more than he sends."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from stages.alignment.exchange import ExchangeConfig, Head, Participant
from stages.alignment.packing import unpack
from stages.errors import InputError

WHOLE = ExchangeConfig(density=1.0, bits=8, whole_below=10_000)
"""All entries in 127 levels of the largest."""
FINE = 0.04 * 1.5 / 127
"""What such rounding makes of changes of a hundredth, with room."""


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8, bias=False))


def moved(module: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Take some steps; the change that they were."""
    generator = torch.Generator().manual_seed(seed)
    changes = {}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            changes[name] = 0.01 * torch.randn(parameter.shape, generator=generator)
            parameter += changes[name]
    return changes


def together(count: int, config: ExchangeConfig) -> tuple[list[nn.Module], list[Participant], Head]:
    modules = [model() for _ in range(count)]
    return modules, [Participant(one, config) for one in modules], Head(dict(modules[0].named_parameters()), config)


def exchanged(workers: list[Participant], head: Head, shares: list[float] | None = None) -> bytes:
    content = head.merge([worker.send() for worker in workers], shares)
    for worker in workers:
        worker.receive(content)
    return content


@pytest.mark.parametrize("bits", [1, 4])
def test_what_is_not_sent_is_sent_later(bits: int) -> None:
    """Neither worker nor head loses anything: with no new steps, what is left of the mean change goes to nothing."""
    modules, workers, head = together(2, ExchangeConfig(density=0.2, bits=bits, whole_below=0))
    before = deepcopy(modules[0].state_dict())
    changes = [moved(module, seed) for seed, module in enumerate(modules)]
    errors = []
    for _ in range(60):
        exchanged(workers, head)
        mean = {name: (changes[0][name] + changes[1][name]) / 2 for name in before}
        now = modules[0].state_dict()
        errors.append(max(float((now[name] - before[name] - mean[name]).abs().max()) for name in before))
    assert errors[0] > 1e-2 and errors[-1] < 1e-3


def test_all_workers_agree_bit_for_bit_and_on_the_mean() -> None:
    modules, workers, head = together(3, WHOLE)
    before = deepcopy(modules[0].state_dict())
    changes = [moved(module, seed) for seed, module in enumerate(modules)]
    exchanged(workers, head)
    for name, value in modules[0].state_dict().items():
        assert all(torch.equal(value, module.state_dict()[name]) for module in modules[1:])
        assert torch.equal(value, head.weights[name])
        mean = torch.stack([change[name] for change in changes]).mean(dim=0)
        torch.testing.assert_close(value - before[name], mean, atol=2 * FINE, rtol=0)


def test_a_worker_counts_by_its_share() -> None:
    modules, workers, head = together(2, WHOLE)
    before = deepcopy(modules[0].state_dict())
    changes = [moved(module, seed) for seed, module in enumerate(modules)]
    exchanged(workers, head, [6, 2])
    for name, value in modules[0].state_dict().items():
        mean = 0.75 * changes[0][name] + 0.25 * changes[1][name]
        torch.testing.assert_close(value - before[name], mean, atol=2 * FINE, rtol=0)


def test_however_many_send_each_receives_no_more_than_one_sends() -> None:
    config = ExchangeConfig(density=0.2, whole_below=0)
    for count in (1, 4):
        modules, workers, head = together(count, config)
        for seed, module in enumerate(modules):
            moved(module, seed)
        updates = [worker.send() for worker in workers]
        assert len(head.merge(updates)) == len(updates[0])


def test_nothing_moved_is_an_update_of_nothing() -> None:
    modules, workers, head = together(1, ExchangeConfig())
    before = deepcopy(modules[0].state_dict())
    assert len(exchanged(workers, head)) < 50
    assert all(torch.equal(value, before[name]) for name, value in modules[0].state_dict().items())


def test_one_unreadable_update_changes_nothing() -> None:
    [module], [worker], head = together(1, ExchangeConfig(whole_below=100))
    moved(module, 1)
    content, before = worker.send(), deepcopy(head.weights)
    with pytest.raises(InputError):
        head.merge([content, content[:-20]])
    assert all(torch.equal(value, before[name]) for name, value in head.weights.items())
    merged = head.merge([content])
    # nothing of the refused one is left over in the head either
    sent, received = unpack(content, before), unpack(merged, before)
    assert all(torch.allclose(sent[name], received[name], atol=1e-6) for name in sent)
    state = deepcopy(module.state_dict())
    with pytest.raises(InputError):
        worker.receive(merged[:-20])
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
