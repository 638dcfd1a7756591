"""One look at a device. What it does not tell is None or absent, never zero."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

WHOLE_BOARD = ("VDD_IN", "POM_5V_IN")
"""Rails that measure the input of the whole module: the others are parts of it."""
PARTS = ("VDDQ_VDD2_1V8AO",)
"""Rails fed by another measured rail (on AGX Orin by VIN_SYS_5V0): adding them would count them twice."""


@dataclass(frozen=True)
class Reading:
    """One sample."""

    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    swap_used_bytes: int | None = None
    cpu_percent: float | None = None
    """Mean over the cores that are on."""
    gpu_percent: float | None = None
    temperatures_c: dict[str, float] = field(default_factory=dict)
    """By sensor, lower case, without those that are off."""
    rails_w: dict[str, float] = field(default_factory=dict)
    """Power by rail, upper case."""

    @property
    def power_w(self) -> float | None:
        """Of the whole module: its input rail where there is one, else the sum of the rails that are no part of another."""
        for rail in WHOLE_BOARD:
            if rail in self.rails_w:
                return self.rails_w[rail]
        whole = [watts for rail, watts in self.rails_w.items() if rail not in PARTS]
        return sum(whole) if whole else None

    @property
    def hottest_c(self) -> float | None:
        """The warmest sensor: on a Jetson the junction, ``tj``."""
        return max(self.temperatures_c.values(), default=None)

    def over(self, other: Reading) -> Reading:
        """This reading, with what it does not tell taken from ``other``."""
        return Reading(
            **{item.name: _first(getattr(self, item.name), getattr(other, item.name)) for item in fields(self)}
        )

    def figures(self) -> dict[str, float]:
        """By the names of MLflow's system metrics, without ``system/``; only what the device tells."""
        told: dict[str, float | None] = {
            "device_memory_usage_megabytes": None if self.memory_used_bytes is None else self.memory_used_bytes / 1e6,
            "device_swap_usage_megabytes": None if self.swap_used_bytes is None else self.swap_used_bytes / 1e6,
            "device_cpu_utilization_percentage": self.cpu_percent,
            "gpu_0_utilization_percentage": self.gpu_percent,
            "device_power_watts": self.power_w,
        }
        told |= {f"device_temperature_{name}_celsius": value for name, value in self.temperatures_c.items()}
        told |= {f"device_power_{rail.lower()}_watts": watts for rail, watts in self.rails_w.items()}
        return {name: value for name, value in told.items() if value is not None}


def _first(mine: Any, other: Any) -> Any:
    return other if mine is None or mine == {} else mine
