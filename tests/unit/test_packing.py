"""Updates as bytes: what goes, how exactly, in how few bytes, and what is refused."""

from __future__ import annotations

import struct

import pytest
import torch

from stages.alignment.packing import FINGERPRINT_BYTES, HEADER, Packing, pack, unpack
from stages.errors import InputError


def change(seed: int = 0) -> dict[str, torch.Tensor]:
    """Two large parameters, one of them ten times as large in its values, and a small one."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "first": torch.randn(30, 20, generator=generator),
        "bias": torch.randn(7, generator=generator),
        "second": 10 * torch.randn(11, 13, generator=generator),
    }


def slow(values: dict[str, torch.Tensor], packing: Packing) -> dict[str, torch.Tensor]:
    """What an update should come to, entry by entry."""
    large = [name for name, value in values.items() if value.numel() > packing.whole_below]
    every = sorted(
        ((abs(float(x)), name, i) for name in large for i, x in enumerate(values[name].flatten())), reverse=True
    )
    going = every[: max(1, round(packing.density * len(every)))]
    found = {}
    for name, value in values.items():
        flat, made = value.flatten(), torch.zeros(value.numel())
        if name not in large:
            scale = float(flat.abs().max()) / 127
            made = torch.tensor([round(float(x) / scale) * scale for x in flat])
        mine = sorted((size, place) for size, owner, place in going if owner == name)
        parts = 2 ** (packing.bits - 1)
        for part in range(parts):
            # ranks are split where numpy's quantiles are: at share * (n - 1)
            first, last = (share * (len(mine) - 1) / parts for share in (part, part + 1))
            rank = [r for r in range(len(mine)) if (r >= first or part == 0) and (r < last or part == parts - 1)]
            for r in rank:
                mean = sum(mine[other][0] for other in rank) / len(rank)
                made[mine[r][1]] = mean if flat[mine[r][1]] > 0 else -mean
        found[name] = made.view(value.shape)
    return found


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
@pytest.mark.parametrize("density", [0.05, 0.25, 1.0])
def test_an_update_is_what_the_slow_way_says(bits: int, density: float) -> None:
    packing = Packing(density, bits, whole_below=10)
    values = change()
    found, expected = unpack(pack(values, packing), values), slow(values, packing)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5)


def test_the_largest_entries_go_and_small_parameters_go_whole() -> None:
    sizes = torch.arange(1.0, 101.0).view(10, 10)
    values = {"weight": torch.where(sizes % 2 == 0, sizes, -sizes), "bias": torch.tensor([1e-6, -2e-6])}
    found = unpack(pack(values, Packing(density=0.1, bits=1, whole_below=10)), values)
    assert torch.equal(found["weight"] != 0, sizes > 90)
    assert torch.equal(found["weight"], torch.where(sizes > 90, 95.5 * values["weight"].sign(), 0.0))
    torch.testing.assert_close(found["bias"], values["bias"], atol=2e-6 / 127, rtol=0)


def test_more_bits_are_more_exact() -> None:
    values = change()
    errors = []
    for bits in (1, 2, 4, 8):
        found = unpack(pack(values, Packing(1.0, bits, 10)), values)
        errors.append(float((found["first"] - values["first"]).norm() / values["first"].norm()))
    # of a Gaussian 0.60 and 0.34 at best; here parts are equal in number, not in error
    assert errors == sorted(errors, reverse=True) and errors[0] < 0.63 and errors[1] < 0.42 and errors[3] < 0.05


@pytest.mark.parametrize(("density", "bits"), [(0.01, 1), (0.25, 1), (0.25, 2), (0.5, 8)])
def test_a_bit_for_each_weight_and_a_few_for_each_that_is_sent(density: float, bits: int) -> None:
    values = {"weight": torch.randn(1000, 100, generator=torch.Generator().manual_seed(0)), "bias": torch.ones(100)}
    size = len(pack(values, Packing(density, bits)))
    # a fingerprint and a header, the small one's scale and bytes, bits, sizes, codes
    assert size == 8 + 5 + (4 + 100) + 100_000 / 8 + 4 * 2 ** (bits - 1) + density * 100_000 * bits / 8


def test_nothing_changed_is_a_fingerprint() -> None:
    values = {name: torch.zeros_like(value) for name, value in change().items()}
    content = pack(values, Packing())
    assert len(content) == FINGERPRINT_BYTES
    assert all(torch.equal(value, values[name]) for name, value in unpack(content, values).items())


def test_what_a_float_cannot_divide_is_left_out() -> None:
    values = {"bias": torch.full((3,), 1e-45), "weight": torch.full((40,), 1e-45)}
    found = unpack(pack(values, Packing(1.0, 2, whole_below=10)), values)
    assert torch.equal(found["bias"], torch.zeros(3)) and torch.isfinite(found["weight"]).all()


def test_updates_of_something_else_are_refused() -> None:
    values = change()
    content = pack(values, Packing(0.3, 2, whole_below=10))
    start = FINGERPRINT_BYTES
    for cut in (1, 20, len(content) - start - 3):
        with pytest.raises(InputError, match="cut off"):
            unpack(content[:-cut], values)
    with pytest.raises(InputError, match="cut off"):
        unpack(content + b"x", values)
    for bits, whole_below in ((0, 10), (9, 10), (3, 10), (2, 1000), (2, 0)):
        with pytest.raises(InputError, match="cut off"):
            unpack(content[:start] + HEADER.pack(bits, whole_below) + content[start + HEADER.size :], values)
    smaller = {name: value[:4] for name, value in values.items()}
    for other in ({"other": torch.zeros(3)}, smaller, dict(reversed(values.items()))):
        with pytest.raises(InputError, match="not of this training"):
            unpack(content, other)
    with pytest.raises(InputError, match="not of this training"):
        unpack(b"", values)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    """A worker whose training diverged must not take the others with it."""
    values = change()
    content = pack(values, Packing(0.3, 1, whole_below=10))
    scale = FINGERPRINT_BYTES + HEADER.size
    broken = content[:scale] + struct.pack("<f", value) + content[scale + 4 :]
    with pytest.raises(InputError, match="no numbers"):
        unpack(broken, values)
    values["first"][0, 0] = value
    with pytest.raises(InputError, match="no numbers"):
        unpack(pack(values, Packing(0.3, 1, whole_below=10)), values)


@pytest.mark.parametrize("wrong", [{"bits": 0}, {"bits": 9}])
def test_impossible_packings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="takes 1 to 8"):
        Packing(**wrong)
