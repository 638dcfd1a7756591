"""One source of readings for everything: the fleet's table, the runs' system metrics, the temperature budget."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from pathlib import Path

import psutil

from jetson_agent.processes import end_processes
from jetson_agent.telemetry import sysfs, tegrastats
from jetson_agent.telemetry.reading import Reading

INTERVAL_S = 1.0


def proc() -> Reading:
    """What every Linux tells, by way of psutil."""
    memory = psutil.virtual_memory()
    return Reading(
        memory_used_bytes=memory.total - memory.available,
        memory_total_bytes=memory.total,
        swap_used_bytes=psutil.swap_memory().used,
        cpu_percent=psutil.cpu_percent(),
    )


class Sampler:
    """Reads this machine: ``read()`` at any time; ``sample()`` counts into the energy and the peak.

    Source: tegrastats where the program is there, else sysfs; what neither tells comes from /proc.
    """

    def __init__(
        self,
        interval_s: float = INTERVAL_S,
        *,
        program: str | None = None,
        root: Path = sysfs.SYS,
    ) -> None:
        """``program``: the tegrastats to run (default: the one on the PATH, if any). ``root``: the kernel's /sys."""
        self.interval_s = interval_s
        self._program = program or shutil.which("tegrastats")
        self._root = root
        self._process: psutil.Popen | None = None
        self._told: Reading | None = None
        self._reader: threading.Thread | None = None
        self._joules = 0.0
        self._last: tuple[float, float] | None = None
        self.last: Reading | None = None
        self.peak_c: float | None = None

    @property
    def energy_j(self) -> float | None:
        """Joules of the whole module since the first ``sample``; None where it measures no power."""
        return self._joules if self._last is not None else None

    def read(self) -> Reading:
        """One reading, now (of tegrastats: its last line)."""
        told = self._told if self._told is not None else Reading()
        return told.over(sysfs.read(self._root)).over(proc())

    def sample(self) -> Reading:
        """One reading, counted into the energy and the peak."""
        self.last = self.read()
        self._count(self.last, time.monotonic())
        return self.last

    def start(self) -> Sampler:
        """Begin to follow tegrastats, where it is there; one that cannot be started leaves sysfs."""
        if self._program:
            try:
                self._process = psutil.Popen(
                    [self._program, "--interval", str(int(self.interval_s * 1000))],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
                self._reader = threading.Thread(target=self._follow, name="tegrastats", daemon=True)
                self._reader.start()
            except OSError:
                self._process = None
        return self

    def stop(self) -> Sampler:
        """End the tegrastats that was started."""
        if self._process is not None:
            end_processes([self._process])
        if self._reader is not None:
            self._reader.join(timeout=5.0)
        return self

    def _follow(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            self._told = tegrastats.parse(line) or self._told
        self._told = None  # it ended: an old line must not pass for the present

    def _count(self, reading: Reading, now_s: float) -> None:
        """Add the energy since the last reading, by the trapezoidal rule."""
        if reading.hottest_c is not None:
            self.peak_c = max(reading.hottest_c, self.peak_c if self.peak_c is not None else reading.hottest_c)
        if reading.power_w is None:
            return
        if self._last is not None:
            before_s, watts = self._last
            self._joules += (now_s - before_s) * (watts + reading.power_w) / 2
        self._last = (now_s, reading.power_w)
