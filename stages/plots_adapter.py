"""Figures of what an adapter is and how it hears: weights changed in each layer, posteriors over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from stages.layers import densities, layer_name, mean_densities
from stages.plots import BLUE, MAX_USERS, WIDTH_IN, _dress, _headline, _save, _short

COLOURS = "cividis"
"""From dark to light in steps that colour-blind readers, and a grey print, show alike."""

BLANK = "(blank)"


def draw_mask_density(cohorts: Mapping[str, Mapping[str, Any]], path: Path) -> str | None:
    """How much of each layer each user's adapter changes; the finding, None where nobody's is known."""
    named = [
        (f"{user} ({cohort})", densities(entry))
        for cohort in sorted(cohorts)
        for user, entry in sorted((cohorts[cohort].get("users") or {}).items())
    ]
    named = [(name, found) for name, found in named if found]
    if not named:
        return None
    mean = mean_densities(cohorts)
    layers = list(mean)
    top = max(layers, key=lambda layer: mean[layer])
    finding = f"Personal adapters change most of layer “{layer_name(top)}”: {mean[top]:.1%} of its weights"
    shown = named[:MAX_USERS]

    if len(named) == 1:
        figure = Figure(figsize=(WIDTH_IN, 1.6 + 0.27 * len(layers)), layout="constrained")
        axes = figure.subplots()
        values = [named[0][1].get(layer, 0.0) for layer in layers]
        axes.barh(range(len(layers)), values, 0.7, color=BLUE)
        for position, value in enumerate(values):
            axes.text(value, position, f" {value:.2%}", va="center", fontsize=9, color="#333333")
        axes.set_yticks(range(len(layers)), [layer_name(layer) for layer in layers])
        axes.set_ylim(len(layers) - 0.4, -0.6)
        axes.set_xlim(0, max(max(values) * 1.12, 1e-6))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("share of the layer's weights that the adapter changes", fontsize=11)
        axes.grid(axis="x", color="#e6e6e6")
        axes.tick_params(axis="y", length=0)
        _dress(axes)
    else:
        figure = Figure(figsize=(WIDTH_IN, 2.6 + 0.24 * len(shown)), layout="constrained")
        axes = figure.subplots()
        table = [[found.get(layer, 0.0) * 100 for layer in layers] for _, found in shown]
        image = axes.imshow(table, aspect="auto", cmap=COLOURS, vmin=0.0, interpolation="nearest")
        axes.set_xticks(range(len(layers)), [layer_name(layer) for layer in layers], rotation=40, ha="right")
        axes.set_yticks(range(len(shown)), [_short(name, 30) for name, _ in shown])
        axes.tick_params(labelsize=9, length=0)
        if len(shown) <= 30:
            largest = max(map(max, table)) or 1.0
            for row, values in enumerate(table):
                for column, value in enumerate(values):
                    colour = "#1a1a1a" if value > 0.6 * largest else "white"
                    axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=8, color=colour)
        figure.colorbar(image, ax=axes, label="% of the layer's weights changed", pad=0.01)
        axes.set_xlabel("layer, in the order in which speech passes through", fontsize=11)
    note = f"; {len(shown)} of {len(named)} users" if len(shown) < len(named) else ""
    _headline(figure, finding + note)
    _save(figure, path)
    return finding


def draw_posteriors(over_time: Mapping[str, Any], path: Path, user: str = "") -> str | None:
    """One utterance in time, through base and personal adapter: posteriors of the rows in question. The finding, or None."""
    sides = over_time.get("sides") or {}
    sides = {side: sides[side] for side in ("base", "personal") if sides.get(side) and sides[side]["values"]}
    if not sides:
        return None
    finding = f"“{over_time['reference']}” in time" + (f", {user}" if user else "")
    sizes = [len(side["tokens"]) for side in sides.values()]
    figure = Figure(figsize=(WIDTH_IN, 1.9 + 0.27 * sum(sizes)), layout="constrained")
    panels = figure.subplots(len(sides), 1, sharex=True, squeeze=False, height_ratios=sizes)[:, 0]
    image = None
    for axes, (side, told) in zip(panels, sides.items(), strict=True):
        values: Sequence[Sequence[float]] = told["values"]
        seconds = len(values[0]) * told["step_s"]
        image = axes.imshow(
            values,
            aspect="auto",
            cmap=COLOURS,
            vmin=0.0,
            vmax=1.0,
            interpolation="nearest",
            extent=(0.0, seconds, len(values) - 0.5, -0.5),
        )
        axes.set_yticks(range(len(values)), [_token(token) for token in told["tokens"]])
        axes.set_title(f"{side} adapter reads: “{told['text']}”", loc="left", fontsize=11)
        axes.tick_params(labelsize=9)
        axes.tick_params(axis="y", length=0)
        axes.set_ylabel("token", fontsize=10)
    panels[-1].set_xlabel("time (s)", fontsize=11)
    figure.colorbar(image, ax=list(panels), label="posterior", pad=0.01)  # type: ignore[arg-type]
    _headline(figure, finding)
    _save(figure, path)
    return finding


def _token(token: str) -> str:
    """A token as a label: the leading space, which begins a word, is shown as a mark."""
    if not token:
        return BLANK
    shown = f"▁{token[1:]}" if token.startswith(" ") else token
    return _short(shown.replace("$", r"\$"), 16)
