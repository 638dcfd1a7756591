"""The nodes of a cluster as this project sees them: what each offers, and whether it is a real or a virtual device."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

UNKNOWN = "unknown"

# resources that Ray adds for its own use, no use to a reader
_INTERNAL = ("node:", "accelerator_type:")


@dataclass(frozen=True)
class NodeInfo:
    """A living node."""

    name: str
    kind: str
    """``real`` or ``virtual``; ``unknown`` where the node carries no label ``kind``."""
    model: str
    """Label ``model``, e.g. ``orin-8gb``; ``unknown`` where the node carries none."""
    node_id: str = ""
    resources: dict[str, float] = field(default_factory=dict)
    """All that the node offers, busy or not: ``CPU``, ``GPU``, ``memory`` (bytes), ``jetson``."""
    labels: dict[str, str] = field(default_factory=dict)
    leaving: bool = False
    """True for a node that was told to stop: it ends what runs on it and takes nothing new."""

    @property
    def memory_bytes(self) -> int:
        return int(self.resources.get("memory", 0))

    def describe(self) -> str:
        """One line for people."""
        offers = [
            f"{key} {amount:g}"
            for key, amount in sorted(self.resources.items())
            if key not in ("memory", "object_store_memory")
        ]
        offers += ["leaving"] if self.leaving else []
        return f"{self.name}: {self.kind} {self.model}, {self.memory_bytes / 1e9:.1f} GB" + "".join(
            f", {offer}" for offer in offers
        )


def node_info(node: dict[str, Any], *, leaving: bool = False) -> NodeInfo:
    """One entry of ``ray.nodes()``, which does not tell whether the node is ``leaving``."""
    labels = {key: value for key, value in node.get("Labels", {}).items() if not key.startswith("ray.io/")}
    return NodeInfo(
        name=node.get("NodeName") or node.get("NodeManagerAddress") or UNKNOWN,
        kind=labels.get("kind", UNKNOWN),
        model=labels.get("model", UNKNOWN),
        node_id=node["NodeID"],
        resources={key: value for key, value in node.get("Resources", {}).items() if not key.startswith(_INTERNAL)},
        labels=labels,
        leaving=leaving,
    )


def living(nodes: list[dict[str, Any]], leaving: Collection[str] = ()) -> list[NodeInfo]:
    """The living nodes of ``ray.nodes()``, by name; ``leaving`` are ids of those that were told to stop."""
    found = (node_info(node, leaving=node["NodeID"] in leaving) for node in nodes if node["Alive"])
    return sorted(found, key=lambda node: (node.name, node.node_id))
