"""What faster-whisper hears, kept outside the checkout by recordings, weights and settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import corpora
from benchmarks.alignment import Bench
from pipeline.progress import progress
from stages.atomic import sha256_json, write_json
from stages.text import from_transcriber, problems_of

Recording = tuple[str, Callable[[], np.ndarray]]
"""An utterance, and what reads its samples at 16 kHz."""

STEP = 50
"""Utterances after which what is known is written: a run that is stopped goes on where it was."""


def transcripts(
    bench: Bench, name: str, key: Any, utterances: Sequence[str], recordings: Callable[[], Sequence[Recording]]
) -> dict[str, tuple[str, float]]:
    """(raw transcript, score) of each of ``utterances``. ``recordings``, theirs among others, is called only where some are not
    known under ``key``."""
    from stages.models.prepare import prepare_transcriber
    from stages.pseudo_labels import Transcriber

    # more threads than there are idle cores wait for each other: OMP_NUM_THREADS=1 where something else runs
    model = prepare_transcriber(bench.settings.models.transcriber)
    transcriber = Transcriber(model, bench.settings.pseudo_labels.beam_size, torch.get_num_threads())
    key = sha256_json([key, transcriber.identity, transcriber.beam_size])
    path = corpora.CACHE / f"{name}-transcripts-{key[:16]}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    unknown = set(utterances) - set(found)
    left = [one for one in recordings() if one[0] in unknown] if unknown else []
    with progress(f"transcribe {name}", len(left), "utterances") as advance:
        for place, (utterance, samples) in enumerate(left, 1):
            heard = transcriber.transcribe(samples(), "en")
            found[utterance] = [heard.text, heard.score]
            advance(1)
            if place % STEP == 0 or place == len(left):
                write_json(path, found)
    return {utterance: (found[utterance][0], found[utterance][1]) for utterance in utterances}


def spoken(text: str) -> str:
    """A transcript in spoken form, as the pseudo_labels stage writes it; empty where that refuses it."""
    return "" if problems_of(text, "en") else from_transcriber(text, "en")
