"""Recordings that libsndfile does not read, through FFmpeg (PyAV): M4A/AAC, WMA, WebM, AMR and their like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

import av
import numpy as np

from stages.audio_files import skip_by_reading
from stages.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = {
    "mov,mp4,m4a,3gp,3g2,mj2": "MP4",
    "matroska,webm": "WEBM",
    "asf": "WMA",
    "aac": "AAC",
    "amr": "AMR",
    "mp3": "MP3",
    "wav": "WAV",
    "ogg": "OGG",
    "caf": "CAF",
    "wv": "WAVPACK",
    "ape": "APE",
    "flv": "FLV",
    "avi": "AVI",
    "mpegts": "MPEGTS",
    "ac3": "AC3",
    "eac3": "EAC3",
}
"""FFmpeg's demultiplexers that may look at a file, and what we call their formats. No other may: a playlist (HLS, concat,
SDP) that someone called .wav would make FFmpeg open other files and addresses."""

STATES_ITS_LENGTH = frozenset({"MP4", "WEBM", "WMA", "CAF", "WAV"})
"""Formats whose header holds the duration. For the others FFmpeg guesses it from the bit rate."""

LENGTH_SLACK_S = 0.25
"""Encoders pad and trim by a few frames of up to 0.06 s; what misses more than this was cut off."""


MAX_CHANNELS = 8
"""PyAV reads behind the end of a list where a frame has more (18.1)."""


class AvReader:
    """What FFmpeg reads. ``refused`` is why libsndfile did not read it."""

    def __init__(self, file: BinaryIO, name: str, refused: str) -> None:
        self._file = file
        self._name = name
        self._container: Any = None
        try:
            options = {"format_whitelist": ",".join(NAMES), "protocol_whitelist": "file"}
            self._container = av.open(file, "r", options=options, metadata_errors="ignore")
            found = self._container.streams.best("audio")
        except Exception as error:  # whatever a broken file makes FFmpeg or PyAV raise
            self.leave()
            if self._starts_as_mp4():
                raise InputError(f"{name}: cut off: the index of an MP4 or M4A is missing. Copy it again.") from error
            raise InputError(
                f"{name}: not audio that can be read ({refused}). Give WAV, FLAC, OGG, MP3, M4A, AIFF or WebM."
            ) from error
        if found is None or found.codec_context is None:
            self.leave()
            what = "holds no sound" if found is None else "its codec is not known to FFmpeg"
            raise InputError(f"{name}: {what}. Export it as WAV or FLAC, or leave it out.")
        if found.codec_context.channels > MAX_CHANNELS:
            self.leave()
            raise InputError(
                f"{name}: {found.codec_context.channels} channels, at most {MAX_CHANNELS} are read in this format. "
                "Export it as WAV or FLAC."
            )
        self._stream = found
        self._stream.codec_context.thread_count = 1  # workers run one a core
        self.rate_hz = 0
        self._blocks = self._decode()
        self.format = NAMES.get(self._container.format.name, self._container.format.name.upper())
        # what the header says of the rate is half of the truth for HE-AAC: the first samples have the word
        try:
            first = next(self._blocks, None)
            if first is None:
                raise InputError(f"{name}: holds no samples. Record it again or leave it out.")
        except InputError:
            self.leave()
            raise
        self._rest = first
        self.channels = int(first.shape[1])
        self.slack_frames = round(LENGTH_SLACK_S * self.rate_hz)
        self.frames: int | None = self._stated_frames()

    def _starts_as_mp4(self) -> bool:
        self._file.seek(4)
        return self._file.read(4) == b"ftyp"

    def _stated_frames(self) -> int | None:
        if self.format not in STATES_ITS_LENGTH:
            return None
        stream, container = self._stream, self._container
        if stream.duration is not None and stream.time_base is not None:
            return round(float(stream.duration * stream.time_base) * self.rate_hz)
        if container.duration is not None and len(container.streams) == 1:  # else it may be a picture's
            return round(container.duration / av.time_base * self.rate_hz)
        return None

    def _decode(self) -> Iterator[np.ndarray]:
        """Every frame as float64 (n_samples, channels); the first one sets ``rate_hz``."""
        # it changes neither rate nor channels; interleaved, for PyAV miscounts the planes of many channels
        to_float64 = av.AudioResampler(format="dbl")
        setup = None
        try:
            for frame in self._container.decode(self._stream):
                if setup is None:
                    setup = (frame.sample_rate, frame.layout.name)
                    self.rate_hz = int(frame.sample_rate)
                elif setup != (frame.sample_rate, frame.layout.name):
                    raise ValueError(f"goes on with {frame.sample_rate} Hz and {frame.layout.name} channels")
                for converted in to_float64.resample(frame):
                    yield converted.to_ndarray().reshape(converted.samples, -1)
        except Exception as error:  # whatever a broken file makes FFmpeg or PyAV raise
            raise InputError(f"{self._name}: broken off while decoding ({_words(error)}). Copy it again.") from error

    def read(self, frames: int) -> np.ndarray:
        parts, count = [self._rest], self._rest.shape[0]
        while count < frames:
            block = next(self._blocks, None)
            if block is None:
                break
            parts.append(block)
            count += block.shape[0]
        samples = np.concatenate(parts)
        self._rest = samples[frames:].copy()
        return samples[:frames]

    def skip(self, frames: int) -> None:
        skip_by_reading(self, frames)  # to seek in these formats is to land near a place, not on a sample

    def leave(self) -> None:
        """Let go of the file, but leave it open."""
        if self._container is not None:
            self._container.close()

    def close(self) -> None:
        self.leave()
        self._file.close()


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", "") or error).rstrip(". ")
