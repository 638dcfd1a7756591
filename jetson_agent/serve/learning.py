"""Learning while the device serves: one thread that updates, judges, and has the engine take what is on the shelf."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from jetson_agent.budgets import Gate, Limits
from jetson_agent.serve.engine import Engine
from jetson_agent.shelf import Event
from jetson_agent.storage import disk_full
from jetson_agent.telemetry.sampler import Sampler
from jetson_agent.update import Outcome, adapt
from stages.errors import EdgealignError
from stages.yielding import gated

logger = logging.getLogger(__name__)

LOOK_S = 1.0
YIELD_S = 0.02


@dataclass(frozen=True)
class LearnerState:
    """What the learner does, and what its last update came to."""

    state: Literal["waiting", "learning"]
    waiting_corrections: int
    last: Outcome | None
    error: str | None


class Learner:
    """Begins an update when enough corrections came in since the last one, or when it is asked to."""

    def __init__(self, engine: Engine, learn_after: int) -> None:
        """``learn_after`` 0: only when asked."""
        self._engine, self._home, self._learn_after = engine, engine.home, learn_after
        self._sampler = Sampler()
        limits = Limits.of_environment()
        self._gate = Gate(limits, lambda: self._sampler.read().hottest_c, lambda: engine.busy, yield_s=YIELD_S)
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._asked = 0
        self._done = threading.Condition()
        self._finished = 0
        self._tried = ""
        self._state: Literal["waiting", "learning"] = "waiting"
        self._last: Outcome | None = None
        self._error: str | None = None
        self._thread = threading.Thread(target=self._run, name="learner", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._sampler.start()
        self._thread.start()

    def close(self) -> None:
        """Stop at the next step of an update under way; the next one goes on there."""
        self._stop.set()
        self._wake.set()
        self._thread.join()
        self._sampler.stop()

    def ask(self) -> int:
        """Have an update begin now, or after the one under way; gives the number to wait for."""
        with self._done:
            self._asked = self._finished + (2 if self._state == "learning" else 1)
            number = self._asked
        self._wake.set()
        return number

    def wait(self, number: int, timeout_s: float) -> bool:
        """Whether that update ended within ``timeout_s``."""
        with self._done:
            return self._done.wait_for(lambda: self._finished >= number, timeout_s)

    def state(self) -> LearnerState:
        """Now."""
        return LearnerState(self._state, waiting(self._engine), self._last, self._error)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(LOOK_S)
            self._wake.clear()
            try:
                self._engine.refresh()  # another program may have changed the shelf
                if self._finished < self._asked or self._due():
                    self._update()
            except EdgealignError as error:
                self._error = str(error)
                logger.warning("%s", error)
            except OSError as error:
                full = disk_full(error)
                self._error = str(full or error)
                logger.warning("an update was given up: %s", self._error)
            except Exception as error:  # the service answers on, whatever befalls learning
                self._error = f"{type(error).__name__}: {error}"
                logger.exception("learning failed")

    def _update(self) -> None:
        self._state = "learning"
        try:
            with gated(self._between_steps):
                self._last = adapt(self._home)
            self._error = None
            logger.info("%s: %s", "taken" if self._last.taken else "not taken", self._last.why)
            self._engine.refresh()
        finally:
            with self._done:
                self._state = "waiting"
                self._finished += 1
                self._done.notify_all()

    def _between_steps(self) -> None:
        if self._stop.is_set():
            raise EdgealignError("the service ends: the update under way goes on when it starts again")
        self._gate()

    def _due(self) -> bool:
        if not self._learn_after:
            return False
        new = waiting(self._engine)
        if new < self._learn_after:
            return False
        # an update that ended in an error is not begun again before something changed
        newest = f"{new}:{max((path.name for path in self._engine.replay.paths()), default='')}"
        if newest == self._tried:
            return False
        self._tried = newest
        return True


def waiting(engine: Engine) -> int:
    """Corrections that came after the last update began: it did not see them."""
    judged = [event for event in engine.home.history() if "method" in event.figures]
    return engine.replay.corrections_since(_began(judged[-1]) if judged else float("-inf"))


def _began(event: Event) -> float:
    """When an update began, in seconds since 1970; long before its last steps where it was cut off."""
    if "began" in event.figures:
        return datetime.fromisoformat(event.figures["began"]).timestamp()
    return event.when - float(event.figures["seconds"])  # written before updates could go on
