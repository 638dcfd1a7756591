"""A turn of a conversation: samples in, what was heard and the reply's tokens out. HTTP and WebSocket both go through it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack
from typing import TypeVar

import numpy as np

from jetson_agent.serve.answers import Corrected, Reply, Seconds, Token, Transcription
from jetson_agent.serve.engine import Engine, Turn
from jetson_agent.serve.intake import Refused
from jetson_agent.serve.learning import Learner, waiting
from jetson_agent.storage import disk_full
from stages.schema import SAMPLE_RATE_HZ
from stages.text import as_said

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Conversation:
    """All turns of the service."""

    def __init__(self, engine: Engine, learner: Learner) -> None:
        self._engine, self._learner, self._settings = engine, learner, engine.settings
        self._recent: OrderedDict[str, Turn] = OrderedDict()
        self._under_way = 0

    def check_room(self) -> None:
        """Raises Refused where too many utterances are under way."""
        if self._under_way >= self._settings.waiting:
            raise Refused(503, f"{self._under_way} utterances are under way: ask again in a moment")

    async def transcribe(self, samples: np.ndarray, began: float) -> Transcription:
        """What is heard in (n,) float32 at 16 kHz. ``began``: ``time.perf_counter()`` when the utterance was there."""
        async for part in self._turn(samples, began, reply=False):
            told = part
        assert isinstance(told, Transcription)
        return told

    def answer(self, samples: np.ndarray, began: float) -> AsyncGenerator[Transcription | Token | Reply, None]:
        """The transcription, the reply's tokens as they come, and the whole."""
        return self._turn(samples, began, reply=True)

    async def _turn(
        self, samples: np.ndarray, began: float, reply: bool
    ) -> AsyncGenerator[Transcription | Token | Reply, None]:
        self.check_room()
        self._under_way += 1
        try:
            with ExitStack() as hurry:  # until the first token is out
                hurry.enter_context(self._engine.urgent())
                decoded = time.perf_counter()
                turn = await self._step(lambda: self._engine.hear(samples))
                told = _told(turn, decoded - began, turn.began - decoded)
                self._remember(turn)
                yield told
                pieces = self._engine.reply(turn) if reply else iter(())
                text, first = "", None
                while reply and (piece := await self._step(lambda: next(pieces, None))) is not None:
                    if first is None:
                        first = time.perf_counter() - began
                        hurry.close()
                    text += piece
                    yield Token(text=piece)
            if reply:
                seconds = told.seconds.model_copy(update={"first_token": first, "total": time.perf_counter() - began})
                yield Reply(**{**told.model_dump(), "seconds": seconds, "reply": text})
        finally:
            self._under_way -= 1
        await self._keep_confident(turn)

    async def correct(self, utterance: str, text: str) -> Corrected:
        """Remember what was really said; it is on the disk when this returns. Raises Refused."""
        if len(text) > self._settings.max_text:
            raise Refused(413, f"the text has {len(text)} characters, at most {self._settings.max_text} are taken")
        turn = self._recent.get(utterance)
        if turn is None:
            await self._keep(lambda: None)  # it may have been dropped
            raise Refused(
                404,
                f"utterance {utterance!r} is not among the last {self._settings.recent} of this service: say it again, "
                'or use `edgealign-agent correct FILE "TEXT"`',
            )
        engine = self._engine
        said = as_said(text, engine.device.language)
        if not said:
            raise Refused(422, "no word is in the text: send what was said")
        try:
            await self._keep(lambda: engine.replay.add(turn.remembered(said, "correction")))
        except OSError as error:
            full = disk_full(error)
            if full is None:
                raise
            raise Refused(507, str(full)) from error
        return Corrected(
            utterance=utterance, heard=turn.heard.text, text=said, waiting=await asyncio.to_thread(waiting, engine)
        )

    def _remember(self, turn: Turn) -> None:
        self._recent[turn.utterance] = turn
        self._recent.move_to_end(turn.utterance)
        while len(self._recent) > self._settings.recent:
            self._recent.popitem(last=False)

    async def _keep_confident(self, turn: Turn) -> None:
        """After the reply: a correction that came meanwhile is worth more than what was heard."""
        least, text = self._settings.confident, turn.heard.text

        def add() -> None:
            if least is not None and text and turn.heard.read_out.confidence >= least:
                self._engine.replay.add_if_new(turn.remembered(text, "confident"))

        try:
            await self._keep(add)
        except Refused as error:
            logger.warning("%s", error)
        except OSError as error:
            logger.warning("an utterance is not remembered: %s", error)

    async def _keep(self, add: Callable[[], None]) -> None:
        """Let ``add`` put on the disk what the person said for whom this service was started.

        Raises Refused where they were forgotten or the device is somebody else's by now; what was heard is dropped then.
        """
        home, device = self._engine.home, self._engine.device

        def keep() -> bool:
            with home.keeping(device.cohort, device.user) as theirs:
                if theirs:
                    add()
                return theirs

        if not await asyncio.to_thread(keep):
            self._recent.clear()
            whose = f"{device.cohort}/{device.user}"
            raise Refused(410, f"this device is no longer set up for {whose}: start the service again")

    async def _step(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._engine.step(work))


def _told(turn: Turn, decode: float, wait: float) -> Transcription:
    took = turn.heard.seconds
    return Transcription(
        utterance=turn.utterance,
        text=turn.heard.text,
        confidence=min(1.0, turn.heard.read_out.confidence),
        duration_s=len(turn.samples) / SAMPLE_RATE_HZ,
        version=turn.version,
        seconds=Seconds(decode=decode, wait=wait, encode=took["encode"], read_out=took["read_out"]),
    )
