"""What a Jetson offers as a Ray node: one description for a real device and for the embedded virtual one.

A Jetson gives no CPU slots to ordinary tasks and always states its memory (Ray would count the whole host's); work
for it asks for the ``jetson`` resource and, where it matters, for labels.
"""

from __future__ import annotations

import json
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

UNKNOWN = "unknown"

DEVICE_TREE_MODEL = Path("/proc/device-tree/model")
"""Where Linux on a Jetson names the module, e.g. ``NVIDIA Jetson Orin Nano Developer Kit``."""

TRAINING_SHARE = 0.75
"""Share of a device's memory offered to Ray: CPU and GPU share it, and the system and the local service need the rest."""

MIN_OBJECT_STORE_BYTES = 80_000_000
"""Ray refuses an object store below 75 MiB."""

# module families by the words that their device-tree model holds, the more specific first
_FAMILIES = (
    ("thor", ("thor",)),
    ("agx-orin", ("agx", "orin")),
    ("orin", ("orin",)),
    ("agx-xavier", ("agx", "xavier")),
    ("xavier", ("xavier",)),
    ("tx2", ("tx2",)),
    ("nano", ("nano",)),
)
_SIZES_GB = (4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class JetsonNode:
    """One Jetson, as Ray is told about it."""

    model: str
    """Module and memory size, e.g. ``orin-8gb``; ``unknown`` where the device does not say."""
    memory_bytes: int
    """Memory that Ray may hand out on this node."""
    virtual: bool
    """True for a node that only stands in for a device."""
    gpus: int = 0
    """Stated, never detected: Ray counts GPUs through NVML, which reports none on a Jetson."""
    cpus: int = 0
    """CPU slots; 0 keeps ordinary tasks away."""
    object_store_bytes: int = 200_000_000
    device_name: str = UNKNOWN

    @property
    def resources(self) -> dict[str, float]:
        """Custom resources. A task that asks for the whole of ``jetson`` has the device to itself."""
        return {"jetson": 1.0}

    @property
    def labels(self) -> dict[str, str]:
        """Labels that placement can select by; ``memory_gb`` is what the node offers, rounded down."""
        return {
            "device": "jetson",
            "model": self.model,
            "memory_gb": str(self.memory_bytes // 1_000_000_000),
            "kind": "virtual" if self.virtual else "real",
        }

    def start_arguments(self, head: str) -> list[str]:
        """Arguments of the ``ray`` command that join this node to the head at ``HOST:PORT`` and stay in the foreground."""
        return [
            "start",
            f"--address={head}",
            f"--node-name={self.device_name}",
            f"--num-cpus={self.cpus}",
            f"--num-gpus={self.gpus}",
            f"--memory={self.memory_bytes}",
            f"--object-store-memory={self.object_store_bytes}",
            f"--resources={json.dumps(self.resources)}",
            "--labels=" + ",".join(f"{key}={value}" for key, value in self.labels.items()),
            "--disable-usage-stats",
            "--block",
        ]

    def node_arguments(self) -> dict[str, Any]:
        """The same as keyword arguments of ``ray.cluster_utils.Cluster.add_node``."""
        return {
            "node_name": self.device_name,
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "memory": self.memory_bytes,
            "object_store_memory": self.object_store_bytes,
            "resources": self.resources,
            "labels": self.labels,
        }


def virtual_jetson(memory_bytes: int, *, gpus: int = 0, name: str = "virtual-jetson-0") -> JetsonNode:
    """A node that stands in for an 8 GB Orin: its scheduling and memory book-keeping, not its speed."""
    return JetsonNode(model="orin-8gb", memory_bytes=memory_bytes, virtual=True, gpus=gpus, device_name=name)


def detect(memory_bytes: int | None = None, *, device_tree: Path = DEVICE_TREE_MODEL) -> JetsonNode:
    """This machine as a Jetson node; ``memory_bytes`` overrides the share of its memory that is offered.

    A machine that names itself no Jetson gets model ``unknown`` and no GPU.
    """
    total_bytes = psutil.virtual_memory().total
    model = module_name(read_device_tree(device_tree), total_bytes)
    return JetsonNode(
        model=model,
        memory_bytes=memory_bytes or int(total_bytes * TRAINING_SHARE),
        virtual=False,
        gpus=0 if model == UNKNOWN else 1,
        device_name=platform.node() or UNKNOWN,
    )


def read_device_tree(path: Path = DEVICE_TREE_MODEL) -> str:
    """The board's own name for itself; empty where there is none."""
    try:
        return path.read_bytes().rstrip(b"\0").decode("utf-8", "replace").strip()
    except OSError:
        return ""


def module_name(board: str, total_bytes: int) -> str:
    """``orin-8gb`` and the like, from the board's name and the memory that the kernel reports; ``unknown`` for others.

    The kernel reports a little less than the module holds (firmware keeps some), so the next size up is taken.
    """
    words = set(re.findall(r"[a-z0-9]+", board.lower()))
    if not words & {"jetson", "tegra"}:
        return UNKNOWN
    for family, needed in _FAMILIES:
        if words.issuperset(needed):
            sizes = [size for size in _SIZES_GB if total_bytes <= size * 2**30]
            return f"{family}-{sizes[0]}gb" if sizes else family
    return UNKNOWN
