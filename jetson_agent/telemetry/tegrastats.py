"""NVIDIA's ``tegrastats``: one line a sample. Formats differ between releases and modules; what a line lacks is left out."""

from __future__ import annotations

import re

from jetson_agent.telemetry.reading import Reading

MEGABYTE = 2**20
"""tegrastats says MB and counts in units of 1024."""

_MEMORY = re.compile(r"\bRAM (\d+)/(\d+)\s?MB")
_SWAP = re.compile(r"\bSWAP (\d+)/\d+\s?MB")
_CORES = re.compile(r"\bCPU \[([^\]]*)\]")
_GPU = re.compile(r"\bGR3D_FREQ (\d+)%")
_TEMPERATURE = re.compile(r"(?<!\S)(\w+)@(-?\d+(?:\.\d+)?)C(?:/-?\d+(?:\.\d+)?C)?(?!\S)")
_RAIL = re.compile(r"(?<!\S)([A-Za-z]\w*) (\d+)(mW)?/(\d+)(?:mW)?(?:/\d+(?:mW)?)?(?!\S)")
COLDEST_C = -100.0
"""A sensor that is off reads -256 C."""


def parse(line: str) -> Reading | None:
    """What one line tells; None where it is no line of tegrastats."""
    memory = _MEMORY.search(line)
    if memory is None:
        return None
    swap, cores, gpu = _SWAP.search(line), _CORES.search(line), _GPU.search(line)
    loads = (
        [float(part.partition("%")[0]) for part in cores[1].split(",") if re.match(r"\s*\d+%", part)] if cores else []
    )
    return Reading(
        memory_used_bytes=int(memory[1]) * MEGABYTE,
        memory_total_bytes=int(memory[2]) * MEGABYTE,
        swap_used_bytes=int(swap[1]) * MEGABYTE if swap else None,
        cpu_percent=sum(loads) / len(loads) if loads else None,
        gpu_percent=float(gpu[1]) if gpu else None,
        temperatures_c={
            name.lower(): float(degrees) for name, degrees in _TEMPERATURE.findall(line) if float(degrees) > COLDEST_C
        },
        rails_w={name.upper(): int(now) / 1000 for name, now, _, _ in _RAIL.findall(line)},
    )
