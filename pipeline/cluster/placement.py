"""Where a piece of work may run: by resource and label, never by host name; checked before anything is sent off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.cluster.nodes import NodeInfo
from stages.errors import ClusterError


@dataclass(frozen=True)
class Placement:
    """What one task or actor asks of a node."""

    cpus: float = 1
    """CPU slots; 0 for work on a Jetson, which offers none."""
    jetson: float = 0
    """Share of one Jetson: 1 has the device to itself, 0.5 lets two run side by side."""
    memory_bytes: int | None = None
    """Memory set aside (book-keeping, no limit); None for none."""
    labels: dict[str, str] = field(default_factory=dict)
    """Labels that the node must carry, with exactly these values."""

    def demand(self) -> dict[str, float]:
        """The demand by the names of ``NodeInfo.resources``."""
        wanted = {"CPU": float(self.cpus), "jetson": float(self.jetson), "memory": float(self.memory_bytes or 0)}
        return {name: amount for name, amount in wanted.items() if amount > 0}

    def options(self) -> dict[str, Any]:
        """Options for ``ray.remote`` and ``.options``."""
        options: dict[str, Any] = {"num_cpus": self.cpus}
        if self.jetson:
            options["resources"] = {"jetson": self.jetson}
        if self.memory_bytes:
            options["memory"] = self.memory_bytes
        if self.labels:
            options["label_selector"] = dict(self.labels)
        return options

    def missing(self, node: NodeInfo) -> list[str]:
        """What ``node`` lacks for one piece of this work; empty where it fits on the idle node."""
        if node.leaving:
            return ["it was told to leave the cluster and takes no new work"]
        lacks = [
            f"{_amount(name, amount)} asked, {_amount(name, node.resources.get(name, 0.0))} there"
            for name, amount in self.demand().items()
            if node.resources.get(name, 0.0) < amount
        ]
        lacks += [
            f"label {name}={value} asked, {name}={node.labels[name]} there"
            if name in node.labels
            else f"label {name}={value} asked, none there"
            for name, value in self.labels.items()
            if node.labels.get(name) != value
        ]
        return lacks

    def slots(self, node: NodeInfo) -> int:
        """How many pieces of this work ``node`` can hold at once."""
        if self.missing(node):
            return 0
        shares = [node.resources[name] / amount for name, amount in self.demand().items()]
        # work that asks for nothing is still held to a worker a CPU slot
        return int(min(shares) + 1e-9) if shares else max(1, int(node.resources.get("CPU", 1)))

    def describe(self) -> str:
        """The demand for people, e.g. ``jetson 1, memory 4.0 GB, model=orin-8gb``."""
        parts = [_amount(name, amount) for name, amount in self.demand().items()]
        parts += [f"{name}={value}" for name, value in self.labels.items()]
        return ", ".join(parts) or "nothing"


def _amount(name: str, amount: float) -> str:
    return f"memory {amount / 1e9:.1f} GB" if name == "memory" else f"{name} {amount:g}"


def preflight(placement: Placement, nodes: Sequence[NodeInfo]) -> None:
    """Raise ClusterError, with what each node has and lacks, where no living node can ever meet ``placement``.

    A node that is only busy passes: the work waits for it.
    """
    if any(not placement.missing(node) for node in nodes):
        return
    lines = [f"{node.describe()}: {'; '.join(placement.missing(node))}" for node in nodes] or ["(no node at all)"]
    raise ClusterError(
        f"no node of the cluster can run work that asks for {placement.describe()}. Nodes and what each lacks:\n  "
        + "\n  ".join(lines)
        + "\nLower the demand in params.yaml, or join such a device with `edgealign-agent join --head HOST:PORT`."
    )
