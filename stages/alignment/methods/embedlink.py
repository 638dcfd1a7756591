"""``embedlink``: ours. BridgeFormer and CTC over the LLM's rows, by the trainer that the ``base`` stage uses.

See ``stages.alignment.bridgeformer``, ``embedlink`` and ``trainer``. Nothing here differs from a base's training but the
hand that deals the batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from stages.alignment.bridgeformer import BridgeFormerConfig
from stages.alignment.trainer import Example, TrainConfig, Trainer, read_out_all
from stages.yielding import between_steps


class EmbedLinkMethod:
    """A ``Trainer``, a step at a time."""

    name = "embedlink"
    needs_llm = False

    def __init__(
        self,
        bridge: BridgeFormerConfig,
        config: TrainConfig,
        examples: Sequence[Example],
        rows: Tensor,
        text_of: Callable[[list[int]], str],
    ) -> None:
        """``rows``: (V, D) embedding rows that the examples' targets index; ``text_of``: the text that row indices spell."""
        self.trainer = Trainer(bridge, config, examples, rows)
        self.text_of = text_of
        self.seconds = 0.0
        self._masks = np.random.default_rng([config.seed, 1])

    def trainable_parameters(self) -> int:
        return sum(weight.numel() for weight in self.trainer.bridge.parameters())

    def step(self, batch: Sequence[Example]) -> float:
        between_steps()
        start = time.perf_counter()
        self.trainer.bridge.train()
        loss = self.trainer.step(batch, self._masks)
        self.seconds += time.perf_counter() - start
        return loss

    def read(self, heard: Sequence[Example]) -> list[str]:
        outputs = read_out_all(self.trainer.bridge, self.trainer.link, [example.frames for example in heard])
        return [self.text_of(output.rows) for output in outputs]
