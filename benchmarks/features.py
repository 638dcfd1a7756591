"""Features: encoding on the utterance's own length against the encoder's padded 30 s window, both sides in turn."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import corpora
from benchmarks.record import at_least, plain, write_area
from stages.audio import load_audio
from stages.models.encoder import SpeechEncoder
from stages.schema import SAMPLE_RATE_HZ

UTTERANCES = 48
ROUNDS = 3


def run() -> Path:
    """Measure and write docs/benchmarks/features.json."""
    folder, _ = corpora.models()
    encoder = SpeechEncoder.load(folder)
    recordings = corpora.an4_recordings()
    step = max(1, len(recordings) // UTTERANCES)
    audio = [load_audio(path, path.name) for *_, path in recordings[::step]][:UTTERANCES]
    seconds = sum(len(samples) for samples in audio) / SAMPLE_RATE_HZ
    encoder.encode(audio[0], corpora.PADDING_S)  # the first call pays for set-up that later ones do not
    encoder.encode_padded(audio[0])
    own, padded = [], []
    for _ in range(ROUNDS):  # alternating, so that another load on the machine hits both sides
        own.append(_time(lambda samples: encoder.encode(samples, corpora.PADDING_S), audio))
        # every third of them: the padded side takes ten times as long and its time does not depend on the length
        padded.append(3 * _time(encoder.encode_padded, audio[::3]))
    ratios = [slow / fast for slow, fast in zip(padded, own, strict=True)]
    note = (
        f"{len(audio)} AN4 recordings, {seconds:.0f} s of audio, {torch.get_num_threads()} threads; by round: "
        + ", ".join(f"{ratio:.1f}" for ratio in ratios)
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return write_area(
        "features",
        [
            at_least("own_length_over_padded", statistics.median(ratios), 10.0, "×", note=note),
            plain("audio_seconds_per_second", seconds / statistics.median(own), "s/s"),
            plain("audio_seconds_per_second_padded", seconds / statistics.median(padded), "s/s"),
            plain("seconds_per_utterance", statistics.median(own) / len(audio), "s"),
            plain("peak_rss_bytes", peak, "bytes", note="of the process that measured"),
        ],
    )


def _time(encode: Callable[..., Any], audio: Sequence[np.ndarray]) -> float:
    start = time.perf_counter()
    for samples in audio:
        encode(samples)
    return time.perf_counter() - start
