"""Audio files of every kind behind one small interface: a block of samples at a time, and one kind of error.

libsndfile reads WAV, FLAC, Ogg (Vorbis, Opus), MP3, AIFF, CAF, NIST SPHERE and their like; FFmpeg, through PyAV, reads what
it does not: M4A/AAC, WMA, WebM, AMR. The content decides, never the name. What arrives here comes from strangers, so nothing
that a file says about itself is believed before its samples are there: no memory is taken for promised samples, and FFmpeg may
open neither playlists nor the network.
"""

from __future__ import annotations

import io
import os
import re
import stat
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile

from stages.errors import InputError

MIN_RATE_HZ = 4_000
"""Slower recordings hold no intelligible speech; a header that says so is broken."""

MAX_RATE_HZ = 384_000
"""The fastest converters; a header that says more is broken, and a second of it would fill the memory."""

MAX_CHANNELS = 64

BLOCK_SAMPLES = 1 << 20
"""Samples, over all channels, that are decoded at once: 8 MB."""

UNKNOWN_FRAMES = 1 << 40
"""libsndfile's length of a file whose header leaves it open is near 2^63; no recording lasts 50 days at 256 kHz."""

OPEN_BYTES = 0x7FFF0000
"""Sizes from here on are what programs write into a WAV header that they will not come back to (2 or 4 GB)."""

SLACK_BYTES = 100
"""Programs that count their header into the data promise that much too many bytes."""

_SNDFILE = re.compile(
    rb"RIFF|RIFX|RF64|riff|fLaC|OggS|FORM....AIF[FC]|caff|\.snd|dns\.|NIST_1A|ID3|\xff[\xe0-\xff]", re.DOTALL
)
"""How the formats begin that libsndfile gets to see. It knows a dozen more, of samplers and old computers, whose parsers
are little used: broken files made some of them print without end."""

_SHORT = re.compile(r"^\s*(?:data|SSND|Data Size|Riff size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
"""libsndfile's log of a chunk that goes on behind the end of the file (WAV, AIFF, AU, RF64, W64)."""

_WITH_LOG = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU"})


class Reader(Protocol):
    """An open recording.

    ``frames`` is its length in samples a channel, None where only decoding can tell; it holds but for ``slack_frames``.
    """

    rate_hz: int
    channels: int
    frames: int | None
    slack_frames: int
    format: str

    def read(self, frames: int) -> np.ndarray:
        """The next samples, float64 (up to ``frames``, channels); (0, channels) at the end. Raises InputError."""
        ...

    def skip(self, frames: int) -> None:
        """Leave ``frames`` samples out. Raises InputError."""
        ...

    def close(self) -> None: ...


def open_audio(source: Path | bytes, name: str) -> Reader:
    """Open a file or a file's bytes. Every way that this fails is one InputError, which calls the recording ``name``."""
    file = _open_bytes(source, name)
    try:
        reader = _reader(file, name)
        if not MIN_RATE_HZ <= reader.rate_hz <= MAX_RATE_HZ:
            raise InputError(
                f"{name}: {reader.rate_hz} Hz; speech needs at least {MIN_RATE_HZ} Hz, and no recording has more than "
                f"{MAX_RATE_HZ} Hz. Export it again."
            )
        if not 1 <= reader.channels <= MAX_CHANNELS:
            raise InputError(f"{name}: {reader.channels} channels, at most {MAX_CHANNELS} are read. Export it again.")
    except BaseException:
        file.close()
        raise
    return reader


class _Bytes(io.BytesIO):
    """A file in memory. A broken header's jump to a place before its start goes nowhere, as the callers expect of C."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            return super().seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return self.tell()


class _File(io.FileIO):
    """The same for a file on a disk."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            return super().seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return self.tell()


def _open_bytes(source: Path | bytes, name: str) -> _Bytes | _File:
    if isinstance(source, bytes):
        if not source:
            raise InputError(f"{name}: empty (0 bytes). Record it again or leave it out.")
        return _Bytes(source)
    try:
        # it is opened before it is judged: a pipe or a device would keep us waiting, and a name may change its meaning
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file. Correct its path or leave it out.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: cannot be opened ({_reason(error)}). Make it readable or leave it out.") from error
    state = os.fstat(descriptor)
    if stat.S_ISREG(state.st_mode) and state.st_size:
        return _File(descriptor)
    os.close(descriptor)
    what = "empty (0 bytes)" if stat.S_ISREG(state.st_mode) else "no file but a folder, a pipe or a device"
    raise InputError(f"{name}: {what}. Record it again or leave it out.")


def _reader(file: _Bytes | _File, name: str) -> Reader:
    head = file.read(12)
    file.seek(0)
    try:
        if not _SNDFILE.match(head):
            raise ValueError("nothing in it marks a kind of audio")
        reader = SndfileReader(file, name)
    except (soundfile.LibsndfileError, OSError, TypeError, ValueError) as error:
        refused = error
    else:
        if reader.format != "MP3" or reader.frames is None or _counts_its_frames(file):
            return reader
        # an MP3 whose length libsndfile guesses from its first frame, and then reads no further than that
        refused = ValueError("MP3 without a count of its frames")
        reader.leave()
    file.seek(0)
    try:
        from stages.audio_av import AvReader
    except ImportError:
        raise InputError(
            f"{name}: not audio that libsndfile can read ({_reason(refused)}). If it is M4A, WMA or WebM, install PyAV: "
            "pip install av."
        ) from refused
    return AvReader(file, name, _reason(refused))


def _reason(error: Exception) -> str:
    """A library's words without the address of a buffer object, which differs from run to run."""
    return str(getattr(error, "error_string", "") or getattr(error, "strerror", "") or error).rstrip(".\n ")


def _counts_its_frames(file: _Bytes | _File) -> bool:
    """Whether an MP3's first frame holds the count that LAME and most others write (Xing, Info or VBRI)."""
    position = file.tell()
    file.seek(0)
    head = file.read(10)
    if head[:3] == b"ID3":  # a tag in front: its size is four times seven bits
        file.seek(10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False)))
    first = head[: 10 if head[:3] != b"ID3" else 0] + file.read(4_000)
    file.seek(position)
    return any(mark in first for mark in (b"Xing", b"Info", b"VBRI"))


class _InSequence(soundfile.SoundFile):
    """soundfile's own read() jumps to where it is after each block, which makes lossy decoders start anew."""

    def seekable(self) -> bool:
        return False


class SndfileReader:
    """What libsndfile reads."""

    def __init__(self, file: _Bytes | _File, name: str) -> None:
        """Raises what soundfile raises where libsndfile does not know the content."""
        self._file = file
        self._name = name
        # a descriptor where there is one: no Python between libsndfile and the disk, and no guess from the file's name
        target: Any = file if isinstance(file, _Bytes) else file.fileno()
        self._sound = _InSequence(target, closefd=False)
        self.rate_hz: int = self._sound.samplerate
        self.channels: int = self._sound.channels
        frames = int(self._sound.frames)
        self.frames: int | None = frames if 0 <= frames < UNKNOWN_FRAMES else None
        self.slack_frames = 0
        self.format: str = self._sound.format
        if self.format in _WITH_LOG:
            self._check_size()
        if self.format == "OGG":  # libsndfile 1.2.2 has begun to decode Opus, and goes on from there
            self._sound.seek(0)

    def _check_size(self) -> None:
        """libsndfile quietly takes what is there of a file that was cut off; only its log says what is missing."""
        for match in _SHORT.finditer(self._sound.extra_info):
            promised, there = int(match[1]), int(match[2])
            if there + SLACK_BYTES < promised < OPEN_BYTES:
                self.leave()
                raise InputError(f"{self._name}: cut off: {there} of {promised} bytes are there. Copy it again.")

    def read(self, frames: int) -> np.ndarray:
        try:
            return self._sound.read(frames, dtype="float64", always_2d=True)
        except (soundfile.LibsndfileError, OSError, ValueError, MemoryError) as error:
            raise InputError(f"{self._name}: broken off while decoding ({_reason(error)}). Copy it again.") from error

    def skip(self, frames: int) -> None:
        if soundfile.SoundFile.seekable(self._sound):
            try:
                self._sound.seek(frames, io.SEEK_CUR)
            except (soundfile.LibsndfileError, OSError, ValueError) as error:
                raise InputError(f"{self._name}: broken off before {frames} samples. Copy it again.") from error
        else:
            skip_by_reading(self, frames)

    def leave(self) -> None:
        """Let go of the file, but leave it open."""
        self._sound.close()

    def close(self) -> None:
        self._sound.close()
        self._file.close()


def block_frames(channels: int) -> int:
    """Samples a channel that are decoded at once."""
    return max(BLOCK_SAMPLES // channels, 1)


def skip_by_reading(reader: Reader, frames: int) -> None:
    """Decode and drop ``frames`` samples, or as many as there are."""
    while frames > 0:
        got = reader.read(min(frames, block_frames(reader.channels))).shape[0]
        if got == 0:
            return
        frames -= got
