"""What freezing whole blocks saves in a personal update, beside a mask over single weights, which saves none of it.

Of a step on the same batch: seconds, bytes of activations kept for the backward pass, bytes of gradients and optimiser
state; and the quality that is left, on the users and with the rules of ``benchmarks.sparse``.

    make bench AREA=freezing                              about five minutes
    EDGEALIGN_SPARSE_QUICK=1 make bench AREA=freezing     whether it runs: figures of no worth, kept out of docs
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.alignment import Bench
from benchmarks.record import Figure, plain, write_area
from benchmarks.sparse import COHORTS, Candidate, figures, kept_of, measure, prepared, size_asked
from stages.alignment import sparse
from stages.alignment.bridgeformer import BridgeFormer
from stages.alignment.embedlink import EmbedLink
from stages.alignment.freezing import freeze_below
from stages.alignment.personal import attach_sparse, user_loss
from stages.alignment.trainer import Example

FULL = Candidate("full")
FROZEN = (Candidate("blocks", blocks=1), Candidate("blocks", blocks=0))
MASKED = Candidate("shira", "gradient", 0.01)
STEPS = 20


def run() -> Path:
    """Measure everything and write docs/benchmarks/freezing.json."""
    bench = Bench.open()
    size = replace(size_asked(), candidates=(FULL, *FROZEN))
    base, users = prepared(bench, size)
    _, split = users[COHORTS[0]][0]
    vocabulary = base.vocabulary.grown(bench.tokenizer, [item.text for item in split.train])
    batch, link = bench.examples(split.train, vocabulary), bench.link(vocabulary)
    costs = {one: step_costs(base.trainer.bridge, link, batch, one, STEPS) for one in (FULL, *FROZEN, MASKED)}
    kept = kept_of(size)
    measure(bench, base, users, size, kept)
    quality, _ = figures(kept.known, size.candidates, {cohort: len(listed) for cohort, listed in users.items()})
    known = [figure for figure in quality if figure.name.startswith("wer_")]
    return write_area("freezing", [*_told(costs), *known], {}, size.folder)


def step_costs(
    base: BridgeFormer, link: EmbedLink, batch: Sequence[Example], candidate: Candidate, steps: int
) -> dict[str, float]:
    """Of a step on ``batch``: median ``seconds``, ``kept_bytes`` for the backward pass, ``learner_bytes``; and the
    ``share`` of the base's weights that learn."""
    bridge = copy.deepcopy(base).eval().requires_grad_(True)
    total = sum(weight.numel() for weight in bridge.parameters())
    module: nn.Module = bridge
    if candidate.mask:
        scores = sparse.weight_scores(bridge, candidate.mask, lambda: [user_loss(bridge, link, batch, 0.1)], 0)
        module = attach_sparse(bridge, sparse.choose_weights(scores, round(candidate.density * total)))
    elif candidate.method == "blocks":
        freeze_below(bridge, candidate.blocks)
    learning = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4)
    each, kept = [], 0
    own = {weight.untyped_storage().data_ptr() for weight in module.parameters()}
    for step in range(steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        if step:
            loss = user_loss(bridge, link, batch, 0.1)
        else:
            loss, kept = _counted(lambda: user_loss(bridge, link, batch, 0.1), own)
        loss.backward()
        optimizer.step()
        each.append(time.perf_counter() - start)
    state = [value for values in optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]
    gradients = [weight.grad for weight in learning if weight.grad is not None]
    return {
        "seconds": statistics.median(each[1:]),
        "kept_bytes": float(kept),
        "learner_bytes": float(sum(tensor.numel() * tensor.element_size() for tensor in [*state, *gradients])),
        "share": sum(weight.numel() for weight in learning) / total,
    }


def _counted(loss: Any, own: set[int]) -> tuple[Tensor, int]:
    """The loss, and the bytes that autograd keeps for its backward pass: each storage once, the weights themselves left out."""
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        parts = (
            (tensor,) if tensor.layout == torch.strided else (tensor._indices(), tensor._values())
        )  # PEFT's SHiRA: sparse
        for storage in (part.untyped_storage() for part in parts):
            if storage.data_ptr() not in own:
                seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = loss()
    return found, sum(seen.values())


def _told(costs: dict[Candidate, dict[str, float]]) -> list[Figure]:
    full = costs[FULL]
    found = []
    for one, cost in costs.items():
        ratio = cost["seconds"] / full["seconds"]
        note = f"{100 * cost['share']:.1f} % of the weights learn; {ratio:.2f} of a full update's step"
        found.append(plain(f"step_milliseconds_{one.label}", 1e3 * cost["seconds"], "ms", note=note))
        note = f"{cost['kept_bytes'] / full['kept_bytes']:.2f} of a full update's activations"
        found.append(plain(f"kept_for_backward_{one.label}", cost["kept_bytes"] / 1e6, "MB", note=note))
        note = "gradients and optimiser state"
        found.append(plain(f"learner_memory_{one.label}", cost["learner_bytes"] / 1e6, "MB", note=note))
    return found
