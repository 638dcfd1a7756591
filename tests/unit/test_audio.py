"""Recordings of every kind come out as float32, mono, 16 kHz; what is no recording says so."""

from __future__ import annotations

import io
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stages.audio import (
    MAX_OVERSHOOT_S,
    decode,
    encode_flac,
    load_audio,
    read_header,
    read_recording,
    stream_mono_16k,
    to_mono_16k,
)
from stages.errors import InputError
from stages.quality import measure


def tone(rate_hz: int, seconds: float = 1.0, frequency_hz: float = 440.0, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * frequency_hz * np.arange(int(rate_hz * seconds)) / rate_hz)


def as_file(samples: np.ndarray, rate_hz: int, kind: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=kind, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_any_rate_becomes_the_same_tone_at_16_khz(rate_hz: int) -> None:
    samples = load_audio(as_file(tone(rate_hz), rate_hz), "tone")
    assert samples.dtype == np.float32
    assert samples.shape == pytest.approx((16_000,), abs=1)
    middle = slice(2_000, 14_000)
    np.testing.assert_allclose(samples[middle], tone(16_000)[middle], atol=2e-3)


def test_a_tone_above_half_the_target_rate_is_filtered_out() -> None:
    samples = load_audio(as_file(tone(44_100, frequency_hz=10_000), 44_100), "whistle")
    assert np.abs(samples[1_000:-1_000]).max() < 1e-3  # without a filter it would fold down to 6 kHz


def test_stereo_becomes_the_mean_of_its_channels() -> None:
    left, right = tone(16_000), tone(16_000, frequency_hz=900.0)
    samples = load_audio(as_file(np.stack([left, right], axis=1), 16_000, subtype="FLOAT"), "stereo")
    np.testing.assert_allclose(samples, (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "AIFF", "MP3"])
def test_formats(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"tone.{kind.lower()}"
    path.write_bytes(as_file(tone(16_000), 16_000, kind))
    assert measure(load_audio(path, path.name), 16_000).rms == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"this is a text, not a recording" * 20, "not audio"),
        (as_file(np.zeros(0), 16_000), "no samples"),
        (as_file(np.array([0.1, np.nan, 0.2]), 16_000, subtype="FLOAT"), "not numbers"),
    ],
)
def test_what_is_no_recording_is_named_with_its_reason(content: bytes, words: str) -> None:
    with pytest.raises(InputError, match=f"broken.wav.*{words}"):
        load_audio(content, "broken.wav")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.wav: no such file"):
        load_audio(tmp_path / "gone.wav", "gone.wav")


def test_a_cut_off_flac_is_refused() -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000)
    content = as_file(noise, 16_000, "FLAC")
    with pytest.raises(InputError, match=r"(cut|broken) off"):
        load_audio(content[: len(content) // 2], "half.flac")


def test_the_header_gives_the_duration_without_decoding(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    path.write_bytes(as_file(np.zeros(8_000 * 600, dtype=np.float32), 8_000, subtype="PCM_U8"))
    header = read_header(path, path.name)
    assert (header.duration_s, header.rate_hz, header.channels) == (600.0, 8_000, 1)


def test_flac_keeps_16_bit_samples_exactly_and_is_repeatable() -> None:
    integers = np.random.default_rng(1).integers(-32768, 32768, 8_000)
    samples = (integers / 32768).astype(np.float32)
    content = encode_flac(samples)
    np.testing.assert_array_equal(load_audio(content, "x"), samples)
    assert encode_flac(samples) == content


def test_flac_clips_instead_of_wrapping_around() -> None:
    assert load_audio(encode_flac(np.array([1.5, -1.5] * 100)), "x").max() > 0.99


@pytest.mark.parametrize("shape", [(0,), (10, 2)])
def test_flac_refuses_what_is_not_one_channel(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="shape"):
        encode_flac(np.zeros(shape))


def test_flac_of_float32_is_that_of_float64() -> None:
    samples = np.random.default_rng(2).uniform(-1.2, 1.2, 8_000).astype(np.float32)
    assert encode_flac(samples) == encode_flac(samples.astype(np.float64))


def test_opened_once_it_gives_the_header_and_the_samples(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    path.write_bytes(as_file(np.stack([tone(44_100), tone(44_100)], axis=1), 44_100))
    for source in (path, path.read_bytes()):
        header, recording = read_recording(source, "stereo.wav", max_duration_s=1.0)
        assert header == read_header(path, "stereo.wav")
        assert (header.duration_s, header.rate_hz, header.channels, header.format) == (1.0, 44_100, 2, "WAV")
        assert recording is not None
        np.testing.assert_array_equal(recording.samples, decode(path, "stereo.wav").samples)


def test_what_lasts_too_long_is_not_decoded() -> None:
    content = as_file(np.zeros(16_000 * 60), 16_000, "FLAC")
    header, recording = read_recording(content, "long.flac", max_duration_s=30.0)
    assert (header.duration_s, recording) == (60.0, None)
    _, stretch = read_recording(content, "long.flac", max_duration_s=30.0, start_s=20.0, end_s=45.0)
    assert stretch is not None
    assert stretch.samples.shape == (25 * 16_000, 1)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "AIFF", "MP3", "OPUS"])
def test_a_stretch_is_that_part_of_the_whole(kind: str) -> None:
    noise = np.random.default_rng(3).uniform(-0.5, 0.5, 32_000)
    content = as_file(noise, 16_000, "OGG", "OPUS") if kind == "OPUS" else as_file(noise, 16_000, kind)
    whole = decode(content, "noise").samples
    for start_s, end_s in ((0.0, 0.5), (0.7, 1.3), (1.9, None), (None, 0.1)):
        part = decode(content, "noise", start_s, end_s).samples
        expected = whole[round((start_s or 0) * 16_000) : None if end_s is None else round(end_s * 16_000)]
        np.testing.assert_allclose(part, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("start_s", "end_s"),
    [
        (2.0, None),
        (5.0, 6.0),
        (0.0, 2.0 + 2 * MAX_OVERSHOOT_S),
        (1.0, 1.0),
        (1.5, 1.0),
        (-1.0, 1.0),
        (float("nan"), 1.0),
    ],
)
def test_a_stretch_outside_of_the_recording_is_refused(start_s: float, end_s: float | None) -> None:
    with pytest.raises(InputError, match=r"short\.wav.*stretch"):
        decode(as_file(tone(16_000, 2.0), 16_000), "short.wav", start_s, end_s)


def test_a_stretch_may_end_a_little_behind_the_recording() -> None:
    content = as_file(tone(16_000, 2.0), 16_000)
    assert decode(content, "short.wav", 1.0, 2.0 + MAX_OVERSHOOT_S / 2).samples.shape == (16_000, 1)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("block_s", [0.05, 0.7, 30.0])
def test_blocks_are_the_whole(rate_hz: int, block_s: float) -> None:
    random = np.random.default_rng(4)
    content = as_file(random.uniform(-0.5, 0.5, (3 * rate_hz + 11, 2)), rate_hz, subtype="FLOAT")
    blocks = list(stream_mono_16k(content, "noise", block_s))
    assert all(block.dtype == np.float32 and 0 < block.size <= 16_000 * (block_s + 1.0) for block in blocks)
    np.testing.assert_allclose(np.concatenate(blocks), load_audio(content, "noise"), atol=1e-6)
    part = np.concatenate(list(stream_mono_16k(content, "noise", block_s, 0.5, 1.5)))
    np.testing.assert_allclose(part, to_mono_16k(decode(content, "noise", 0.5, 1.5)), atol=1e-6)


def test_blocks_of_a_long_recording_need_no_more_memory_than_those_of_a_short_one(tmp_path: Path) -> None:
    peaks = []
    for seconds in (20, 120):
        path = tmp_path / f"{seconds}.wav"
        soundfile.write(path, np.zeros((seconds * 44_100, 2), dtype=np.int16), 44_100)
        tracemalloc.start()
        assert sum(block.size for block in stream_mono_16k(path, path.name, 5.0)) == seconds * 16_000
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 50_000_000


def test_a_pipe_does_not_keep_us_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(InputError, match="no file but"):
            load_audio(path, "pipe.wav")
