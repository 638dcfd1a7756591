"""The same from the kernel's files: thermal zones, INA3221 power monitors, the GPU's load. Needs no program and no rights."""

from __future__ import annotations

from pathlib import Path

from jetson_agent.telemetry.reading import Reading
from jetson_agent.telemetry.tegrastats import COLDEST_C

SYS = Path("/sys")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:  # a sensor of a part that sleeps answers with an error
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None


def read(root: Path = SYS) -> Reading:
    """What ``root`` (the kernel's /sys) tells; empty on a machine without sensors."""
    return Reading(gpu_percent=_gpu(root), temperatures_c=_temperatures(root), rails_w=_rails(root))


def _temperatures(root: Path) -> dict[str, float]:
    found = {}
    for zone in sorted((root / "devices/virtual/thermal").glob("thermal_zone*")):
        name, milli = _text(zone / "type").lower().removesuffix("-thermal"), _number(zone / "temp")
        if name and milli is not None and milli / 1000 > COLDEST_C:
            found[name.replace("-", "_")] = milli / 1000
    return found


def _rails(root: Path) -> dict[str, float]:
    """Voltage (mV) times current (mA) of each labelled channel of each INA3221."""
    found = {}
    for monitor in sorted((root / "class/hwmon").glob("hwmon*")):
        if _text(monitor / "name") != "ina3221":
            continue
        for channel in (1, 2, 3):
            label = _text(monitor / f"in{channel}_label")
            volts, amperes = _number(monitor / f"in{channel}_input"), _number(monitor / f"curr{channel}_input")
            if label and label != "NC" and volts is not None and amperes is not None:
                found[label.upper()] = volts * amperes / 1e6
    return found


def _gpu(root: Path) -> float | None:
    """The kernel gives the load in tenths of a percent."""
    for device in sorted((root / "class/devfreq").glob("*gpu*")):
        load = _number(device / "device" / "load")
        if load is not None:
            return load / 10
    return None
