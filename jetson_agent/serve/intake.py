"""What comes in, checked before any model sees it: recordings, streams of samples, and how often somebody asks."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jetson_agent.serve.settings import ServeSettings
from stages.audio import read_recording, resample, to_mono_16k
from stages.errors import EdgealignError, InputError

SAMPLE_BYTES = 2
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 8_000, 96_000


class Refused(EdgealignError):
    """A request that is not answered; ``status`` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def read_samples(content: bytes, settings: ServeSettings) -> np.ndarray:
    """A recording of any format and rate as (n,) float32 at 16 kHz. Raises Refused."""
    if not content:
        raise Refused(400, "the body is empty: send a recording as the body, e.g. curl --data-binary @said.wav")
    try:
        header, recording = read_recording(content, "the recording", settings.max_duration_s)
    except InputError as error:
        raise Refused(422, str(error)) from error
    if recording is None:
        raise Refused(413, _too_long(header.duration_s, settings))
    return to_mono_16k(recording)


class Start(BaseModel):
    """The beginning of an utterance: 16-bit little-endian mono samples follow in binary messages."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["start"]
    rate_hz: int = Field(default=16_000, ge=LOWEST_RATE_HZ, le=HIGHEST_RATE_HZ)


class End(BaseModel):
    """The end of an utterance."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["end"]


class Cancel(BaseModel):
    """The utterance that was begun is dropped."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["cancel"]


def parse(text: str) -> Start | End | Cancel:
    """A text message of a stream. Raises Refused."""
    try:
        told: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "a text message must be JSON") from error
    kind = told.get("type") if isinstance(told, dict) else None
    models: dict[str, type[Start | End | Cancel]] = {"start": Start, "end": End, "cancel": Cancel}
    if not isinstance(kind, str) or kind not in models:
        raise Refused(400, 'a message\'s "type" must be one of "start", "end", "cancel"')
    try:
        return models[kind].model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise Refused(400, f"message {kind!r}: {where}: {first['msg']}") from error


@dataclass
class Incoming:
    """An utterance whose samples are coming in."""

    rate_hz: int
    settings: ServeSettings
    pieces: list[bytes] = field(default_factory=list)
    size: int = 0

    def add(self, piece: bytes) -> None:
        """Raises Refused where the utterance gets too long."""
        self.size += len(piece)
        seconds = self.size / SAMPLE_BYTES / self.rate_hz
        if seconds > self.settings.max_duration_s:
            raise Refused(413, _too_long(seconds, self.settings))
        self.pieces.append(piece)

    def samples(self) -> np.ndarray:
        """(n,) float32 at 16 kHz. Raises Refused where there is none, or half a sample."""
        content = b"".join(self.pieces)
        if not content or len(content) % SAMPLE_BYTES:
            raise Refused(422, f"got {len(content)} bytes of 16-bit samples; needed an even number, at least 2")
        values = np.frombuffer(content, dtype="<i2").astype(np.float64) / 32768.0
        return resample(values, self.rate_hz).astype(np.float32)


class Rate:
    """How often one address may ask."""

    def __init__(self, per_minute: int) -> None:
        from limits import RateLimitItemPerMinute
        from limits.storage import MemoryStorage
        from limits.strategies import MovingWindowRateLimiter

        self._item = RateLimitItemPerMinute(per_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def check(self, address: str) -> None:
        """Count one request. Raises Refused where it is one too many."""
        if not self._limiter.hit(self._item, address):
            raise Refused(429, f"more than {self._item.amount} requests within a minute: wait a little")


def _too_long(seconds: float, settings: ServeSettings) -> str:
    return f"the utterance lasts {seconds:.1f} s, at most {settings.max_duration_s:g} s are heard: say it in parts"
