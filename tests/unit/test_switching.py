"""Switching between people on one base: bit for bit what a fresh load gives, and nobody touches another."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from stages.alignment.adapter import apply_update, pack_sparse
from stages.alignment.bridgeformer import BridgeFormer
from stages.alignment.sparse import linear_weights
from stages.alignment.switching import Switchboard
from stages.errors import InputError
from tests.helpers_alignment import CONFIG


def base() -> BridgeFormer:
    torch.manual_seed(0)
    return BridgeFormer(CONFIG).eval()


def change(seed: int, share: float = 0.1) -> dict[str, np.ndarray]:
    """A random sparse change of every layer, and a shift."""
    generator = torch.Generator().manual_seed(seed)
    update = {}
    for name, weight in linear_weights(base()).items():
        count = max(1, int(share * weight.numel()))
        indices = torch.randperm(weight.numel(), generator=generator)[:count].sort().values
        update[name] = (indices, torch.randn(count, generator=generator))
    shift = torch.randn(CONFIG.encoder_width, generator=generator).numpy().astype(np.float16)
    return {**pack_sparse(update), "frame_shift": shift}


def loaded(tensors: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The slow reference: a fresh base with one change."""
    fresh = base()
    apply_update(fresh, tensors, "shira")
    return fresh.state_dict()


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(found[name], value) for name, value in wanted.items())


def test_after_any_switches_every_bit_is_that_of_a_fresh_load() -> None:
    people = {"a": change(1), "b": change(2), "c": change(3, 0.5)}
    board = Switchboard(base())
    for user, tensors in people.items():
        board.add(user, tensors)
    for user in ("a", "b", "a", "c", "c", "b", "a"):
        board.use(user)
        assert same(board.bridge.state_dict(), loaded(people[user]))
    board.use(None)
    assert same(board.bridge.state_dict(), base().state_dict())


def test_somebody_added_while_another_speaks_touches_nobody() -> None:
    first, second, better = change(1), change(2), change(4)
    board = Switchboard(base())
    board.add("a", first)
    board.use("a")
    board.add("b", second)
    assert board.current == "a" and same(board.bridge.state_dict(), loaded(first))
    board.add("a", better)  # a's own new one counts at once
    assert same(board.bridge.state_dict(), loaded(better))
    board.use("b")
    assert same(board.bridge.state_dict(), loaded(second))


def test_what_does_not_fit_is_refused_and_nothing_changes() -> None:
    board = Switchboard(base())
    board.add("a", change(1))
    board.use("a")
    before = copy.deepcopy(board.bridge.state_dict())
    dense = {name: np.ones(weight.shape, dtype=np.float16) for name, weight in linear_weights(base()).items()}
    name = next(iter(dense))
    outside = pack_sparse({name: (torch.tensor([dense[name].size]), torch.ones(1))})
    for tensors, told in ((dense, "made for another base"), (outside, "outside the layer")):
        with pytest.raises(InputError, match=told):
            board.add("b", tensors)
    with pytest.raises(InputError, match=r"b: not added. There are: a"):
        board.use("b")
    assert board.current == "a" and same(board.bridge.state_dict(), before)
