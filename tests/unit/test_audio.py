"""Recordings of every kind come out as float32, mono, 16 kHz; what is no recording says so."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stages.audio import encode_flac, load_audio, read_header
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
