"""Rooms, noises and channels for spoken samples, so that clean synthetic speech trains adapters for real microphones.

All of it is float64 numpy, and every random choice comes from a generator seeded by the utterance's id: the same
utterance always gets the same room.
"""

from __future__ import annotations

import hashlib

import numpy as np

from stages.audio import resample
from stages.schema import SAMPLE_RATE_HZ

SPEECH_RMS = 0.06
"""Level before the random gain (full scale 1.0): about -24 dBFS, an ordinary recording."""

PEAK_LIMIT = 0.97
"""No demo recording clips."""


def generator(key: str) -> np.random.Generator:
    """A random stream of its own for ``key``."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")))


def trim(samples: np.ndarray, rate_hz: int, threshold: float = 1e-3) -> np.ndarray:
    """Cut the synthesiser's own leading and trailing silence, but for 20 ms."""
    loud = np.flatnonzero(np.abs(samples) > threshold)
    if loud.size == 0:
        return samples
    margin = rate_hz // 50
    return samples[max(0, loud[0] - margin) : loud[-1] + margin]


def spectrum_shape(samples: np.ndarray, gains_db: np.ndarray, edges_hz: np.ndarray) -> np.ndarray:
    """Filter (n_samples,) by a smooth curve: ``gains_db`` at ``edges_hz``, straight lines between on a log axis."""
    size = 1 << int(np.ceil(np.log2(samples.size + 1024)))
    frequency = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ)
    gain_db = np.interp(np.log(np.maximum(frequency, 20.0)), np.log(edges_hz), gains_db)
    return np.fft.irfft(np.fft.rfft(samples, size) * 10 ** (gain_db / 20), size)[: samples.size]


def coloured_noise(random: np.random.Generator, n_samples: int, slope_db: float) -> np.ndarray:
    """Noise (n_samples,) of RMS 1.0 whose level falls by ``slope_db`` an octave (0 white, 3 pink, 6 brown)."""
    size = 1 << int(np.ceil(np.log2(max(n_samples, 2))))
    frequency = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ), 50.0)
    shape = frequency ** (-slope_db / 6.0206)
    noise = np.fft.irfft(np.fft.rfft(random.standard_normal(size)) * shape, size)[:n_samples]
    return noise / np.sqrt(np.mean(noise**2))


def reverberate(random: np.random.Generator, samples: np.ndarray) -> np.ndarray:
    """A small room: the direct sound, and noise that decays by 60 dB in 0.1 to 0.5 s, 8 to 20 dB below it."""
    decay_s = random.uniform(0.1, 0.5)
    n_response = int(decay_s * SAMPLE_RATE_HZ)
    time_s = np.arange(n_response) / SAMPLE_RATE_HZ
    tail = random.standard_normal(n_response) * 10 ** (-3.0 * time_s / decay_s)
    tail[: int(0.002 * SAMPLE_RATE_HZ)] = 0.0  # nothing comes back within 2 ms
    tail *= 10 ** (-random.uniform(8.0, 20.0) / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    size = 1 << int(np.ceil(np.log2(samples.size + n_response)))
    return np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size), size)[: samples.size + n_response // 4]


def channel(random: np.random.Generator, samples: np.ndarray) -> np.ndarray:
    """A microphone: gentle tilt always; sometimes the band of a telephone, or a dull or thin one."""
    edges_hz = np.array([20.0, 80.0, 200.0, 500.0, 1200.0, 2500.0, 4000.0, 6000.0, 8000.0])
    gains_db = random.uniform(-5.0, 5.0, edges_hz.size)
    kind = random.random()
    if kind < 0.12:  # telephone
        gains_db += np.array([-50.0, -40.0, -12.0, 0.0, 0.0, 0.0, -20.0, -50.0, -60.0])
    elif kind < 0.3:  # dull
        gains_db += np.array([0.0, 0.0, 0.0, 0.0, -1.0, -4.0, -9.0, -16.0, -24.0])
    elif kind < 0.45:  # thin
        gains_db += np.array([-30.0, -20.0, -10.0, -3.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    return spectrum_shape(samples, gains_db, edges_hz)


def record(
    spoken: np.ndarray, rate_hz: int, key: str, noise_below_db: tuple[float, float] = (10.0, 35.0)
) -> np.ndarray:
    """As if ``spoken`` (n_samples,) at ``rate_hz`` had been recorded: float64 (n_samples,) at SAMPLE_RATE_HZ.

    In turn: tempo and pitch jitter of up to 6 % (as a change of rate), a room for half of them, the microphone,
    0.05 to 0.4 s of silence before and after, noise of a random colour ``noise_below_db`` below the
    speech, a random gain.
    """
    random = generator(key)
    jittered_hz = round(rate_hz * random.uniform(0.94, 1.06))
    samples = resample(trim(spoken, rate_hz), jittered_hz)
    if random.random() < 0.5:
        samples = reverberate(random, samples)
    samples = channel(random, samples)
    samples = samples * SPEECH_RMS / max(float(np.sqrt(np.mean(samples**2))), 1e-9)
    before, after = (int(random.uniform(0.05, 0.4) * SAMPLE_RATE_HZ) for _ in range(2))
    samples = np.concatenate([np.zeros(before), samples, np.zeros(after)])
    level_db = random.uniform(*noise_below_db)
    noise = coloured_noise(random, samples.size, slope_db=random.uniform(0.0, 6.0))
    samples = samples + noise * SPEECH_RMS * 10 ** (-level_db / 20)
    samples = samples * 10 ** (random.uniform(-12.0, 8.0) / 20)
    peak = float(np.abs(samples).max())
    return samples * (PEAK_LIMIT / peak) if peak > PEAK_LIMIT else samples
