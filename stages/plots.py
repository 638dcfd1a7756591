"""Figures of the report, as PNG. Matplotlib's object-oriented interface only: no global state, no display.

Each figure's title says what it shows to be the case. Colours are Okabe and Ito's, told apart by colour-blind readers.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stages.atomic import atomic_path
from stages.report import known

GREY, BLUE, ORANGE, GREEN, RED, SKY, PINK = "#8c8c8c", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"
BARS = (("base_wer", "base adapter", GREY), ("wer", "personal adapter", BLUE), ("cascade_wer", "cascade", ORANGE))
COHORT_COLOURS = (BLUE, RED, GREEN, PINK, ORANGE, SKY)
MAX_USERS = 60
"""Users that one bar figure shows: those with the largest base WER; the CSV holds all."""
WIDTH_IN, DPI = 9.0, 130


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        # neither the date nor the library's version: the same input gives the same bytes
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def _dress(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=10)
    axes.set_axisbelow(True)


def _headline(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=13, fontweight="bold", wrap=True)


def _short(name: str, limit: int = 24) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def draw_wer_by_user(summary: Mapping[str, Any], path: Path) -> str | None:
    """Base, personal and cascade WER of each user, the largest base WER on top; the finding, None without users."""
    ranked = [
        (cohort, user, figures)
        for cohort, part in summary["cohorts"].items()
        for user, figures in part["users"].items()
        if figures["wer"] is not None
    ]
    if not ranked:
        return None
    ranked.sort(key=lambda item: (-(item[2]["base_wer"] or 0.0), item[0], item[1]))
    shown = ranked[:MAX_USERS]
    groups = {
        cohort: [item for item in shown if item[0] == cohort] for cohort, _, _ in sorted(shown, key=lambda i: i[0])
    }
    overall = summary["overall"]
    before, after = overall["base_wer"], overall["wer"]
    if before is not None and after < before:
        finding = f"Personal adapters cut WER from {before:.2f} to {after:.2f} ({1 - after / before:.0%} less)"
    elif before is None:
        finding = f"Personal adapters have WER {after:.2f}; that of the base adapter is unknown"
    else:
        finding = f"Personal adapters do not lower WER: {before:.2f} before, {after:.2f} after"
    note = f"; {len(shown)} of {len(ranked)} users, largest base WER" if len(shown) < len(ranked) else ""

    figure = Figure(figsize=(WIDTH_IN, 1.9 + 0.62 * len(shown) + 0.5 * len(groups)), layout="constrained")
    panels = figure.subplots(
        len(groups), 1, sharex=True, squeeze=False, height_ratios=[len(items) + 0.6 for items in groups.values()]
    )
    largest = max(known(f[key]) or 0.0 for _, _, f in shown for key, _, _ in BARS)
    for axes, (cohort, items) in zip(panels[:, 0], groups.items(), strict=True):
        _wer_bars(axes, items, largest)
        axes.set_title(cohort, loc="left", fontsize=11)
    panels[-1, 0].set_xlabel("word error rate on held-out utterances (lower is better)", fontsize=11)
    handles = [axes for axes in panels[0, 0].containers if axes.get_label()[:1] != "_"]
    figure.legend(
        handles, [h.get_label() for h in handles], loc="outside lower left", ncols=len(BARS), frameon=False, fontsize=10
    )
    _headline(figure, finding + note)
    _save(figure, path)
    return finding


def _wer_bars(axes: Axes, items: list[tuple[str, str, Mapping[str, Any]]], largest: float) -> None:
    height = 0.27
    for place, (key, label, colour) in enumerate(BARS):
        positions = [row + (place - 1) * height for row in range(len(items))]
        values = [known(figures[key]) for _, _, figures in items]
        axes.barh(positions, [value or 0.0 for value in values], height * 0.92, color=colour, label=label)
        for position, value in zip(positions, values, strict=True):
            text = "unknown" if value is None else f"{value:.2f}"
            axes.text((value or 0.0) + 0.008 * largest, position, text, va="center", fontsize=8, color="#333333")
    axes.set_yticks(range(len(items)), [_short(user) for _, user, _ in items])
    axes.set_ylim(len(items) - 0.5, -0.5)
    axes.set_xlim(0.0, max(largest * 1.1, 0.01))
    axes.grid(axis="x", color="#e6e6e6")
    axes.tick_params(axis="y", length=0)
    _dress(axes)


def draw_base_curve(base: Mapping[str, Any], path: Path) -> str | None:
    """Dev WER of the base adapter against seconds of training, and its loss by step; the finding, None without a curve."""
    curve = (base.get("metrics") or {}).get("curve") or {}
    points = [(e, s, w) for e, s, w in curve.get("dev_wer") or [] if known(s) is not None and known(w) is not None]
    if not points:
        return None
    epoch, seconds, best = min(points, key=lambda point: point[2])
    finding = f"The base adapter reaches WER {best:.3f} on held-out speech after {seconds:.0f} s of training"
    losses = [(step, loss) for step, loss in curve.get("loss") or [] if known(loss) is not None]

    figure = Figure(figsize=(WIDTH_IN, 4.4), layout="constrained")
    panels = figure.subplots(1, 2 if losses else 1, squeeze=False)[0]
    axes = panels[0]
    axes.plot([p[1] for p in points], [p[2] for p in points], color=BLUE, marker="o", markersize=5, linewidth=2)
    axes.plot(
        [seconds], [best], marker="o", markersize=11, markerfacecolor="none", markeredgecolor=RED, markeredgewidth=2
    )
    axes.annotate(
        f"epoch {epoch}: {best:.3f}",
        (seconds, best),
        xytext=(0, 16),
        textcoords="offset points",
        ha="right" if len(points) > 1 and seconds > 0.6 * points[-1][1] else "left",
        fontsize=10,
        color=RED,
    )
    axes.set(xlabel="training time (s)", ylabel="word error rate, held-out speech", xlim=(0, None), ylim=(0, None))
    if losses:
        panels[1].plot(
            [s for s, _ in losses], [v for _, v in losses], color="#b8d4e6", linewidth=0.9, label="each step"
        )
        window = max(1, len(losses) // 40)
        smooth = [statistics.fmean(v for _, v in losses[max(0, i - window) : i + 1]) for i in range(len(losses))]
        panels[1].plot([s for s, _ in losses], smooth, color=BLUE, linewidth=2, label=f"mean of {window + 1} steps")
        panels[1].set(xlabel="training step", ylabel="training loss", ylim=(0, None))
        panels[1].legend(frameon=False, fontsize=10)
        panels[1].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for each in panels:
        each.grid(color="#e6e6e6")
        _dress(each)
    _headline(figure, finding)
    _save(figure, path)
    return finding


def draw_personal_curves(cohorts: Mapping[str, Mapping[str, Any]], path: Path) -> str | None:
    """Each user's training loss by step and each cohort's median; the finding, None without curves."""
    curves = {
        cohort: [
            [(int(step), float(loss)) for step, loss in entry.get("curve") or [] if known(loss) is not None]
            for _, entry in sorted((cohorts[cohort].get("users") or {}).items())
        ]
        for cohort in sorted(cohorts)
    }
    curves = {cohort: [curve for curve in found if len(curve) > 1] for cohort, found in curves.items()}
    curves = {cohort: found for cohort, found in curves.items() if found}
    if not curves:
        return None
    everyone = [curve for found in curves.values() for curve in found]
    first, last = (statistics.median(curve[end][1] for curve in everyone) for end in (0, -1))
    steps = max(curve[-1][0] for curve in everyone)
    movement = "falls" if last < first else "does not fall"
    finding = f"Personal training loss {movement}: {first:.2f} to {last:.2f} in {steps} steps (median of {len(everyone)} users)"

    figure = Figure(figsize=(WIDTH_IN, 4.4), layout="constrained")
    axes = figure.subplots()
    for number, (cohort, found) in enumerate(curves.items()):
        colour = COHORT_COLOURS[number % len(COHORT_COLOURS)]
        for curve in found:
            axes.plot([s for s, _ in curve], [v for _, v in curve], color=colour, linewidth=0.8, alpha=0.35)
        common = sorted(set.intersection(*({s for s, _ in curve} for curve in found)))
        if len(common) > 1:
            middle = [statistics.median(dict(curve)[step] for curve in found) for step in common]
            axes.plot(
                common, middle, color=colour, linewidth=2.6, label=f"{_short(cohort, 32)}: median of {len(found)} users"
            )
    axes.set(xlabel="training step", ylabel="training loss", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.grid(color="#e6e6e6")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=10, title="thin lines: one user each", title_fontsize=9)
    _dress(axes)
    _headline(figure, finding)
    _save(figure, path)
    return finding
