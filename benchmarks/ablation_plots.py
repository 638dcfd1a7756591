"""The picture of the schedules, made from docs/benchmarks/ablation.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.drawing import draw_wer_curves, new_figure

LOOKS = {
    "reference": ("#0072b2", "o", "-"),
    "lower_frame_rate": ("#d55e00", "^", "--"),
    "warm_start": ("#009e73", "s", ":"),
}
"""Colours of Okabe and Ito's palette, and a mark and line of its own for readers who see no colour."""


def draw(plots: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    """The picture where there is data for it: (file name, what it shows)."""
    curves = plots.get("ablation_schedules")
    if not curves:
        return []
    title = "WER on unseen AN4 speakers against seconds of training, by schedule of embedlink"
    figure, axes = new_figure()
    draw_wer_curves(axes, curves, LOOKS, lambda name: name.replace("_", " "))
    axes.axhline(0.10, color="#555", linewidth=1, linestyle=(0, (1, 2)))
    axes.legend(frameon=False, fontsize=8)
    axes.set_title(title, loc="left", fontsize=11)
    figure.savefig(folder / "ablation_schedules.png")
    return [("ablation_schedules.png", title)]
