"""Sound files of many formats, made with FFmpeg and libsndfile, for the tests of what comes in."""

from __future__ import annotations

import functools
import io
import tempfile
from pathlib import Path

import av
import numpy as np
import soundfile

SECONDS = 2.0

KINDS = {
    "m4a": ("aac", "ipod", 16_000, "MP4"),
    "aac": ("aac", "adts", 44_100, "AAC"),
    "alac.m4a": ("alac", "ipod", 16_000, "MP4"),
    "webm": ("libopus", "webm", 48_000, "WEBM"),
    "wma": ("wmav2", "asf", 44_100, "WMA"),
    "amr": ("libopencore_amrnb", "amr", 8_000, "AMR"),
    "opus.ogg": ("libopus", "ogg", 48_000, "OGG"),
}
"""Suffix to FFmpeg's codec, its container, a rate, and what stages.audio calls the format."""


def sound(rate_hz: int = 16_000) -> np.ndarray:
    """A rising tone (n_samples,), loud for a second and faint for another: a shift or a gap shows."""
    time_s = np.arange(int(SECONDS * rate_hz)) / rate_hz
    chirp = 0.3 * np.sin(2 * np.pi * (200 + 400 * time_s) * time_s)
    return np.where(time_s < 1.0, chirp, chirp * 0.1)


def encoded(
    codec: str,
    container: str,
    rate_hz: int = 16_000,
    options: dict[str, str] | None = None,
    bits_a_second: int = 64_000,
) -> bytes:
    """``sound()`` as FFmpeg writes it; ``options`` are the container's."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound"
        with av.open(str(path), "w", format=container, options=options or {}) as file:
            stream = file.add_stream(codec, rate=rate_hz, layout="mono")
            stream.bit_rate = bits_a_second
            stream.codec_context.open()  # only then it knows the size of its frames
            frame = av.AudioFrame.from_ndarray(sound(rate_hz).astype(np.float32)[None], format="fltp", layout="mono")
            frame.sample_rate = rate_hz
            size = stream.codec_context.frame_size or None
            resampler = av.AudioResampler(stream.format.name, "mono", rate_hz, frame_size=size)
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                file.mux(stream.encode(part))
            file.mux(stream.encode(None))
        return path.read_bytes()


STATING = ("WAV", "RF64", "W64", "AIFF", "AU", "FLAC", "MP3", "M4A", "M4A with its index first", "WEBM", "WMA")
"""Formats whose header says how long they are."""


@functools.cache
def whole_files() -> dict[str, bytes]:
    """``sound()`` in each format of STATING."""
    files = {}
    for kind in ("WAV", "RF64", "W64", "AIFF", "AU", "FLAC"):
        buffer = io.BytesIO()
        soundfile.write(buffer, sound(), 16_000, format=kind, subtype="PCM_16")
        files[kind] = buffer.getvalue()
    files["MP3"] = encoded("libmp3lame", "mp3")
    files["M4A"] = encoded("aac", "ipod")
    files["M4A with its index first"] = encoded("aac", "ipod", options={"movflags": "+faststart"})
    files["WEBM"] = encoded("libopus", "webm", 48_000)
    files["WMA"] = encoded("wmav2", "asf")
    return files
