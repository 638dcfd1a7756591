"""The picture of sparse personal adapters, made from docs/benchmarks/sparse.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.drawing import new_figure

LOOKS = {
    "gradient": ("#0072b2", "o", "-"),
    "snip": ("#009e73", "s", "--"),
    "magnitude": ("#d55e00", "^", "-."),
    "random": ("#999999", "v", ":"),
}
"""Colours of Okabe and Ito's palette, and a mark and line of its own for readers who see no colour."""
LINES = {"base": "#555555", "full": "#000000", "lora": "#cc79a7"}


def draw(plots: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    """The picture where there is data for it: (file name, what it shows)."""
    data = plots.get("sparse_density")
    if not data:
        return []
    title = "WER of personal adapters against the share of weights that they change, by mask"
    figure, axes = new_figure()
    for mask, points in data["masks"].items():
        colour, mark, line = LOOKS[mask]
        shares = [100 * density for density, _ in points]
        axes.plot(shares, [wer for _, wer in points], color=colour, marker=mark, linestyle=line, label=mask)
    for name, wer in data["lines"].items():
        axes.axhline(wer, color=LINES[name], linewidth=1, linestyle=(0, (1, 2)))
        axes.annotate(name, (1.0, wer), xycoords=("axes fraction", "data"), va="bottom", ha="right", fontsize=8)
    axes.set_xscale("log")
    ticks = sorted({100 * density for points in data["masks"].values() for density, _ in points})
    axes.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
    axes.xaxis.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(color="#ddd", linewidth=0.8)
    axes.set_xlabel("share of the base's weights")
    axes.set_ylabel("WER on held-out sentences")
    axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.savefig(folder / "sparse_density.png")
    return [("sparse_density.png", title)]
