"""The memory plan of a training: what it asks of the cluster's devices, decided before anything is sent to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline.cluster.nodes import NodeInfo
from pipeline.cluster.placement import Placement, preflight
from stages.alignment.memory_plan import Kind, MemoryPlan, Work, plan_memory
from stages.errors import ClusterError

TRAINING = Placement(cpus=0, jetson=1)


def work_of(
    kind: Kind,
    bridge: Any,
    batch_size: int,
    rows: Any,
    training: Any,
    held_out: Any = None,
    *,
    drawn_rows: int = 0,
    table_rows: int = 0,
    tempo: float = 0.0,
) -> Work:
    """One training by its sizes. ``training`` and ``held_out`` are ``stages.base.Corpus``, ``rows`` (V, D).

    ``drawn_rows``: of a table of ``table_rows``, that each step competes with besides. ``tempo``: by which share an utterance
    may be stretched.
    """
    all_cuts = training.cuts or [()] * len(training.targets)
    return Work(
        kind=kind,
        bridge=bridge,
        batch_size=batch_size,
        rows=len(rows),
        drawn_rows=drawn_rows,
        table_rows=table_rows,
        tempo=tempo,
        utterances=training.utterances,
        frames=[len(frames) for frames in training.frames],
        tokens=[max(map(len, (target, *cuts))) for target, cuts in zip(training.targets, all_cuts, strict=True)],
        read=[len(frames) for frames in held_out.frames] if held_out is not None else (),
    )


def plan_all(works: Sequence[Work], nodes: Sequence[NodeInfo]) -> tuple[list[MemoryPlan | ClusterError], Placement]:
    """A plan for each of ``works``, or why it fits nowhere; and where they may run.

    The smallest device on which all of them fit is the cap, so that each may run on any that is as large; where there is
    none, the largest device is. Raises ClusterError where no node is a device at all.
    """
    preflight(TRAINING, nodes)
    found: list[MemoryPlan | ClusterError] = []
    for cap_bytes in sorted({node.memory_bytes for node in nodes if not TRAINING.missing(node)}):
        found = [_plan(work, cap_bytes) for work in works]
        if all(isinstance(plan, MemoryPlan) for plan in found):
            break
    asked = max((plan.planned_bytes for plan in found if isinstance(plan, MemoryPlan)), default=0)
    return found, replace(TRAINING, memory_bytes=asked or None)


def _plan(work: Work, cap_bytes: int) -> MemoryPlan | ClusterError:
    try:
        return plan_memory(work, cap_bytes)
    except ClusterError as error:
        return error
