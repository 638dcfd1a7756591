"""Recordings in any form to the one form that every stage works on: float32, mono, 16 kHz.

Audio is checked here, once, at the boundary. Resampling is soxr's (float64, high quality): it loads in milliseconds, where
torchaudio brings all of torch into every decoding process, and in float64 the rounding to 16 bits does not depend on
the CPU's vector instructions.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from stages.audio_files import Reader, block_frames, open_audio
from stages.errors import InputError
from stages.schema import SAMPLE_RATE_HZ

MAX_OVERSHOOT_S = 0.5
"""A stretch may end this much behind the recording, which tables of segments that were rounded do (Kaldi allows it too)."""


@dataclass(frozen=True)
class Header:
    """What a recording says about itself."""

    rate_hz: int
    channels: int
    duration_s: float  # of the whole recording
    format: str


@dataclass(frozen=True)
class Recording:
    """A decoded recording as it was made: ``samples`` is float64 (n_samples, channels), full scale 1.0."""

    samples: np.ndarray
    rate_hz: int

    @property
    def channels(self) -> int:
        return int(self.samples.shape[1])


def read_header(source: Path | bytes, name: str) -> Header:
    """Read rate, channels and duration; nothing is decoded where the header states the duration.

    Raises InputError for what is empty or not audio.
    """
    with closing(open_audio(source, name)) as reader:
        return _header(reader, _length(reader, source, name))


def read_recording(
    source: Path | bytes,
    name: str,
    max_duration_s: float | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
) -> tuple[Header, Recording | None]:
    """Header and samples, from opening a recording once. The stretch and the errors are ``decode``'s.

    The recording is None where it, or its stretch, lasts longer than ``max_duration_s``: then it is not decoded.
    """
    with closing(open_audio(source, name)) as reader:
        frames = _length(reader, source, name)
        stretch = _stretch(reader, name, start_s, end_s)
        wanted = (frames if stretch.end is None else stretch.end) - stretch.start
        if max_duration_s is not None and wanted > max_duration_s * reader.rate_hz:
            return _header(reader, frames), None
        samples = _decode(reader, name, stretch)
        # encoders pad: what was decoded is the better count
        return _header(reader, frames if stretch.given else samples.shape[0]), Recording(samples, reader.rate_hz)


def decode(source: Path | bytes, name: str, start_s: float | None = None, end_s: float | None = None) -> Recording:
    """Decode a recording, or its stretch from ``start_s`` to ``end_s``, at its own rate and with its own channels.

    Raises InputError where it is missing, empty, cut off, not audio, or holds values that are not numbers, and where
    the stretch lies outside of it (by more than MAX_OVERSHOOT_S at the end).
    """
    with closing(open_audio(source, name)) as reader:
        return Recording(_decode(reader, name, _stretch(reader, name, start_s, end_s)), reader.rate_hz)


def stream_mono_16k(
    source: Path | bytes,
    name: str,
    block_s: float = 30.0,
    start_s: float | None = None,
    end_s: float | None = None,
) -> Iterator[np.ndarray]:
    """``to_mono_16k`` of a recording of any length, block by block: float32 (up to about ``block_s``,) each.

    The stretch and the errors are ``decode``'s; they may come after some of the blocks.
    """
    with closing(open_audio(source, name)) as reader:
        resampler = None
        if reader.rate_hz != SAMPLE_RATE_HZ:
            import soxr

            resampler = soxr.ResampleStream(reader.rate_hz, SAMPLE_RATE_HZ, 1, dtype="float64", quality="HQ")
        frames = max(round(block_s * reader.rate_hz), 1)
        for block in _blocks(reader, name, _stretch(reader, name, start_s, end_s), frames):
            mono = mix_down(block)
            if resampler is not None:
                mono = resampler.resample_chunk(mono)
            if mono.size:
                yield mono.astype(np.float32)
        if resampler is not None:
            rest = resampler.resample_chunk(np.zeros(0), last=True)
            if rest.size:
                yield rest.astype(np.float32)


@dataclass(frozen=True)
class _Stretch:
    """What to decode, in samples a channel; ``end`` None is the end of the recording."""

    start: int
    end: int | None
    given: bool


def _stretch(reader: Reader, name: str, start_s: float | None, end_s: float | None) -> _Stretch:
    start = 0.0 if start_s is None else start_s
    end = float("inf") if end_s is None else end_s
    if not 0 <= start < end or start == float("inf"):
        raise InputError(f"{name}: no stretch from {start_s} to {end_s} s. Give seconds, 0 <= start < end.")
    rate_hz, frames = reader.rate_hz, reader.frames
    if frames is not None:
        duration_s = frames / rate_hz
        slack_s = MAX_OVERSHOOT_S + reader.slack_frames / rate_hz
        if (start > 0 and start >= duration_s) or duration_s + slack_s < end < float("inf"):
            raise InputError(
                f"{name}: the stretch from {start:g} to {end:g} s lies outside of it: it lasts {duration_s:.2f} s. "
                "Correct the table of segments."
            )
    last = None if end_s is None or end_s == float("inf") else round(end_s * rate_hz)
    if last is not None and frames is not None and last >= frames:
        last = None
    first = round(start * rate_hz)
    if last is not None and last <= first:
        raise InputError(f"{name}: no sample lies from {start_s} to {end_s} s. Correct the table of segments.")
    return _Stretch(first, last, start_s is not None or end_s is not None)


def _header(reader: Reader, frames: int) -> Header:
    return Header(reader.rate_hz, reader.channels, frames / reader.rate_hz, reader.format)


def _length(reader: Reader, source: Path | bytes, name: str) -> int:
    """Samples a channel; a recording that does not state them is opened a second time and decoded to be counted."""
    if reader.frames is not None:
        return reader.frames
    with closing(open_audio(source, name)) as counted:
        total = 0
        while got := counted.read(block_frames(counted.channels)).shape[0]:
            total += got
        return total


def _decode(reader: Reader, name: str, stretch: _Stretch) -> np.ndarray:
    blocks = list(_blocks(reader, name, stretch))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _blocks(reader: Reader, name: str, stretch: _Stretch, frames: int | None = None) -> Iterator[np.ndarray]:
    """A stretch's samples as float64 (up to ``frames``, channels) at a time, checked; at least one block."""
    most = block_frames(reader.channels) if frames is None else min(frames, block_frames(reader.channels))
    if stretch.start:
        reader.skip(stretch.start)
    # what must come, as far as anyone says; and where to stop
    stated = stretch.end if stretch.end is not None else reader.frames
    stop = None if stretch.end is None and reader.slack_frames else stated
    count = stretch.start
    while stop is None or count < stop:
        block = reader.read(most if stop is None else min(most, stop - count))
        if block.shape[0] == 0:
            break
        if not np.isfinite(block).all():
            raise InputError(f"{name}: holds samples that are not numbers (NaN or infinite). Export it again.")
        count += block.shape[0]
        yield block
    slack = reader.slack_frames + (round(MAX_OVERSHOOT_S * reader.rate_hz) if reader.frames is None else 0)
    if stated is not None and count < stated - slack:
        raise InputError(f"{name}: cut off: {count} of {stated} samples are there. Copy it again.")
    if count == stretch.start:
        raise InputError(f"{name}: holds no samples. Record it again or leave it out.")


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

    ``source`` is a file or a file's bytes in any format, rate and number of channels that ``stages.audio_files`` reads;
    ``name`` is what an error calls it. Raises InputError where it is missing, empty, cut off or not audio.
    """
    return to_mono_16k(decode(source, name))


def encode_flac(samples: np.ndarray) -> bytes:
    """FLAC bytes (16 bit, mono, SAMPLE_RATE_HZ) of (n_samples,) at full scale 1.0: same samples, same bytes.

    Raises InputError where ``samples`` is empty or not one-dimensional.
    """
    if samples.ndim != 1 or samples.size == 0:
        raise InputError(f"FLAC needs samples of shape (n_samples,), got {samples.shape}. Mix down to mono first.")
    # a power of two scales float32 without rounding, so float64 would give the same integers more slowly
    scaled = samples * np.float32(32768.0) if samples.dtype == np.float32 else samples.astype(np.float64) * 32768.0
    integers = np.clip(np.rint(scaled, out=scaled), -32768, 32767, out=scaled).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, integers, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
