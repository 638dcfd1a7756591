"""What a benchmark writes: figures with what was asked, how, where and when; tables and plots are made from these files."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stages.atomic import write_json

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
PACKAGES = ("torch", "torchaudio", "transformers", "peft", "ray", "mlflow", "dvc", "ctranslate2", "numpy")


@dataclass(frozen=True)
class Figure:
    """One measured figure."""

    name: str
    value: float | None  # None: could not be measured; the note says why
    unit: str
    asked: str  # the figure asked for, as a person reads it, e.g. "≤ 0.20"; empty where nothing was asked
    met: bool | None  # None where nothing was asked
    seeds: Sequence[int] = ()
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)


def at_most(name: str, value: float, limit: float, unit: str, **more: Any) -> Figure:
    """A figure that should be small."""
    return Figure(name, round(value, 4), unit, f"≤ {limit:g}", value <= limit, **more)


def at_least(name: str, value: float, limit: float, unit: str, **more: Any) -> Figure:
    """A figure that should be large."""
    return Figure(name, round(value, 4), unit, f"≥ {limit:g}", value >= limit, **more)


def plain(name: str, value: float, unit: str, **more: Any) -> Figure:
    """A figure that nothing was asked of."""
    return Figure(name, round(value, 4), unit, "", None, **more)


def machine() -> dict[str, Any]:
    """This machine, as far as figures depend on it."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": model, "cores": os.cpu_count(), "memory_gb": round(memory / 1e9, 1), "device_kind": "virtual"}


def versions() -> dict[str, str]:
    """Versions of the libraries that figures depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def write_area(
    area: str, figures: Sequence[Figure], plots: dict[str, Any] | None = None, folder: Path = FOLDER, tell: bool = True
) -> Path:
    """Write ``docs/benchmarks/<area>.json`` and ``tell`` the figures; ``folder`` for runs that are not to stand there."""
    path = folder / f"{area}.json"
    write_json(
        path,
        {
            "area": area,
            "command": f"make bench AREA={area}",
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "machine": machine(),
            "versions": versions(),
            "figures": [asdict(figure) for figure in figures],
            "plots": plots or {},
        },
    )
    for figure in figures if tell else ():
        asked = f"   asked {figure.asked}: {'met' if figure.met else 'NOT met'}" if figure.asked else ""
        print(f"{figure.name}: {figure.value} {figure.unit}{asked}", file=sys.stderr)
    return path


def read_areas() -> list[dict[str, Any]]:
    """Every area that was measured, by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))]
