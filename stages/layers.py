"""Which share of each layer's weights an adapter changes; without matplotlib, for pages as well as figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def layer_name(layer: str) -> str:
    """A layer as a figure names it: ``blocks.0.attention.key`` is "block 1 key"."""
    parts = layer.split(".")
    return f"block {int(parts[1]) + 1} {parts[-1]}" if parts[0] == "blocks" and len(parts) > 2 else layer


def densities(entry: Mapping[str, Any]) -> dict[str, float]:
    """{layer: share of its weights that the adapter changes}; empty for users judged by an older edgealign."""
    return {item["layer"]: item["changed"] / item["weights"] for item in entry.get("layers") or [] if item["weights"]}


def mean_densities(cohorts: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The same over all users of all cohorts."""
    everyone = [
        found
        for part in cohorts.values()
        for entry in (part.get("users") or {}).values()
        if (found := densities(entry))
    ]
    layers = list(everyone[0]) if everyone else []
    return {layer: sum(found.get(layer, 0.0) for found in everyone) / len(everyone) for layer in layers}
