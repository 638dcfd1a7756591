"""The worker's side of ``pipeline.cluster.work``: does one item, measures it, and never raises for a bad one."""

from __future__ import annotations

import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.errors import EdgealignError


@dataclass(frozen=True)
class Load:
    """What a device told of itself while it did one item."""

    samples: list[tuple[str, float, int, int]] = field(default_factory=list)
    """(``system/<name>``, value, time in ms, step)."""
    energy_j: float | None = None
    """Of the whole module; None where it measures no power."""
    hottest_c: float | None = None
    power_mode: str | None = None
    paused_s: float = 0.0
    """Time that training waited for a hot device or a busy service; part of the item's seconds."""


@dataclass(frozen=True)
class Outcome:
    """What came of one item, on its way to the driver."""

    value: Any
    error: str | None
    """Why it failed; None where it did not."""
    node_id: str
    peak_rss_bytes: int
    seconds: float
    advanced: int = 0
    unusable: bool = False
    """True where the actor could not be constructed, so that no other item would fare better."""
    load: Load | None = None


def explain(error: BaseException) -> str:
    """The message of an expected error; type, message and place of an unexpected one."""
    if isinstance(error, EdgealignError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def reset_peak_rss() -> None:
    """Let the process's peak memory start anew, where Linux allows it; else it stays the peak since the process began."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_rss_bytes() -> int:
    """Largest resident memory of this process since ``reset_peak_rss``."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measured(call: Callable[[], Any]) -> Outcome:
    """Run ``call`` and say what came of it."""
    import ray

    reset_peak_rss()
    started = time.perf_counter()
    value, error = None, None
    try:
        value = call()
    except Exception as caught:  # a bad item must not take the others with it: it is reported, not raised
        error = explain(caught)
    seconds = time.perf_counter() - started
    return Outcome(value, error, ray.get_runtime_context().get_node_id(), peak_rss_bytes(), seconds)


def run_task(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Outcome:
    """One item as a task, within the device's budgets and with its telemetry."""
    from dataclasses import replace

    from jetson_agent.budgets import Gate, Limits, is_serving, power_mode
    from jetson_agent.telemetry.sampler import Sampler
    from pipeline.system_metrics import SystemMetrics
    from stages.yielding import gated

    sampler = Sampler().start()
    sampler.sample()

    def hottest() -> float | None:
        return sampler.last.hottest_c if sampler.last else None

    load = SystemMetrics([lambda: sampler.sample().figures()]).start()
    try:
        gate = Gate(Limits.of_environment(), hottest, is_serving)
        with gated(gate):
            outcome = measured(lambda: _capped(function, arguments))
    finally:
        samples = load.stop()
        sampler.stop()
    return replace(outcome, load=Load(samples, sampler.energy_j, sampler.peak_c, power_mode(), gate.paused_s))


def _capped(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """One item within the memory that a virtual device offers."""
    import ray

    from pipeline.cluster.cap import memory_cap
    from pipeline.cluster.nodes import node_info

    if not ray.is_initialized() or ray.get_runtime_context().get_task_id() is None:
        return function(*arguments)  # in the driver's own process, which is no device
    context = ray.get_runtime_context()
    cap_bytes = None
    if context.get_assigned_resources().get("jetson"):
        here = context.get_node_id()
        [node] = [node_info(node) for node in ray.nodes() if node["NodeID"] == here]
        cap_bytes = node.memory_bytes if node.kind == "virtual" else None
    with memory_cap(cap_bytes):
        return function(*arguments)


class Actor:
    """One worker of a pool: constructs the caller's class at its first item, then does one item a call."""

    def __init__(self, actor_class: Callable[..., Any], constructor_arguments: tuple[Any, ...]) -> None:
        self._make = lambda: actor_class(*constructor_arguments)
        self._worker: Any = None
        self._advanced = 0

    def work(self, arguments: tuple[Any, ...], with_advance: bool) -> Outcome:
        """Do one item; ``Outcome.advanced`` is the final count."""
        self._advanced = 0
        if self._worker is None:
            made = measured(self._make)
            if made.error is not None:
                return Outcome(None, made.error, made.node_id, made.peak_rss_bytes, made.seconds, unusable=True)
            self._worker = made.value
        keywords = {"advance": self._advance} if with_advance else {}
        outcome = measured(lambda: self._worker.work(*arguments, **keywords))
        return Outcome(
            outcome.value, outcome.error, outcome.node_id, outcome.peak_rss_bytes, outcome.seconds, self._advanced
        )

    def advanced(self) -> int:
        """The count so far; answered by a second thread while ``work`` goes on."""
        return self._advanced

    def _advance(self, count: int = 1) -> None:
        self._advanced += count
