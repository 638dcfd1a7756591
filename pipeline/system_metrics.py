"""How busy the machine is while a stage runs, under MLflow's own names (``system/...``), so that its UI shows them as such.

MLflow's monitor sends to a live run; a stage's run is spooled when it ends. So the samples are kept until then.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil

from pipeline.tracking.record import now_ms
from stages.flat import finite

log = logging.getLogger("edgealign.tracking")

INTERVAL_S = 1.0
MOST_SAMPLES = 240
"""Samples that a run keeps. When there are as many, every second one goes and the interval doubles: a run of a night has no
more to send than one of minutes."""

Probe = Callable[[], Mapping[str, Any]]
"""Gives figures by MLflow's names without ``system/``; a device adds one for its power and temperature."""


def host_probe() -> Probe:
    """CPU, memory, disk and network of this machine, as MLflow 3.17 names and measures them (``mlflow.system_metrics``)."""
    start = psutil.net_io_counters()
    psutil.cpu_percent()  # the first call has nothing to compare with

    def sample() -> dict[str, float]:
        memory, disk, network = psutil.virtual_memory(), psutil.disk_usage(os.sep), psutil.net_io_counters()
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.used / memory.total * 100,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / 1e6,
            "disk_available_megabytes": disk.free / 1e6,
        }
        if network and start:  # a sandbox may have no interface
            found["network_receive_megabytes"] = (network.bytes_recv - start.bytes_recv) / 1e6
            found["network_transmit_megabytes"] = (network.bytes_sent - start.bytes_sent) / 1e6
        return found

    return sample


class SystemMetrics:
    """Samples the probes in a thread of its own between ``start`` and ``stop``. Nothing that a probe does reaches the stage."""

    def __init__(self, probes: Sequence[Probe] | None = None, interval_s: float = INTERVAL_S) -> None:
        """``probes`` None: this machine's."""
        self._probes = list(probes) if probes is not None else None
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)
        self._samples: list[tuple[int, dict[str, float]]] = []

    def start(self) -> SystemMetrics:
        """Begin to sample."""
        self._thread.start()
        return self

    def stop(self) -> list[tuple[str, float, int, int]]:
        """End it; every figure as (``system/<name>``, value, time in ms, step)."""
        self._stopped.set()
        self._thread.join(timeout=5.0)
        return [
            (f"system/{name}", value, at, step)
            for step, (at, figures) in enumerate(list(self._samples))
            for name, value in figures.items()
        ]

    def _run(self) -> None:
        try:
            probes = [host_probe()] if self._probes is None else self._probes
        except (OSError, RuntimeError, psutil.Error) as error:
            log.warning("tracking: this machine tells nothing of its load: %s", error)
            return
        due = time.monotonic()
        while True:
            due += self._interval_s
            last = self._stopped.wait(max(0.0, due - time.monotonic()))
            self._sample(probes)
            if last:
                return

    def _sample(self, probes: list[Probe]) -> None:
        figures: dict[str, float] = {}
        for probe in list(probes):
            try:
                told = {name: finite(value) for name, value in probe().items()}
            except Exception as error:  # a sensor that is gone must not cost a stage its results
                log.warning("tracking: a probe of this machine fails and is left out: %s", error)
                probes.remove(probe)
                continue
            figures |= {name: round(value, 3) for name, value in told.items() if value is not None}
        if figures:
            self._samples.append((now_ms(), figures))
        if len(self._samples) >= MOST_SAMPLES:
            self._samples[:] = self._samples[::2]
            self._interval_s *= 2
