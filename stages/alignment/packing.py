"""An update of weights as bytes: a bit for each weight says whether it changes, a few more by how much.

Of each entry that goes there is its sign and which of 2^(b-1) sizes it has; the sizes are sent along, for each parameter its
own. At one bit it is sparse ternary compression (Sattler et al., IEEE TNNLS 2019). Norms and biases go whole in eight bits.
Names, shapes and their order are known to both sides and not sent.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.atomic import sha256_json
from stages.errors import InputError

LEVELS = 127
"""Of a small parameter's values, in the 8 bits that each gets."""
FINGERPRINT_BYTES = 8
HEADER = struct.Struct("<BI")
"""Bits of an entry; entries up to which a parameter goes whole."""


@dataclass(frozen=True)
class Packing:
    """How much of a change is sent."""

    density: float = 0.25  # share of the weights that an update changes
    bits: int = 1  # of each of them, 1 to 8: its sign, and which of 2^(bits-1) sizes it has
    whole_below: int = 2048  # entries up to which a parameter is always sent whole: norms and biases

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits={self.bits}: an entry of an update takes 1 to 8")


def pack(change: Mapping[str, Tensor], config: Packing) -> bytes:
    """The largest entries of a change, over all parameters together; small parameters whole."""
    large = {name: value.flatten().numpy() for name, value in change.items() if value.numel() > config.whole_below}
    small = {name: value.flatten().numpy() for name, value in change.items() if name not in large}
    parts: list[np.ndarray] = []
    for flat in small.values():
        scale = np.float32(np.abs(flat).max(initial=0.0) / LEVELS)
        # what is smaller than a float can say stays with its worker
        levels = np.rint(flat / scale) if scale > 0.0 else np.zeros(len(flat))
        parts += [np.array([scale], dtype="<f4"), levels.astype(np.int8)]
    every = np.concatenate([np.zeros(0, dtype=np.float32), *large.values()])
    chosen = _largest(every, config.density)
    tables, codes, start = [], [], 0
    for flat in large.values():
        going = flat[chosen[start : start + len(flat)]]
        table, places = _sizes(np.abs(going), 2 ** (config.bits - 1))
        tables.append(table)
        codes.append(places * 2 + (going < 0.0))
        start += len(flat)
    if not any(flat.any() for flat in (*large.values(), *small.values())):
        return _fingerprint(change)
    if large:
        parts += [np.packbits(chosen), *tables, _joined(np.concatenate(codes), config.bits)]
    header = HEADER.pack(config.bits, config.whole_below)
    return _fingerprint(change) + header + b"".join(part.tobytes() for part in parts)


def unpack(content: bytes, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The change that ``pack`` wrote, dense, for parameters ``like`` those. Raises InputError where it is not for them."""
    if not content.startswith(_fingerprint(like)):
        raise InputError(
            f"an update of {len(content)} bytes is not of this training: it is of another model, or damaged"
        )
    if len(content) == FINGERPRINT_BYTES:
        return {name: torch.zeros(value.shape) for name, value in like.items()}
    try:
        found = _Reader(content[FINGERPRINT_BYTES:]).changes({name: value.numel() for name, value in like.items()})
    except (struct.error, IndexError) as error:
        raise InputError(f"an update of {len(content)} bytes is cut off, or damaged") from error
    if not all(np.isfinite(flat).all() for flat in found.values()):
        raise InputError(f"an update of {len(content)} bytes holds values that are no numbers: its training diverged")
    return {name: torch.from_numpy(found[name]).view(value.shape) for name, value in like.items()}


class _Reader:
    """Takes an update apart; raises IndexError where it ends too early or too late."""

    def __init__(self, content: bytes) -> None:
        self._bits, self._whole_below = HEADER.unpack_from(content)
        if not 1 <= self._bits <= 8:
            raise IndexError(self._bits)
        self._rest = np.frombuffer(content, dtype=np.uint8)[HEADER.size :]

    def changes(self, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Flat float32 values by name."""
        large = {name: size for name, size in sizes.items() if size > self._whole_below}
        found = {}
        for name in (name for name in sizes if name not in large):
            [scale] = self._take(4).view("<f4")
            found[name] = self._take(sizes[name]).view(np.int8) * np.float32(scale)
        if large:
            total = sum(large.values())
            chosen = np.unpackbits(self._take(-(-total // 8)))[:total].astype(bool)
            tables = [self._take(4 * 2 ** (self._bits - 1)).view("<f4") for _ in large]
            codes = _split(self._take(-(-int(chosen.sum()) * self._bits // 8)), int(chosen.sum()), self._bits)
            start, used = 0, 0
            for table, (name, size) in zip(tables, large.items(), strict=True):
                mine = chosen[start : start + size]
                own = codes[used : used + int(mine.sum())]
                found[name] = np.zeros(size, dtype=np.float32)
                found[name][mine] = np.where(own % 2, -table[own // 2], table[own // 2])
                start, used = start + size, used + len(own)
        if len(self._rest):
            raise IndexError(len(self._rest))
        return found

    def _take(self, count: int) -> np.ndarray:
        if len(self._rest) < count:
            raise IndexError(count)
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken.copy()  # a view of another type must begin where that type may


def _largest(values: np.ndarray, density: float) -> np.ndarray:
    """Which entries go: so many and no more, though others be as large, and none that is zero."""
    if not len(values):
        return np.zeros(0, dtype=bool)
    sizes, count = np.abs(values), max(1, round(density * len(values)))
    bar = np.partition(sizes, len(sizes) - count)[len(sizes) - count]
    chosen = ~(sizes <= bar)  # what is no number is the largest: it must not stay unseen
    if bar > 0.0:
        chosen[np.flatnonzero(sizes == bar)[: count - int(chosen.sum())]] = True
    return chosen


def _sizes(sizes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(``count`` sizes, which of them each entry has): the means of as many equal parts of the entries, by their size."""
    if not len(sizes):
        return np.zeros(count, dtype="<f4"), np.zeros(0, dtype=np.int64)
    edges = np.quantile(sizes, np.arange(1, count) / count)
    places = np.searchsorted(edges, sizes, side="right")
    numbers = np.bincount(places, minlength=count)
    return (np.bincount(places, sizes, count) / np.maximum(numbers, 1)).astype("<f4"), places


def _joined(codes: np.ndarray, bits: int) -> np.ndarray:
    """Numbers below 2^bits, ``bits`` each, as bytes."""
    return np.packbits((codes[:, None] >> np.arange(bits)) & 1)


def _split(content: np.ndarray, count: int, bits: int) -> np.ndarray:
    """The ``count`` numbers that ``_joined`` wrote."""
    each = np.unpackbits(content)[: count * bits].reshape(count, bits)
    return (each.astype(np.int64) << np.arange(bits)).sum(axis=1)


def _fingerprint(parameters: Mapping[str, Tensor]) -> bytes:
    """What an update is for: names, shapes and their order."""
    told = sha256_json([[name, list(value.shape)] for name, value in parameters.items()])
    return bytes.fromhex(told)[:FINGERPRINT_BYTES]
