"""The picture of the schedules, made from docs/benchmarks/ablation.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    title = "WER on unseen AN4 speakers against seconds of training, by schedule of embedlink"
    figure = Figure(figsize=(7.5, 4.0), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    named: set[str] = set()
    for label, points in curves.items():
        name = label.partition(",")[0]
        colour, mark, line = LOOKS[name]
        axes.plot(
            [seconds for seconds, _ in points],
            [max(wer, 0.01) for _, wer in points],
            color=colour,
            marker=mark,
            linestyle=line,
            markersize=3.5,
            linewidth=1.2,
            alpha=0.85,
            label=None if name in named else name.replace("_", " "),  # the other seeds look the same
        )
        named.add(name)
    axes.axhline(0.10, color="#555", linewidth=1, linestyle=(0, (1, 2)))
    axes.set_yscale("log")
    axes.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5, 1.0], ["0.02", "0.05", "0.1", "0.2", "0.5", "1"])
    axes.yaxis.minorticks_off()
    axes.grid(color="#ddd", linewidth=0.8)
    axes.set_xlabel("seconds of training (judging left out)")
    axes.set_ylabel("WER")
    axes.legend(frameon=False, fontsize=8)
    axes.set_title(title, loc="left", fontsize=11)
    figure.savefig(folder / "ablation_schedules.png")
    return [("ablation_schedules.png", title)]
