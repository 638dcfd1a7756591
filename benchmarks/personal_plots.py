"""The picture of the race of personal updates, made from docs/benchmarks/personal.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.drawing import draw_wer_curves, new_figure

LOOKS = {"embedlink": ("#0072b2", "o", "-"), "projector-lora": ("#d55e00", "s", "--")}
"""Colours of Okabe and Ito's palette, and a mark and line of its own for readers who see no colour."""


def draw(plots: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    """The picture where there is data for it: (file name, what it shows)."""
    curves = plots.get("personal_race")
    if not curves:
        return []
    title = "WER of personal updates against seconds of training, ours and with the LLM in the loop"
    figure, axes = new_figure()
    draw_wer_curves(axes, curves, LOOKS)
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlim(left=0.0)
    axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.savefig(folder / "personal_race.png")
    return [("personal_race.png", title)]
