"""How much memory a training will take, told before it starts, and the largest batch that a device holds at once.

An estimate from above, not a measurement: tensor sizes follow from BridgeFormer's configuration, the longest utterance and
the rows of the vocabulary; how many of each a step holds at its peak was counted on measured peaks of fresh processes
(tests/integration/test_memory.py does so again). Dimensions as in ``bridgeformer`` and ``embedlink``: T frames, F encoder
width, S steps, W width, D the LLM's hidden size, V rows, N target tokens.

Where a batch does not fit, it goes through in pieces whose gradients add up to the whole batch's
(``trainer.batch_losses``): the result is the same up to rounding and the order in which dropout is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stages.alignment.bridgeformer import BridgeFormerConfig
from stages.errors import ClusterError

FLOAT_BYTES = 4
PROCESS_BYTES = {"base": 800_000_000, "personal": 1_000_000_000}
"""A worker of Ray with torch, and with PEFT and transformers where users are trained; most of it are libraries."""
WEIGHT_COPIES = {"base": 20, "personal": 16}
"""Weights, gradients, AdamW's two moments, and the copies that come, go and are kept meanwhile."""
ROW_COPIES = 4
TABLE_BYTES = 6  # of each number: float16 as it comes, float32 as rows are drawn from it
FRAME_BYTES = 6  # of each number of all frames: float16 as they come, float32 as they train
MARGIN = 1.2  # what the allocator cannot use again
FRAMES_PER_SECOND = 50
READ_BATCH = 32
"""Utterances that are read out at once where memory does not matter."""

Kind = Literal["base", "personal"]


@dataclass(frozen=True)
class Work:
    """One training, by its sizes."""

    kind: Kind
    bridge: BridgeFormerConfig
    batch_size: int
    rows: int  # V
    utterances: Sequence[str]
    frames: Sequence[int]  # T of each utterance that trains
    tokens: Sequence[int]  # N of each
    read: Sequence[int] = ()  # T of each utterance that is read out between epochs
    drawn_rows: int = 0  # of the LLM's whole table, that a step's scores compete with besides V
    table_rows: int = 0  # of that table, where rows are drawn
    tempo: float = 0.0  # share by which an utterance may be stretched while it trains


@dataclass(frozen=True)
class MemoryPlan:
    """What goes through the model at once so that a training stays below ``cap_bytes``."""

    micro_batch: int
    accumulation: int  # pieces of a full batch
    score_batch: int  # utterances at once where a personal mask is computed
    read_batch: int  # utterances read out at once
    planned_bytes: int
    cap_bytes: int

    def params(self) -> dict[str, int]:
        """For the record of a run."""
        told = ("micro_batch", "accumulation", "planned_bytes", "cap_bytes")
        return {name: getattr(self, name) for name in told}

    @property
    def micro_setting(self) -> int:
        """``micro_batch`` for a training's configuration: 0 where a whole batch fits, which is then computed as ever."""
        return self.micro_batch if self.accumulation > 1 else 0

    def describe(self) -> str:
        """For people."""
        pieces = "" if self.accumulation == 1 else f", a batch in {self.accumulation} pieces of {self.micro_batch}"
        return f"up to {_gb(self.planned_bytes)} of {_gb(self.cap_bytes)}{pieces}"


def parameter_count(bridge: BridgeFormerConfig) -> int:
    """Parameters of a BridgeFormer of these sizes."""
    entered, width, inner = bridge.encoder_width * bridge.stack, bridge.width, bridge.feed_forward
    block = 4 * width + 4 * (width * width + width) + 2 * width * inner + inner + width
    ends = 2 * entered + (entered + 1) * width + 2 * width + (width + 1) * (bridge.llm_width + 1) + 1
    return ends + bridge.layers * block


def step_bytes(bridge: BridgeFormerConfig, frames: int, tokens: int, rows: int, *, dropout: bool) -> int:
    """What one utterance adds to the peak of a training step: activations, their gradients and the CTC lattice."""
    steps = -(-frames // bridge.stack)
    scored = steps * (rows + 1)
    # attention keeps its (heads, S, S) weights, before and after dropout, where there is dropout: else it is computed in tiles
    attention = bridge.heads * steps * steps * (5 if dropout else 1)
    block = attention + steps * (12 * bridge.width + (4 if dropout else 3) * bridge.feed_forward)
    numbers = (
        5 * steps * bridge.stack * bridge.encoder_width
        + steps * (6 * bridge.width + 4 * bridge.llm_width)
        + bridge.layers * block
        + 5 * scored
        + 4 * steps * (2 * tokens + 1)
    )
    return int(MARGIN * FLOAT_BYTES * numbers)


def read_bytes(bridge: BridgeFormerConfig, frames: int, rows: int) -> int:
    """What one utterance adds to the peak of a read-out: nothing is kept for a gradient."""
    steps = -(-frames // bridge.stack)
    numbers = (
        3 * steps * bridge.stack * bridge.encoder_width
        + steps * (4 * bridge.width + 2 * bridge.feed_forward + 3 * bridge.llm_width)
        + bridge.heads * steps * steps
        + 4 * steps * (rows + 1)
    )
    return int(MARGIN * FLOAT_BYTES * numbers)


def plan_memory(work: Work, cap_bytes: int) -> MemoryPlan:
    """The largest pieces, at most a whole batch, with which ``work`` stays below ``cap_bytes``.

    Raises ClusterError, with the numbers, where even one utterance at a time does not fit.
    """
    parts = standing_bytes(work)
    standing = sum(parts.values())
    longest = max(range(len(work.frames)), key=lambda index: work.frames[index])
    one = step_bytes(
        work.bridge,
        math.ceil(work.frames[longest] * (1.0 + work.tempo)),
        max(work.tokens),
        work.rows + work.drawn_rows,
        dropout=work.kind == "base",
    )  # as if the longest utterance had the longest text: a batch is padded to both
    reading = read_bytes(work.bridge, max(work.read), work.rows) if work.read else 0
    room = cap_bytes - standing
    if room < max(one, reading):
        raise ClusterError(_refusal(work, cap_bytes, parts, longest, one, reading))
    batch = min(work.batch_size, len(work.frames))
    micro = min(batch, room // one)
    score = min(len(work.frames), room // one) if work.kind == "personal" else 0
    read = min(READ_BATCH, room // reading) if reading else READ_BATCH
    peak = max(max(micro, score) * one, min(read, len(work.read)) * reading)
    return MemoryPlan(micro, -(-batch // micro), score, read, standing + peak, cap_bytes)


def standing_bytes(work: Work) -> dict[str, int]:
    """What a training holds all the time, by what it is for."""
    told = {
        "the process": PROCESS_BYTES[work.kind],
        "weights, gradients and optimiser": FLOAT_BYTES * parameter_count(work.bridge) * WEIGHT_COPIES[work.kind],
        "the vocabulary": FLOAT_BYTES * (work.rows + work.drawn_rows) * work.bridge.llm_width * ROW_COPIES,
        "the frames of all utterances": FRAME_BYTES * (sum(work.frames) + sum(work.read)) * work.bridge.encoder_width,
    }
    if work.table_rows:
        told["the LLM's table, to draw rows from"] = TABLE_BYTES * work.table_rows * work.bridge.llm_width
    return told


def _refusal(work: Work, cap_bytes: int, parts: dict[str, int], longest: int, one: int, reading: int) -> str:
    told = ", ".join(f"{_gb(size)} {what}" for what, size in parts.items())
    seconds = work.frames[longest] / FRAMES_PER_SECOND
    who = f"{work.utterances[longest]}, {seconds:.1f} s, {max(work.tokens)} tokens, {work.rows} rows of the vocabulary"
    if reading > one:
        who = f"read out, {max(work.read) / FRAMES_PER_SECOND:.1f} s, {work.rows} rows of the vocabulary"
    return (
        f"training needs {_gb(sum(parts.values()) + max(one, reading))} even with one utterance at a time, "
        f"the device offers {_gb(cap_bytes)}: {told}, and {_gb(max(one, reading))} for the longest utterance ({who}). "
        "Take out the longest utterances (features.max_duration_s) or some of the others, lower alignment.width or "
        "alignment.layers, or offer more memory (ray.jetson_memory_bytes, `edgealign-agent join --memory-bytes`)."
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
