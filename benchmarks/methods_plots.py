"""The pictures of the methods' comparison, made from docs/benchmarks/methods.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.drawing import draw_wer_curves, new_figure

LOOKS = {
    "embedlink": ("#0072b2", "o", "-"),
    "ctc-only": ("#56b4e9", "s", "-"),
    "projector": ("#d55e00", "^", "-"),
    "projector-lora": ("#e69f00", "v", "--"),
    "projector-kl": ("#cc79a7", "D", "-."),
    "qformer": ("#009e73", "P", ":"),
}
"""Colours of Okabe and Ito's palette, and a mark and line of its own for readers who see no colour."""


def draw(plots: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Pictures that there is data for: (file name, what it shows)."""
    made = []
    for name, title, paint in (
        ("methods_quality", "WER on unseen AN4 speakers against seconds of training, by method", _quality),
        ("methods_costs", "Training memory beyond the process's start, and trainable parameters", _costs),
        ("methods_llm_size", "A training step's time against the LLM's size", _llm_size),
    ):
        data = plots.get(name)
        if data and (name != "methods_quality" or data["curves"]):
            figure = paint(data)
            figure.suptitle(title, x=0.01, ha="left", fontsize=11)
            figure.savefig(folder / f"{name}.png")
            made.append((f"{name}.png", title))
    return made


def _quality(data: Mapping[str, Any]) -> Any:
    figure, axes = new_figure()
    draw_wer_curves(axes, data["curves"], LOOKS, ticks=(0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0))
    if data.get("cascade_wer"):
        axes.axhline(
            data["cascade_wer"], color="#555", linewidth=1, linestyle=(0, (1, 2)), label="cascade (not trained)"
        )
    axes.set_xscale("log")
    axes.legend(frameon=False, fontsize=8)
    return figure


def _costs(data: Mapping[str, Mapping[str, float]]) -> Any:
    figure, (left, right) = new_figure(2, 3.0)
    names = list(data)[::-1]
    for axes, key, unit, label in (
        (left, "memory_bytes", 1e9, "GB"),
        (right, "trainable_parameters", 1e6, "million weights"),
    ):
        bars = axes.barh(names, [data[name][key] / unit for name in names], color=[LOOKS[name][0] for name in names])
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        axes.set_xlabel(label)
        axes.margins(x=0.15)
    right.set_yticklabels([])
    return figure


def _llm_size(data: Sequence[Mapping[str, float]]) -> Any:
    figure, axes = new_figure(height=3.4)
    sizes = [item["parameters"] / 1e6 for item in data]
    for name in ("projector", "embedlink"):
        colour, mark, line = LOOKS[name]
        axes.plot(sizes, [item[name] for item in data], color=colour, marker=mark, linestyle=line, label=name)
    for size, item in zip(sizes, data, strict=True):
        axes.annotate(f"{item['ratio']:.0f}×", (size, item["projector"]), xytext=(0, 6), textcoords="offset points")
    axes.set_yscale("log")
    axes.grid(color="#ddd", linewidth=0.8)
    axes.set_xlabel("million weights of the LLM")
    axes.set_ylabel("seconds a step, by utterance")
    axes.legend(frameon=False)
    return figure
