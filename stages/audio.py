"""Recordings in any form to the one form that every stage works on: float32, mono, 16 kHz.

Audio is checked here, once, at the boundary. Resampling is soxr's (float64, high quality): it loads in milliseconds, where
torchaudio brings all of torch into every decoding process, and in float64 the rounding to 16 bits does not depend on
the CPU's vector instructions.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from stages.errors import InputError
from stages.schema import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from stages.quality import Quality

MIN_RATE_HZ = 4_000
"""Slower recordings hold no intelligible speech; a header that says so is broken."""


@dataclass(frozen=True)
class Header:
    """What a recording says about itself, read without decoding it."""

    rate_hz: int
    channels: int
    duration_s: float
    format: str


@dataclass(frozen=True)
class Recording:
    """A decoded recording as it was made: ``samples`` is float64 (n_samples, channels), full scale 1.0."""

    samples: np.ndarray
    rate_hz: int

    @property
    def channels(self) -> int:
        return int(self.samples.shape[1])


def _open(source: Path | bytes, name: str) -> soundfile.SoundFile:
    """Open a recording; every way that this fails is one InputError."""
    if isinstance(source, bytes):
        if not source:
            raise InputError(f"{name}: empty (0 bytes). Record it again or leave it out.")
        target: io.BytesIO | str = io.BytesIO(source)
    else:
        if not source.is_file():
            raise InputError(f"{name}: no such file. Correct its path or leave it out.")
        if source.stat().st_size == 0:
            raise InputError(f"{name}: empty (0 bytes). Record it again or leave it out.")
        target = str(source)
    try:
        return soundfile.SoundFile(target)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        raise InputError(
            f"{name}: not audio that can be read ({_reason(error)}). Give WAV, FLAC, OGG, MP3 or AIFF."
        ) from error


def _reason(error: Exception) -> str:
    """libsndfile's words without the address of a buffer object, which differs from run to run."""
    return str(getattr(error, "error_string", "") or error).rstrip(".\n ")


def read_header(source: Path | bytes, name: str) -> Header:
    """Read rate, channels and duration without decoding. Raises InputError for what is empty or not audio."""
    with _open(source, name) as file:
        if file.samplerate < MIN_RATE_HZ:
            raise InputError(f"{name}: {file.samplerate} Hz; speech needs at least {MIN_RATE_HZ} Hz.")
        return Header(file.samplerate, file.channels, file.frames / file.samplerate, file.format)


def decode(source: Path | bytes, name: str) -> Recording:
    """Decode a whole recording at its own rate and with its own channels.

    Raises InputError where it is missing, empty, cut off, not audio, or holds values that are not numbers.
    """
    with _open(source, name) as file:
        rate_hz, promised = file.samplerate, file.frames
        if rate_hz < MIN_RATE_HZ:
            raise InputError(f"{name}: {rate_hz} Hz; speech needs at least {MIN_RATE_HZ} Hz.")
        try:
            samples = file.read(dtype="float64", always_2d=True)
        except (soundfile.LibsndfileError, MemoryError) as error:
            raise InputError(f"{name}: broken off while decoding ({_reason(error)}). Copy it again.") from error
    if samples.shape[0] == 0:
        raise InputError(f"{name}: holds no samples. Record it again or leave it out.")
    if samples.shape[0] < promised:
        raise InputError(f"{name}: cut off: {samples.shape[0]} of {promised} samples are there. Copy it again.")
    if not np.isfinite(samples).all():
        raise InputError(f"{name}: holds samples that are not numbers (NaN or infinite). Export it again.")
    return Recording(samples, rate_hz)


def mix_down(samples: np.ndarray) -> np.ndarray:
    """The mean of the channels: (n_samples,) or (n_samples, channels) to (n_samples,)."""
    if samples.ndim == 1:
        return samples
    channels = samples.shape[1]
    total = samples[:, 0]
    for index in range(1, channels):  # numpy's own mean over such a short axis takes ten times as long
        total = total + samples[:, index]
    return total / channels if channels > 1 else total


def to_mono_16k(recording: Recording) -> np.ndarray:
    """float32 (n_samples,) at SAMPLE_RATE_HZ: the mean of the channels, resampled where the rate differs."""
    return resample(mix_down(recording.samples), recording.rate_hz).astype(np.float32)


def resample(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """float64 (n_samples,) at ``rate_hz`` to float64 at SAMPLE_RATE_HZ (soxr, high quality)."""
    if rate_hz == SAMPLE_RATE_HZ:
        return samples
    import soxr

    return soxr.resample(samples.astype(np.float64, copy=False), rate_hz, SAMPLE_RATE_HZ, quality="HQ")


def load_audio(source: Path | bytes, name: str) -> np.ndarray:
    """A recording as float32 (n_samples,), mono, SAMPLE_RATE_HZ, full scale 1.0.

    ``source`` is a file or a file's bytes in any format, rate and number of channels that libsndfile reads;
    ``name`` is what an error calls it. Raises InputError where it is missing, empty, cut off or not audio.
    """
    return to_mono_16k(decode(source, name))


def encode_flac(samples: np.ndarray) -> bytes:
    """FLAC bytes (16 bit, mono, SAMPLE_RATE_HZ) of (n_samples,) at full scale 1.0: same samples, same bytes.

    Raises InputError where ``samples`` is empty or not one-dimensional.
    """
    if samples.ndim != 1 or samples.size == 0:
        raise InputError(f"FLAC needs samples of shape (n_samples,), got {samples.shape}. Mix down to mono first.")
    integers = np.clip(np.rint(samples.astype(np.float64) * 32768.0), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, integers, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def describe(samples: np.ndarray, rate_hz: int = SAMPLE_RATE_HZ) -> Quality:
    """``stages.quality.measure``, under its former name."""
    from stages.quality import measure

    return measure(samples, rate_hz)
