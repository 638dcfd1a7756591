"""Where a training may be held up between two steps: the device decides (temperature, serving), the stage only asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_gate: ContextVar[Callable[[], None] | None] = ContextVar("gate", default=None)


@contextmanager
def gated(gate: Callable[[], None]) -> Iterator[None]:
    """Within the block, ``gate()`` is called between steps; it may wait, or raise to end the training."""
    token = _gate.set(gate)
    try:
        yield
    finally:
        _gate.reset(token)


def between_steps() -> None:
    """Called by every training loop before each step."""
    gate = _gate.get()
    if gate is not None:
        gate()
