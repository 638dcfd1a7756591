"""Run as a program: one training of a given size in a process of its own. Prints its plan and what it took."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

THREADS = 2


@dataclass(frozen=True)
class Size:
    """A made-up corpus of ``count`` utterances, all of the same length."""

    kind: str = "base"  # or personal
    method: str = "shira"
    encoder_width: int = 384
    llm_width: int = 576
    stack: int = 4
    layers: int = 2
    frames: int = 1500
    tokens: int = 40
    rows: int = 113
    batch_size: int = 4
    count: int = 8
    held_out: int = 0
    cap_bytes: int = 0  # 0: no cap


def measure(size: Size) -> dict[str, Any]:
    """Train as a worker does and look at the process's resident memory."""
    import torch

    from pipeline.cluster.worker import peak_rss_bytes, reset_peak_rss
    from stages.alignment.bridgeformer import BridgeFormer, BridgeFormerConfig
    from stages.alignment.memory_plan import Work, plan_memory
    from stages.alignment.trainer import TrainConfig
    from stages.base import BaseSetup, Corpus, run_epoch

    if size.kind == "personal":
        from stages.alignment.personal import PersonalConfig
        from stages.personalize import train_user

    bridge = BridgeFormerConfig(size.encoder_width, size.llm_width, size.stack, layers=size.layers)
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(size.rows, size.llm_width)).astype(np.float32)

    def corpus(count: int) -> Corpus:
        frames = [generator.normal(size=(size.frames, size.encoder_width)).astype(np.float16) for _ in range(count)]
        targets = [generator.integers(0, size.rows, size.tokens) for _ in range(count)]
        return Corpus([f"u{index}" for index in range(count)], ["a"] * count, frames, targets)

    training, held_out = corpus(size.count), corpus(size.held_out)
    work = Work(
        kind="personal" if size.kind == "personal" else "base",
        bridge=bridge,
        batch_size=size.batch_size,
        rows=size.rows,
        utterances=training.utterances,
        frames=[size.frames] * size.count,
        tokens=[size.tokens] * size.count,
        read=[size.frames] * size.held_out,
    )
    plan = plan_memory(work, size.cap_bytes or 10**12)
    torch.set_num_threads(THREADS)
    reset_peak_rss()
    before = peak_rss_bytes()
    if size.kind == "personal":
        weights = {name: value.detach().numpy() for name, value in BridgeFormer(bridge).state_dict().items()}
        config = PersonalConfig(
            method=size.method,
            batch_size=size.batch_size,
            steps=3,
            micro_batch=plan.micro_setting,
            score_batch=plan.score_batch,
        )
        train_user(weights, bridge, rows, training, config, THREADS)
    else:
        setup = BaseSetup(
            bridge, TrainConfig(2, size.batch_size, 1e-3), training, held_out, rows, ["a"] * size.rows, plan.read_batch
        )
        setup = replace(setup, train=replace(setup.train, micro_batch=plan.micro_setting))
        run_epoch(setup, run_epoch(setup, None, THREADS).state, THREADS)
    return {"before_bytes": before, "peak_bytes": peak_rss_bytes(), **asdict(plan)}


if __name__ == "__main__":
    print(json.dumps(measure(Size(**json.loads(sys.argv[1])))))
