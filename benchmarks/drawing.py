"""What the benchmarks' pictures have in common: an empty figure, and curves of WER against seconds of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Looks = Mapping[str, tuple[str, str, str]]
"""Colour, mark and line of each name: of its own, for readers who see no colour as well."""


def new_figure(columns: int = 1, height: float = 4.0) -> tuple[Any, Any]:
    """A figure and its axes (an array of them where there are several columns), without the frame's upper and right side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns)
    for one in [axes] if columns == 1 else axes:
        one.spines[["top", "right"]].set_visible(False)
        one.set_axisbelow(True)
    return figure, axes


def draw_wer_curves(
    axes: Any,
    curves: Mapping[str, Sequence[Sequence[float]]],
    looks: Looks,
    called: Callable[[str], str] = str,
    ticks: Sequence[float] = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
) -> None:
    """(seconds, WER) points by "name, seed N"; a name is told once, as it is ``called``: its other seeds look the same."""
    named: set[str] = set()
    for label, points in curves.items():
        name = label.partition(",")[0]
        colour, mark, line = looks[name]
        axes.plot(
            [seconds for seconds, _ in points],
            [max(wer, 0.01) for _, wer in points],
            color=colour,
            marker=mark,
            linestyle=line,
            markersize=3.5,
            linewidth=1.2,
            alpha=0.85,
            label=None if name in named else called(name),
        )
        named.add(name)
    axes.set_yscale("log")
    axes.set_yticks(list(ticks), [f"{tick:g}" for tick in ticks])
    axes.yaxis.minorticks_off()
    axes.grid(color="#ddd", linewidth=0.8)
    axes.set_xlabel("seconds of training (judging left out)")
    axes.set_ylabel("WER")
