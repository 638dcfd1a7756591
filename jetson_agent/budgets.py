"""What training may ask of a device: how hot it may get, that it makes way for serving, in which power mode it ran."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jetson_agent.home import Home
from stages.errors import EdgealignError, SettingsError

logger = logging.getLogger(__name__)

POLL_S = 1.0
LONGEST_COOLING_S = 1200.0
"""A device that is too hot for so long has a fan to be looked at; the driver would give its work up after 1,800 s."""
LONGEST_YIELD_S = 30.0
"""Training waits at most so long before one step: a service that never rests must not starve it."""
SERVING_FRESH_S = 3.0
PAUSE_VARIABLE, RESUME_VARIABLE = "EDGEALIGN_PAUSE_ABOVE_C", "EDGEALIGN_RESUME_BELOW_C"


@dataclass(frozen=True)
class Limits:
    """Temperatures of the hottest sensor, in degrees Celsius. An Orin slows itself down at 99."""

    pause_above_c: float = 85.0
    resume_below_c: float = 75.0

    def __post_init__(self) -> None:
        if not self.resume_below_c < self.pause_above_c:
            raise SettingsError(
                f"training would pause above {self.pause_above_c:g} C and resume below {self.resume_below_c:g} C: "
                "the second must be lower than the first."
            )

    @classmethod
    def of_environment(cls, variables: Mapping[str, str] = os.environ) -> Limits:
        """As `edgealign-agent join` handed them to the node's workers. Raises SettingsError for what is no number."""
        try:
            return cls(
                float(variables.get(PAUSE_VARIABLE, cls.pause_above_c)),
                float(variables.get(RESUME_VARIABLE, cls.resume_below_c)),
            )
        except ValueError as error:
            raise SettingsError(f"{PAUSE_VARIABLE} and {RESUME_VARIABLE} need degrees Celsius: {error}") from None

    def variables(self) -> dict[str, str]:
        """For the environment of a node's workers."""
        return {PAUSE_VARIABLE: str(self.pause_above_c), RESUME_VARIABLE: str(self.resume_below_c)}


class Gate:
    """Called between two steps of a training: waits while the device is too hot or serves."""

    def __init__(
        self,
        limits: Limits,
        hottest_c: Callable[[], float | None],
        serving: Callable[[], bool],
        sleep: Callable[[float], None] = time.sleep,
        yield_s: float = POLL_S,
    ) -> None:
        """``hottest_c`` gives the device's temperature now (None: it tells none, and nothing pauses for it).

        ``yield_s``: how often it looks whether the device still serves.
        """
        self._limits, self._hottest_c, self._serving, self._sleep = limits, hottest_c, serving, sleep
        self._yield_s = yield_s
        self._looked_s = float("-inf")
        self._hot = False
        self.paused_s = 0.0
        """Time that was waited so far, for both reasons."""

    def __call__(self) -> None:
        """Raises EdgealignError where the device does not cool down."""
        self._cool()
        waited = 0.0
        while waited < LONGEST_YIELD_S and self._serving():
            waited += self._wait(self._yield_s)

    def _cool(self) -> None:
        if time.monotonic() - self._looked_s < POLL_S:
            return  # a step takes milliseconds, a temperature seconds
        self._looked_s = time.monotonic()
        waited, degrees = 0.0, self._hottest_c()
        while degrees is not None and self._too_hot(degrees):
            if waited >= LONGEST_COOLING_S:
                raise EdgealignError(
                    f"the device is at {degrees:.0f} C after a pause of {waited:.0f} s, needed below "
                    f"{self._limits.resume_below_c:g} C. Look at its fan and its place, or choose a lower power mode."
                )
            waited += self._wait(POLL_S)
            degrees = self._hottest_c()

    def _too_hot(self, degrees: float) -> bool:
        """With hysteresis: once too hot, it stays so until it is well below."""
        was = self._hot
        self._hot = degrees >= self._limits.resume_below_c if was else degrees > self._limits.pause_above_c
        if self._hot != was:
            logger.warning("training %s at %.0f C", "pauses" if self._hot else "goes on", degrees)
        return self._hot

    def _wait(self, seconds: float) -> float:
        self._sleep(seconds)
        self.paused_s += seconds
        return seconds


def is_serving(flag: Path | None = None) -> bool:
    """Whether something on this device said so lately by touching ``flag``, by default ``serving`` in the agent's home.

    One that died meanwhile stops nothing.
    """
    try:
        return 0 <= time.time() - (flag or Home.open().folder / "serving").stat().st_mtime < SERVING_FRESH_S
    except OSError:
        return False


def power_mode(program: str | None = None) -> str | None:
    """The device's power mode as ``nvpmodel -q`` names it, e.g. ``MAXN_SUPER``; None where there is no such program."""
    found = program or shutil.which("nvpmodel")
    if not found:
        return None
    try:
        said = subprocess.run([found, "-q"], capture_output=True, text=True, timeout=10.0, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    for line in said.splitlines():
        title, _, mode = line.partition(":")
        if title.strip().lower() == "nv power mode":
            return mode.strip() or None
    return None
