"""Broken files of every kind: one kind of error, in little memory. What is still readable may come through."""

from __future__ import annotations

import functools
import io
import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stages.audio import decode, read_header, read_recording, stream_mono_16k, to_mono_16k
from stages.errors import InputError
from tests.helpers_audio import KINDS, encoded

MAX_MEMORY_BYTES = 150_000_000
"""Blocks of 8 MB and the copies of one; a promise that was believed takes gigabytes."""


@functools.cache
def seeds() -> list[bytes]:
    """Small whole files of every kind that is read."""
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (4_000, 2))
    files = [encoded(codec, container, rate_hz) for codec, container, rate_hz, _ in KINDS.values()]
    for kind, subtype in (
        ("WAV", "PCM_16"),
        ("WAV", "PCM_U8"),
        ("WAV", "FLOAT"),
        ("WAV", "IMA_ADPCM"),
        ("RF64", "PCM_24"),
        ("W64", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("AU", "ULAW"),
        ("CAF", "ALAC_16"),
        ("NIST", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("MP3", "MPEG_LAYER_III"),
    ):
        buffer = io.BytesIO()
        soundfile.write(buffer, noise, 16_000, format=kind, subtype=subtype)
        files.append(buffer.getvalue())
    return files


@st.composite
def broken_files(draw: st.DrawFn) -> bytes:
    content = bytearray(draw(st.sampled_from(seeds())))
    match draw(st.sampled_from(["cut", "flip", "header", "splice", "random"])):
        case "cut":
            del content[draw(st.integers(0, len(content))) :]
        case "flip":
            for place, mask in draw(
                st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(1, 255)), min_size=1, max_size=20)
            ):
                content[place] ^= mask
        case "header":
            place = draw(st.integers(0, min(len(content), 200)))
            value = draw(
                st.sampled_from([b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0" * 4, b"\xff" * 8])
            )
            content[place : place + len(value)] = value
        case "splice":
            start, stop = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
            content[start:start] = content[stop : stop + draw(st.integers(0, 500))]
        case "random":
            content[draw(st.sampled_from([0, 4, 12, 44])) :] = draw(st.binary(max_size=2_000))
    return bytes(content)


def read_in_little_memory(content: bytes) -> None:
    tracemalloc.start()
    try:
        read_all(content)
        assert tracemalloc.get_traced_memory()[1] < MAX_MEMORY_BYTES
    finally:
        tracemalloc.stop()


def read_all(content: bytes) -> None:
    """Read in every way; an InputError is an answer."""
    for read in (
        lambda: read_header(content, "x"),
        lambda: to_mono_16k(decode(content, "x", 0.05, 0.2)),
        lambda: [read_recording(content, "x", max_duration_s=30.0), *stream_mono_16k(content, "x")],
    ):
        try:
            read()
        except InputError as error:
            assert str(error).startswith("x: ")


# the same files on every run: what makes a C library crash would take the other tests with it
@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(broken_files())
@example(b"RIFF")
@example(b"\xff\xfb" * 2_000)
@example(b"ID3\x04\0\0\x7f\x7f\x7f\x7f")
@example(b"OggS" + bytes(1_000))
def test_a_broken_file_gives_an_input_error_or_samples(content: bytes) -> None:
    read_in_little_memory(content)


def promising(kind: str) -> bytes:
    """A second of noise whose header promises days."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(0).uniform(-0.3, 0.3, 16_000), 16_000, format=kind)
    content = bytearray(buffer.getvalue())
    if kind == "FLAC":  # STREAMINFO's last 36 bits before the checksum
        content[21] |= 0x0F
        content[22:26] = b"\xff" * 4
    elif kind == "W64":
        place = content.index(b"data") + 16
        content[place : place + 8] = (1 << 40).to_bytes(8, "little")
    else:
        place = content.index(b"ds64") + 16
        content[place : place + 16] = (1 << 41).to_bytes(8, "little") + (1 << 40).to_bytes(8, "little")
    return bytes(content)


@pytest.mark.parametrize("kind", ["FLAC", "W64", "RF64"])
def test_a_promise_of_days_takes_no_memory(kind: str) -> None:
    content = promising(kind)
    read_in_little_memory(content)
    if kind == "FLAC":
        assert read_header(content, "x").duration_s > 4_000_000
        with pytest.raises(InputError, match="off"):
            decode(content, "x")
