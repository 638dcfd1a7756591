"""What is measured of a recording is what was put into it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.cohorts.acoustics import coloured_noise
from pipeline.cohorts.espeak import Speaker, Voice
from stages.audio import load_audio, resample
from stages.quality import FLOOR_DBFS, measure

RATE_HZ = 16_000
ROOT = Path(__file__).resolve().parents[2]
AN4 = Path(os.environ.get("EDGEALIGN_AN4") or ROOT.parent / "shared" / "data" / "an4")
SENTENCES = ("the quick brown fox jumps over the lazy dog", "please turn the volume down", "nineteen eighty four")
SNRS_DB = (0, 5, 10, 15, 20, 25, 30)


def tone(rate_hz: int = RATE_HZ, seconds: float = 1.0, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * 440.0 * np.arange(int(rate_hz * seconds)) / rate_hz)


@pytest.fixture(scope="module")
def spoken() -> list[np.ndarray]:
    """Sentences of three voices with 0.2 s of digital silence around each, 16 kHz."""
    speaker = Speaker()
    clips = []
    for voice in ("en-us", "en-us+f3", "de"):
        speaker.use(Voice(voice))
        clips += [np.pad(resample(speaker.speak(text), speaker.rate_hz), RATE_HZ // 5) for text in SENTENCES]
    return clips


def estimates(clips: list[np.ndarray], slope_db: float) -> np.ndarray:
    """(n_snrs, n_clips): the estimate for each clip mixed at each of SNRS_DB."""
    random = np.random.default_rng(0)
    noises = [coloured_noise(random, clip.size, slope_db) for clip in clips]
    return np.array(
        [
            [
                measure(clip + noise * np.sqrt(np.mean(clip**2) / 10 ** (snr / 10)), RATE_HZ).snr_db
                for clip, noise in zip(clips, noises, strict=True)
            ]
            for snr in SNRS_DB
        ],
        dtype=float,
    )


@pytest.mark.parametrize("slope_db", [0.0, 3.0], ids=["white", "pink"])
def test_the_estimate_follows_the_mixture(spoken: list[np.ndarray], slope_db: float) -> None:
    found = estimates(spoken, slope_db)
    assert (np.diff(found, axis=0) > 0).all(), "more noise must never look like less"
    errors = found - np.array(SNRS_DB)[:, None]
    assert np.abs(errors.mean(axis=1)).max() < 2.0
    assert np.abs(errors).max() < 5.0


@pytest.mark.an4
@pytest.mark.skipif(not (AN4 / "audio").is_dir(), reason=f"AN4 is not in {AN4}; set EDGEALIGN_AN4")
@pytest.mark.parametrize("slope_db", [0.0, 3.0], ids=["white", "pink"])
def test_the_estimate_follows_the_mixture_with_recorded_speech(slope_db: float) -> None:
    paths = sorted((AN4 / "audio").glob("*/*.flac"))[::32]
    clips = [load_audio(path, path.name).astype(np.float64) for path in paths]
    errors = estimates(clips, slope_db) - np.array(SNRS_DB)[:, None]
    assert np.abs(errors.mean(axis=1)).max() < 2.5  # 30 dB is more than some of these recordings have


def test_the_estimate_does_not_depend_on_level_rate_or_channels(spoken: list[np.ndarray]) -> None:
    noisy = spoken[0] + 0.01 * np.random.default_rng(0).standard_normal(spoken[0].size)
    plain = measure(noisy, RATE_HZ).snr_db
    assert plain is not None
    assert measure(noisy / 8, RATE_HZ).snr_db == pytest.approx(plain, abs=0.01)
    assert measure(np.stack([noisy, noisy], axis=1), RATE_HZ).snr_db == pytest.approx(plain, abs=0.01)
    assert measure(noisy + 0.05, RATE_HZ).snr_db == pytest.approx(plain, abs=0.01)  # a converter's offset
    assert measure(np.repeat(noisy, 3), 3 * RATE_HZ).snr_db == pytest.approx(plain, abs=0.01)


def test_padding_with_digital_silence_is_not_taken_for_the_room(spoken: list[np.ndarray]) -> None:
    noisy = spoken[0] + 0.01 * np.random.default_rng(0).standard_normal(spoken[0].size)
    assert measure(np.pad(noisy, RATE_HZ), RATE_HZ).snr_db == pytest.approx(measure(noisy, RATE_HZ).snr_db, abs=1.0)


@pytest.mark.parametrize(
    "samples",
    [np.zeros(0), np.zeros(RATE_HZ), tone(level=1e-4), tone(seconds=0.2), tone()],
    ids=["nothing", "zeros", "silent", "short", "no pause"],
)
def test_no_estimate_where_there_is_no_pause_to_hear_the_noise_in(samples: np.ndarray) -> None:
    assert measure(samples, RATE_HZ).snr_db is None


@pytest.mark.parametrize("slope_db", [0.0, 3.0], ids=["white", "pink"])
def test_noise_alone_holds_no_speech(slope_db: float) -> None:
    found = measure(0.1 * coloured_noise(np.random.default_rng(0), 4 * RATE_HZ, slope_db), RATE_HZ)
    assert (found.snr_db, found.speech_share) == (None, 0.0)


@pytest.mark.parametrize("pause_s", [1.0, 5.0])
def test_the_share_of_speech_is_the_share_that_was_spoken(spoken: list[np.ndarray], pause_s: float) -> None:
    speech = np.trim_zeros(spoken[0])
    noisy = np.pad(speech, int(pause_s * RATE_HZ) // 2)
    noisy = noisy + 1e-3 * np.random.default_rng(0).standard_normal(noisy.size)
    assert measure(noisy, RATE_HZ).speech_share == pytest.approx(0.85 * speech.size / noisy.size, rel=0.18)


def test_level_peak_and_clipping() -> None:
    found = measure(tone(), RATE_HZ)
    assert found.level_dbfs == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)
    assert (found.peak, found.clipped_share) == (pytest.approx(0.5, abs=1e-3), 0.0)
    assert found.rms == pytest.approx(0.5 / np.sqrt(2), rel=1e-3)
    assert measure(np.clip(tone(44_100, level=2.0), -1.0, 1.0), 44_100).clipped_share == pytest.approx(2 / 3, abs=0.01)
    one_of_two = np.stack([np.clip(tone(level=2.0), -1.0, 1.0), tone()], axis=1)
    assert measure(one_of_two, RATE_HZ).clipped_share == pytest.approx(1 / 3, abs=0.01)


def test_silence_has_a_floor_and_quiet_speech_is_no_silence() -> None:
    assert measure(np.zeros(RATE_HZ), RATE_HZ).level_dbfs == FLOOR_DBFS
    assert measure(np.zeros((0, 2)), RATE_HZ).silent
    assert measure(tone(level=1e-4), RATE_HZ).silent
    assert not measure(tone(level=2e-3), RATE_HZ).silent
