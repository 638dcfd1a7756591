"""Figures of what was read wrong: which words for which, and how errors grow with an utterance's length."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stages.plots import BLUE, GREY, WIDTH_IN, _dress, _headline, _save, _short
from stages.reading import NOT_THERE, bin_edges, by_length, count_confusions, kind_of, quoted
from stages.words import most

SHOWN = 24
"""Confusions that the figure shows; the CSV holds more."""

SIDES = (("base", "base adapter", GREY), ("personal", "personal adapter", BLUE))


def draw_confusions(rows: Sequence[Mapping[str, Any]], path: Path) -> str | None:
    """The most frequent confusions, before and after; the finding, None where there is nothing to show."""
    counts = {side: count_confusions(rows, side) for side, _, _ in SIDES}
    both = counts["base"] + counts["personal"]
    if not both:
        return None
    totals = {side: sum(counts[side].values()) for side in counts}
    kinds = {side: Counter[str]() for side in counts}
    for side, found in counts.items():
        for pair, count in found.items():
            kinds[side][kind_of(pair)] += count
    finding = f"Personal adapters make {totals['personal']} word errors, the base {totals['base']}"
    ranked = [pair for pair, _ in most(both, SHOWN)]

    figure = Figure(figsize=(WIDTH_IN, 2.2 + 0.34 * len(ranked)), layout="constrained")
    axes = figure.subplots()
    for place, (side, label, colour) in enumerate(SIDES):
        positions = [row + (place - 0.5) * 0.4 for row in range(len(ranked))]
        values = [counts[side][pair] for pair in ranked]
        told = ", ".join(f"{kinds[side][kind]} {kind}" for kind in ("read as another word", "missed", "added"))
        axes.barh(positions, values, 0.36, color=colour, label=f"{label}: {told}")
        for position, value in zip(positions, values, strict=True):
            axes.text(value, position, f" {value}", va="center", fontsize=8, color="#333333")
    names = [f"{quoted(_short(said, 18))} → {quoted(_short(read, 18))}" for said, read in ranked]
    axes.set_yticks(range(len(ranked)), names)
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    axes.set_xlim(0, max(max(counts[side][pair] for side in counts) for pair in ranked) * 1.08)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="x", color="#e6e6e6")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"times on held-out utterances (said → read; {NOT_THERE}: no word)", fontsize=11)
    _dress(axes)
    figure.legend(loc="outside lower left", ncols=1, frameon=False, fontsize=10)
    _headline(figure, finding)
    _save(figure, path)
    return finding


def draw_length_error(rows: Sequence[Mapping[str, Any]], path: Path) -> str | None:
    """WER against words and against seconds of an utterance; the finding, None where no length is known."""
    usable = [row for row in rows if row["words"]]
    timed = [row for row in usable if row.get("duration_s")]
    if not usable:
        return None
    bins = by_length(usable, "words", bin_edges([row["words"] for row in usable], 6, 1))
    short, long = bins[0], bins[-1]
    finding = f"Utterances of {_span(short)}: WER {short['personal_wer']:.2f} with personal adapters"
    if len(bins) > 1:
        finding += f"; of {_span(long)}: {long['personal_wer']:.2f}"
    figure = Figure(figsize=(WIDTH_IN, 4.2), layout="constrained")
    panels = figure.subplots(1, 2 if timed else 1, sharey=True, squeeze=False)[0]
    _length_panel(panels[0], usable, "words", bins, whole=True)
    panels[0].set_xlabel("words in the utterance", fontsize=11)
    panels[0].set_ylabel("word error rate", fontsize=11)
    if timed:
        edges = bin_edges([row["duration_s"] for row in timed], 6, 0.5)
        _length_panel(panels[1], timed, "duration_s", by_length(timed, "duration_s", edges), whole=False)
        panels[1].set_xlabel("length of the recording (s)", fontsize=11)
    panels[0].legend(frameon=False, fontsize=9, loc="upper right")
    _headline(figure, finding)
    _save(figure, path)
    return finding


def _span(item: Mapping[str, Any]) -> str:
    low, high = int(item["from"]), int(item["to"]) - 1
    return f"{low} word(s)" if low >= high else f"{low} to {high} words"


def _length_panel(
    axes: Axes, rows: Sequence[Mapping[str, Any]], key: str, bins: list[dict[str, Any]], whole: bool
) -> None:
    jitter = random.Random(0)  # the same picture for the same rows
    for side, label, colour in SIDES:
        step = 0.12 if side == "base" else -0.12
        spots = [
            (
                row[key] + (step + jitter.uniform(-0.1, 0.1) if whole else 0.0),
                row[f"{side}_errors"] / row["words"] + jitter.uniform(-0.01, 0.01),
            )
            for row in rows
        ]
        axes.scatter(
            [x for x, _ in spots], [y for _, y in spots], s=9, color=colour, alpha=0.35, linewidths=0, zorder=1
        )
        # over the middle of the utterances in the bin, not of the bin: the last one may be wide
        centres = []
        for item in bins:
            inside = sorted(row[key] for row in rows if item["from"] <= row[key] < item["to"])
            centres.append(inside[len(inside) // 2])
        style = "--" if side == "base" else "-"
        axes.plot(
            centres,
            [item[f"{side}_wer"] for item in bins],
            style,
            color=colour if side == "personal" else "#5f5f5f",
            marker="o" if side == "personal" else "s",
            linewidth=2.2,
            markersize=5,
            label=f"{label}, pooled",
            zorder=3,
        )
    axes.set_ylim(-0.03, max(1.05, *(row[f"{s}_errors"] / row["words"] + 0.05 for row in rows for s, _, _ in SIDES)))
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#e6e6e6")
    _dress(axes)
