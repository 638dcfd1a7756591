"""Sparse updates between workers: nothing is lost, everybody agrees, bytes are as few as they should be."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from stages.alignment.exchange import ExchangeConfig, Participant, pack, unpack
from stages.errors import InputError

FINE = 1.5 / 127
"""Rounding to 127 levels of the largest entry, with room."""


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


def test_the_largest_entries_go_and_small_parameters_go_whole() -> None:
    sizes = torch.arange(1.0, 101.0).view(10, 10)
    change = {"weight": torch.where(sizes % 2 == 0, sizes, -sizes), "bias": torch.tensor([1e-6, -2e-6])}
    found = unpack(pack(change, ExchangeConfig(density=0.1, whole_below=10)), change)
    assert torch.equal(found["weight"] != 0, sizes > 90)
    torch.testing.assert_close(found["weight"][sizes > 90], change["weight"][sizes > 90], atol=100 * FINE, rtol=0)
    torch.testing.assert_close(found["bias"], change["bias"], atol=2e-6 * FINE, rtol=0)


def test_what_is_not_sent_is_sent_later() -> None:
    """Sent updates plus what is left are all that ever changed; with no new steps, what is left goes to nothing."""
    module = model()
    worker = Participant(module, ExchangeConfig(density=0.2, whole_below=0))
    before = deepcopy(module.state_dict())
    changes = moved(module, 1)
    for _ in range(30):
        worker.receive([worker.send()])
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value - before[name], changes[name], atol=1e-4, rtol=0)


def test_all_workers_agree_bit_for_bit_and_on_the_mean() -> None:
    modules = [model() for _ in range(3)]
    workers = [Participant(module, ExchangeConfig(density=1.0)) for module in modules]
    before = deepcopy(modules[0].state_dict())
    changes = [moved(module, seed) for seed, module in enumerate(modules)]
    updates = [worker.send() for worker in workers]
    for worker in workers:
        worker.receive(updates)
    for name, value in modules[0].state_dict().items():
        assert torch.equal(value, modules[1].state_dict()[name]) and torch.equal(value, modules[2].state_dict()[name])
        mean = torch.stack([change[name] for change in changes]).mean(dim=0)
        torch.testing.assert_close(value - before[name], mean, atol=0.04 * FINE, rtol=0)


def test_a_worker_counts_by_its_share() -> None:
    module, other = model(), model()
    worker, second = Participant(module, ExchangeConfig(density=1.0)), Participant(other, ExchangeConfig(density=1.0))
    before = deepcopy(module.state_dict())
    changes = moved(module, 1)
    moved(other, 2)
    worker.receive([worker.send(), second.send()], [8, 0])
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value - before[name], changes[name], atol=0.04 * FINE, rtol=0)


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5])
def test_a_bit_for_each_weight_and_a_byte_for_each_that_is_sent(density: float) -> None:
    change = {"weight": torch.randn(1000, 100, generator=torch.Generator().manual_seed(0))}
    size = len(pack(change, ExchangeConfig(density=density)))
    assert size == 8 + 100_000 / 8 + 4 + density * 100_000  # a fingerprint, bits, a scale, levels


def test_nothing_moved_is_an_update_of_nothing() -> None:
    module = model()
    worker = Participant(module, ExchangeConfig())
    before = deepcopy(module.state_dict())
    content = worker.send()
    worker.receive([content])
    assert len(content) < 50
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_one_unreadable_update_changes_nothing() -> None:
    module = model()
    worker = Participant(module, ExchangeConfig())
    moved(module, 1)
    content, before = worker.send(), deepcopy(module.state_dict())
    with pytest.raises(InputError):
        worker.receive([content, content[:-20]])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    worker.receive([content])
    assert any(not torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_updates_of_something_else_are_refused() -> None:
    like = dict(model().named_parameters())
    content = pack({name: value.detach() for name, value in like.items()}, ExchangeConfig())
    for cut in (1, 20, len(content) - 8 - 3):
        with pytest.raises(InputError, match="cut off"):
            unpack(content[:-cut], like)
    with pytest.raises(InputError, match="cut off"):
        unpack(content + b"x", like)
    smaller = {name: value[:4] for name, value in like.items()}
    for other in ({"other": torch.zeros(3)}, smaller, dict(reversed(like.items()))):
        with pytest.raises(InputError, match="not of this training"):
            unpack(content, other)
    with pytest.raises(InputError, match="not of this training"):
        unpack(b"", like)
