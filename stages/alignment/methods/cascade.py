"""``cascade``: a transcriber writes, the LLM reads. Nothing learns; it is what alignment has to beat.

The transcriber is faster-whisper on the padded window with beam search, with the encoder that all methods share inside
(``stages.pseudo_labels.Transcriber``). What it wrote is returned as it wrote it: "15213" for "one five two one three" is no
mishearing, so who scores it takes the reading that is kindest to it (``stages.text.fair_cascade``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from stages.alignment.trainer import Example


class Cascade:
    """Transcripts of an utterance's own audio; it hears samples where the others hear frames of the same recording."""

    name = "cascade"
    needs_llm = False
    seconds = 0.0

    def __init__(self, transcribe: Callable[[np.ndarray], str], samples: Callable[[str], np.ndarray]) -> None:
        """``transcribe``: (n,) float32 at 16 kHz -> raw text. ``samples``: the audio of an utterance by name."""
        self.transcribe = transcribe
        self.samples = samples

    def trainable_parameters(self) -> int:
        return 0

    def step(self, batch: Sequence[Example]) -> float:
        raise ValueError(f"a cascade does not learn; got a batch of {len(batch)} utterances to learn from")

    def read(self, heard: Sequence[Example]) -> list[str]:
        return [self.transcribe(self.samples(example.utterance)) for example in heard]
