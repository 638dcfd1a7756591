"""Long recordings come out as their sentences: none lost, none cut in two, whatever blocks they arrive in."""

from __future__ import annotations

import multiprocessing
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

from pipeline.cohorts.acoustics import coloured_noise
from pipeline.cohorts.espeak import Speaker, Voice
from stages.audio import resample
from stages.voice_activity import JOIN_S, Piece, _quietest, _without_long_ones, cut

RATE_HZ = 16_000
TEXTS = (
    "the quick brown fox jumps over the lazy dog",
    "please turn the volume of the kitchen radio down",
    "what will the weather be like tomorrow morning",
    "remind me to call my sister at half past eight",
    "how long does the train to the airport take",
)


@dataclass(frozen=True)
class Talk:
    """Sentences with pauses in some noise; ``spoken`` is where each begins and ends, in seconds."""

    samples: np.ndarray
    spoken: list[tuple[float, float]]


@pytest.fixture(scope="module")
def sentences() -> list[np.ndarray]:
    """Spoken in a process of their own: what eSpeak NG has said before in a process changes a little of what it says next."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(spoken_sentences).result()


def spoken_sentences() -> list[np.ndarray]:
    """Sentences of two voices, without silence around them, 16 kHz."""
    speaker = Speaker()
    clips = []
    for voice in ("en-us", "en-us+f3"):
        speaker.use(Voice(voice))
        for text in TEXTS:
            samples = resample(speaker.speak(text), speaker.rate_hz)
            loud = np.flatnonzero(np.abs(samples) > 0.01)
            clips.append(0.5 * samples[loud[0] : loud[-1] + 1])
    return clips


def talk(sentences: list[np.ndarray], pause_s: float, noise_rms: float = 1e-3) -> Talk:
    parts, spoken, place = [np.zeros(RATE_HZ)], [], 1.0
    for sentence in sentences:
        spoken.append((place, place + sentence.size / RATE_HZ))
        parts += [sentence, np.zeros(int(pause_s * RATE_HZ))]
        place += sentence.size / RATE_HZ + int(pause_s * RATE_HZ) / RATE_HZ
    samples = np.concatenate(parts)
    noise = noise_rms * coloured_noise(np.random.default_rng(0), samples.size, 3.0)
    return Talk((samples + noise).astype(np.float32), spoken)


def blocks(samples: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (samples[start : start + size] for start in range(0, samples.size, size))


def check_pieces(pieces: list[Piece], samples: np.ndarray, max_s: float) -> None:
    """In order, apart, not too long, and each with the samples of its times."""
    end_s = 0.0
    for piece in pieces:
        assert end_s <= piece.start_s < piece.end_s <= samples.size / RATE_HZ
        assert piece.end_s - piece.start_s <= max_s
        assert piece.samples.dtype == np.float32
        start, end = round(piece.start_s * RATE_HZ), round(piece.end_s * RATE_HZ)
        np.testing.assert_array_equal(piece.samples, samples[start:end])
        end_s = piece.end_s


def lost_s(pieces: list[Piece], spoken: list[tuple[float, float]]) -> float:
    """Seconds of the sentences that lie in no piece."""
    inside = sum(
        max(0.0, min(end, piece.end_s) - max(start, piece.start_s)) for piece in pieces for start, end in spoken
    )
    return sum(end - start for start, end in spoken) - inside


@pytest.mark.parametrize("noise_rms", [1e-4, 3e-3], ids=["quiet", "noisy"])
@pytest.mark.parametrize("repeats", [1, 4], ids=["one window", "many windows"])
def test_sentences_with_silences_between_them(sentences: list[np.ndarray], noise_rms: float, repeats: int) -> None:
    heard = talk(sentences * repeats, 1.5, noise_rms)
    pieces = list(cut(blocks(heard.samples, 480_000)))
    check_pieces(pieces, heard.samples, 15.0)
    assert len(pieces) == len(heard.spoken)
    for piece, (start_s, end_s) in zip(pieces, heard.spoken, strict=True):
        assert piece.start_s == pytest.approx(start_s, abs=0.3)
        assert piece.end_s == pytest.approx(end_s, abs=0.3)
    assert lost_s(pieces, heard.spoken) < 0.01


def test_blocks_make_no_difference(sentences: list[np.ndarray]) -> None:
    samples = talk(sentences * 4, 0.8).samples
    whole = list(cut([samples]))
    for size in (997, 16_000, 1_000_000):
        pieces = list(cut(blocks(samples, size)))
        assert [(piece.start_s, piece.end_s) for piece in pieces] == [(piece.start_s, piece.end_s) for piece in whole]
        assert all(map(np.array_equal, (p.samples for p in pieces), (p.samples for p in whole)))


@pytest.mark.parametrize("max_s", [4.0, 8.0, 15.0, 30.0])
def test_neighbours_are_joined_up_to_the_longest_piece(sentences: list[np.ndarray], max_s: float) -> None:
    heard = talk(sentences * 4, JOIN_S / 2)
    pieces = list(cut([heard.samples], max_s=max_s))
    check_pieces(pieces, heard.samples, max_s)
    assert lost_s(pieces, heard.spoken) < 0.01
    seconds = heard.samples.size / RATE_HZ
    assert seconds / max_s <= len(pieces) < 2.5 * seconds / max_s
    if max_s >= 8.0:  # longer than a sentence: then every cut can lie between two
        for piece in pieces:
            assert not any(start + 0.05 < piece.start_s < end - 0.05 for start, end in heard.spoken)


def test_speech_without_a_pause_is_cut_and_nothing_lost(sentences: list[np.ndarray]) -> None:
    heard = talk(sentences * 3, 0.0)
    pieces = list(cut([heard.samples], max_s=2.0))
    check_pieces(pieces, heard.samples, 2.0)
    assert lost_s(pieces, heard.spoken) < 0.01 * sum(end - start for start, end in heard.spoken)


def test_the_cut_is_at_the_quietest_place() -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 20 * RATE_HZ).astype(np.float32)
    samples[9 * RATE_HZ : 9 * RATE_HZ + 3_200] *= 0.1
    assert _quietest(samples, 5 * RATE_HZ, 12 * RATE_HZ) == pytest.approx(9.1 * RATE_HZ, abs=1_000)
    spans = list(_without_long_ones([(0, samples.size)], samples, 12 * RATE_HZ))
    assert [start for start, _ in spans][1:] == [end for _, end in spans][:-1]
    assert spans[0][1] == pytest.approx(9.1 * RATE_HZ, abs=1_000)
    assert (spans[0][0], spans[-1][1]) == (0, samples.size)


@pytest.mark.parametrize("seconds", [0, 1, 150])
def test_where_nobody_speaks_there_is_no_piece(seconds: int) -> None:
    random = np.random.default_rng(0)
    noise = 0.01 * coloured_noise(random, max(seconds * RATE_HZ, 1), 3.0)[: seconds * RATE_HZ]
    tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(seconds * RATE_HZ) / RATE_HZ)
    for samples in (np.zeros(seconds * RATE_HZ), noise, tone):
        assert list(cut([samples.astype(np.float32)])) == []


@pytest.mark.parametrize(
    "lengths",
    [{"max_s": 31.0}, {"max_s": 0.5}, {"min_s": 0.0}, {"pad_s": -0.1}, {"pad_s": 2.0}, {"max_s": float("nan")}],
)
def test_lengths_that_leave_no_room_are_refused(lengths: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="no pieces of"):
        next(cut([np.zeros(RATE_HZ, dtype=np.float32)], **lengths))


def test_a_long_recording_needs_no_more_memory_than_a_short_one(sentences: list[np.ndarray]) -> None:
    samples = talk(sentences, 1.5).samples
    peaks = []
    for minutes in (2, 10):
        tracemalloc.start()
        count = sum(1 for _ in cut(samples for _ in range(round(minutes * 60 * RATE_HZ / samples.size))))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count > 10 * minutes
    assert peaks[1] < 1.2 * peaks[0]
