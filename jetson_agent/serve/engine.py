"""The models of a device's service, and the adapter in use: it is exchanged without a request noticing.

All work on the models goes through one thread, a step at a time, in the order in which it was asked for: on a small device,
two steps side by side are slower than one after the other. A reply is many steps, so replies to several people take turns.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from jetson_agent.home import Home
from jetson_agent.replay import Remembered, name_of
from jetson_agent.serve.settings import ServeSettings
from stages.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from stages.listener import Heard, Listener

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class InUse:
    """An adapter that is ready, and which version of the user's shelf it is (None: the base alone)."""

    listener: Listener
    base: Path
    version: int | None
    sha256: str | None
    words: tuple[str, ...] = ()  # that are listened for


@dataclass(frozen=True)
class Turn:
    """One utterance as it was heard."""

    utterance: str
    samples: np.ndarray
    heard: Heard
    version: int | None
    began: float  # time.perf_counter() when the models were free for it

    def remembered(self, text: str, source: Literal["correction", "confident"]) -> Remembered:
        """As the replay buffer keeps it."""
        confidence = self.heard.read_out.confidence
        frames = self.heard.frames.astype("float16")
        return Remembered(self.utterance, self.samples, frames, self.heard.text, text, source, confidence)


class Engine:
    """Loads once, hears and replies until ``close``."""

    def __init__(self, home: Home, settings: ServeSettings) -> None:
        """Raises InputError and ModelError where the device is not set up or a model does not load."""
        from stages.alignment.rescoring import Rescorer, SpelledWords
        from stages.alignment.streaming import Responder
        from stages.models.encoder import SpeechEncoder
        from stages.models.llm import load_llm

        self.home, self.settings = home, settings
        self.device = home.device
        """As it was at the start, as is ``replay``; ``Home.keeping`` says whether it is still so."""
        self.replay = home.replay
        """What is remembered; settings that somebody breaks meanwhile stop updates, and no correction."""
        self._encoder = SpeechEncoder.load(self.device.encoder)
        model, self._tokenizer = load_llm(self.device.llm)
        self._responder = Responder(model, self._tokenizer, settings.instruction)
        self._rescorer = Rescorer(model, self._tokenizer) if settings.rescore and settings.sentence_weight else None
        self._spelled = SpelledWords(model, self._tokenizer) if settings.rescore else None
        self._steps = ThreadPoolExecutor(1, "model")
        self._urgent = 0
        self._urgent_lock = threading.Lock()
        self._pointer = self._pointed()  # before: what changes meanwhile is seen
        self.in_use = self._load()
        self._flagged_s = float("-inf")

    def close(self) -> None:
        """Let the step under way end."""
        self._steps.shutdown(cancel_futures=True)

    @property
    def busy(self) -> bool:
        """Whether somebody waits for a first word: training on this device waits then."""
        return self._urgent > 0

    @contextmanager
    def urgent(self) -> Iterator[None]:
        """Within the block, training waits between two steps: here, and in Ray's workers on this device."""
        with self._urgent_lock:
            self._urgent += 1
        try:
            self._tell_training()
            yield
        finally:
            with self._urgent_lock:
                self._urgent -= 1

    def step(self, work: Callable[[], T]) -> Future[T]:
        """Do something with the models after everything that was asked for before."""
        return self._steps.submit(work)

    def hear(self, samples: np.ndarray) -> Turn:
        """(n,) float32 at 16 kHz as the adapter in use hears it; for ``step``."""
        began, in_use = time.perf_counter(), self.in_use
        heard = in_use.listener.hear(samples, self._encoder, self.device.padding_s)
        return Turn(name_of(samples), samples, heard, in_use.version, began)

    def reply(self, turn: Turn) -> Iterator[str]:
        """Pieces of the LLM's reply; each ``next`` is for ``step``. Nothing where nothing was heard."""
        read_out = turn.heard.read_out
        if not read_out.rows:
            return iter(())
        return self._responder.reply(read_out.soft_tokens, self.settings.max_new_tokens)

    def warm_up(self) -> None:
        """Hear and answer a second of silence: the first real request is then as quick as those after it."""
        import numpy as np

        self.hear(np.zeros(16_000, dtype=np.float32))
        rows = self.in_use.listener.link.rows[:4]
        for _ in zip(range(3), self._responder.reply(rows, 3), strict=False):
            pass

    def refresh(self) -> bool:
        """Take what the shelf says is in use, if that changed; True where it did. Requests under way keep what they have."""
        pointed = self._pointed()
        if pointed == self._pointer:
            return False
        device, shelf = self.home.in_use()
        version = shelf.current()
        found = (device.base, version.sha256 if version else None, self._words())
        if found != (self.in_use.base, self.in_use.sha256, self.in_use.words):
            self.in_use = self._load()
            logger.info("in use: %s", f"version {self.in_use.version}" if self.in_use.version else "the base alone")
        self._pointer = pointed
        return True

    def _load(self) -> InUse:
        from stages.alignment.rescoring import Chooser
        from stages.listener import Listener

        device, shelf = self.home.in_use()
        version = shelf.current()
        words = self._words()
        folder = version.folder if version else None
        listener = Listener.load(device.base, device.llm, folder, self._tokenizer, words)
        if self.settings.rescore or self.settings.tempos:
            ids, config = listener.vocabulary.ids, self.settings.rescoring()
            listener.chooser = Chooser(self._rescorer, ids, config, self._spelled)
        number, sha256 = (version.number, version.sha256) if version else (None, None)
        return InUse(listener, device.base, number, sha256, words)

    def _words(self) -> tuple[str, ...]:
        """What is listened for; a list that somebody broke stops no answer."""
        try:
            return tuple(self.home.words.read())
        except InputError as error:
            logger.warning("listens for no names: %s", error)
            return ()

    def _pointed(self) -> list[tuple[int, int]]:
        """What changes when the shelf's pointer, the device's base or the list of words is replaced."""
        found = []
        for path in (self.home.folder / "device.json", self.home.shelf.pointer, self.home.words.path):
            try:
                told = path.stat()
            except OSError:
                continue
            found.append((told.st_mtime_ns, told.st_ino))
        return found

    def _tell_training(self) -> None:
        if time.monotonic() - self._flagged_s < 0.5:
            return
        self._flagged_s = time.monotonic()
        with suppress(OSError):  # a full disk: a training beside may then not yield, an answer is still due
            (self.home.folder / "serving").touch()
