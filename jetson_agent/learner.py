"""Learning beside a server: what was heard is remembered, and updates run in a child process that yields to serving."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

from jetson_agent.home import Home
from jetson_agent.replay import Remembered
from jetson_agent.shelf import Version

logger = logging.getLogger(__name__)

POLL_S = 0.05
STOP_S = 10.0


class Learner:
    """Keeps what the user said and, after enough corrections, lets ``adapt --once`` run."""

    def __init__(self, home: Home, serving: Callable[[], bool], on_change: Callable[[Version | None], None]) -> None:
        """``serving()``: a request is being answered; ``on_change``: another version is in use from now on."""
        self._home, self._serving, self._on_change = home, serving, on_change
        self._stop, self._asked = threading.Event(), threading.Event()
        self._new: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._running = False
        self._rounds = 0
        self._known: Version | None = None

    def start(self) -> None:
        """Begin to learn in the background."""
        self._known = self._home.shelf.current()
        self._thread = threading.Thread(target=self._run, name="learner", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, and an update that is under way with it: it loses its few seconds of work and nothing else."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(STOP_S)

    def heard(self, item: Remembered) -> None:
        """Remember an utterance; one that nobody corrects is learned from where its confidence suffices."""
        sure = item.confidence >= self._home.settings.min_confidence
        # one that is too unsure to learn from is kept without a text, so that it can still be corrected
        self._home.replay.add(item if sure or item.source == "correction" else _unsure(item))
        if item.source == "correction":
            self._count(item.utterance)

    def correct(self, utterance: str, text: str) -> None:
        """What the user really said; on the disk when this returns. Raises InputError where it is not remembered."""
        self._home.replay.correct(utterance, text)
        self._count(utterance)

    def status(self) -> dict[str, object]:
        """For a page: what is in use, what waits, whether an update runs."""
        version = self._home.shelf.current()
        return {
            "version": version.number if version else None,
            "remembered": len(self._home.replay.items()),
            "waiting": len(self._new),
            "updating": self._running,
            "rounds": self._rounds,
        }

    def _count(self, utterance: str) -> None:
        with self._lock:
            self._new.add(utterance)
            if len(self._new) >= self._home.settings.update_after:
                self._asked.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._asked.wait(POLL_S):
                with self._lock:
                    self._asked.clear()
                    self._new.clear()
                try:
                    self._update()
                except Exception:
                    logger.exception("an update failed; what is in use stays")
            self._look()

    def _look(self) -> None:
        """Tell the server of another version, whoever put it in use."""
        version = self._home.shelf.current() if self._changed() else self._known
        if version != self._known:
            self._known = version
            self._on_change(version)

    def _changed(self) -> bool:
        try:
            stamp = self._home.shelf.pointer.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        before, self._stamp = getattr(self, "_stamp", None), stamp
        return stamp != before

    def _update(self) -> None:
        command = [sys.executable, "-m", "jetson_agent", "adapt", "--once", "--home", str(self._home.folder)]
        self._running = True
        child = subprocess.Popen(["nice", "-n", "10", *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        paused = False
        try:
            while child.poll() is None and not self._stop.wait(POLL_S):
                wanted = self._serving()
                if wanted != paused:
                    os.kill(child.pid, signal.SIGSTOP if wanted else signal.SIGCONT)
                    paused = wanted
            self._rounds += 1
        finally:
            if child.poll() is None:
                child.kill()  # a stopped process ends by it too
            if child.wait():
                logger.warning("adapt ended with status %s", child.returncode)
            self._running = False


def _unsure(item: Remembered) -> Remembered:
    from dataclasses import replace

    return replace(item, text="")
