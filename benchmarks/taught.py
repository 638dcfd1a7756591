"""Bases that benchmarks teach, kept outside the checkout by what they learned from and how: a run goes on where it was."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from benchmarks import corpora
from benchmarks.alignment import Bench
from pipeline.progress import progress
from stages.alignment import adapter
from stages.alignment.bridgeformer import BridgeFormer, BridgeFormerConfig
from stages.alignment.record import AdapterRecord
from stages.alignment.trainer import Example, TrainConfig, Trainer
from stages.alignment.vocabulary import Vocabulary
from stages.atomic import sha256_file, sha256_json
from stages.models.llm import embedding_rows

log = logging.getLogger("edgealign")


@dataclass(frozen=True)
class Taught:
    """A base, the rows that it reads from, and the seconds that it learned for (of the run that taught it)."""

    bridge: BridgeFormer
    vocabulary: Vocabulary
    seconds: float


def teach(
    bench: Bench,
    name: str,
    examples: Sequence[Example],
    vocabulary: Vocabulary,
    config: TrainConfig,
    bridge: BridgeFormerConfig | None = None,
    table: torch.Tensor | None = None,
) -> Taught:
    """A base taught by ``examples``, whose targets are rows of ``vocabulary``; from disk where the same was taught before.

    ``table``: the LLM's whole table, for ``config.sampled_rows``.
    """
    bridge = bridge or bench.bridge
    code = [corpora.ROOT / "stages" / "alignment" / f"{part}.py" for part in ("bridgeformer", "embedlink", "trainer")]
    learned = [
        [one.utterance, one.text, len(one.frames), one.target.tolist(), [cut.tolist() for cut in one.cuts]]
        for one in examples
    ]
    told = [learned, list(vocabulary.ids), asdict(config), bridge.to_json(), [sha256_file(path) for path in code]]
    folder = corpora.CACHE / f"taught-{name}-{sha256_json(told)[:16]}"
    if folder.is_dir():
        kept, ids, record = adapter.load_base(folder)
        log.info("%s: taught before, kept in %s", name, folder)
        return Taught(kept, ids, record.metrics["train_seconds"])
    trainer = Trainer(bridge, config, examples, embedding_rows(bench.llm, vocabulary.ids), table)
    with progress(f"teach {name}", config.epochs, "epochs") as advance:
        for _ in range(config.epochs):
            trainer.run_epoch()
            advance(1)
    record = AdapterRecord("base", "embedlink", bridge.to_json(), "", "", list(vocabulary.ids))
    record.metrics = {"train_seconds": trainer.seconds}
    adapter.save_base(folder, trainer.bridge, record)
    return Taught(trainer.bridge.eval(), vocabulary, trainer.seconds)
