"""Figures of a cohort's report, as SVG that stands in a page. Each has a title that says what it shows to be the case."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from stages.plots import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY

SIZE_IN = (5.4, 2.7)
BINS = 40
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, GREY)
"""Of the formats that came in; more of them share the last one."""
MAX_RATES = 8

Plot = tuple[str, bytes]
"""(what it shows, SVG)."""


def draw(frame: pd.DataFrame, figures: Mapping[str, Any], limits: Mapping[str, Any]) -> list[Plot]:
    """Every figure that there is data for. ``frame`` and ``figures`` are of ``cohort_report.examine``."""
    sound, rates = figures["sound"], figures["speech_rate"]
    drawn = (
        _durations(frame, figures),
        _a_user(frame, figures),
        _histogram(
            frame["level_dbfs"],
            f"The level is {_text(sound['level_dbfs']['median'], '.0f')} dBFS (median)",
            "level (dBFS, root mean square)",
            marks={f"silent below {limits['silent_below_dbfs']:g}": limits["silent_below_dbfs"]},
            span=(-90.0, 0.0),
        ),
        _histogram(
            frame["snr_db"],
            f"The SNR is {_text(sound['snr_db']['median'], '.0f')} dB (median of estimates)",
            "speech over noise (dB)",
            marks=_mark("least median {:g}", limits["min_median_snr_db"]),
            span=(-10.0, 70.0),
        ),
        _histogram(
            frame["rate"],
            f"A text is said at {_text(rates['letters_per_second']['median'], '.0f')} letters a second (median)",
            "letters a second of speech",
            marks={f"too fast above {limits['max_letters_per_second']:g}": limits["max_letters_per_second"]},
            span=(0.0, 2.0 * limits["max_letters_per_second"]),
        ),
        _kinds(figures["sources"]["kinds"]),
    )
    return [plot for plot in drawn if plot]


def _durations(frame: pd.DataFrame, figures: Mapping[str, Any]) -> Plot | None:
    median = figures["amount"]["duration_s"]["median"]
    return _histogram(frame["duration_s"], f"An utterance lasts {_text(median, '.1f')} s (median)", "duration (s)")


def _a_user(frame: pd.DataFrame, figures: Mapping[str, Any]) -> Plot | None:
    counts = frame.groupby("user").size()
    if counts.empty:
        return None
    spread = figures["amount"]["utterances_a_user"]
    title = f"A user has {_text(spread['median'], 'g')} utterance(s) (median of {len(counts):,})"
    needed = figures["min_utterances"]
    small = sum(row["too_small"] for row in figures["users"])
    if small and figures["personal"]:
        title += f"; {small:,} too few"
    marks = {f"an adapter needs {needed}": needed - 0.5} if figures["personal"] else {}
    return _histogram(counts, title, "utterances a user", marks=marks, what="users", whole_from=needed)


def _histogram(
    values: pd.Series,
    title: str,
    label: str,
    marks: Mapping[str, float] | None = None,
    span: tuple[float, float] | None = None,
    what: str = "utterances",
    whole_from: int | None = None,
) -> Plot | None:
    """Bars of ``values``; what lies outside of ``span`` is counted in the outermost bar. None where nothing is known.

    With ``whole_from``, values are whole numbers and a bar begins at that one.
    """
    known = values.dropna().to_numpy(dtype=np.float64)
    if not known.size:
        return None
    if span:
        known = np.clip(known, *span)
    figure = Figure(figsize=SIZE_IN, layout="constrained")
    axes = figure.subplots()
    axes.hist(known, bins=_edges(known, whole_from).tolist(), color=BLUE, edgecolor="white", linewidth=0.4)
    if whole_from is not None:
        left, right = axes.get_xlim()
        left = max(0.0, min(left, (left + right) / 2 - 3))
        axes.set_xlim(left, max(right, left + 6))  # one user, or all alike: no bar that fills the figure
    _marks(axes, marks or {})
    axes.set_xlabel(label, fontsize=10)
    axes.set_ylabel(what, fontsize=10)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=whole_from is not None, nbins=8))
    return title, _svg(figure, axes)


def _edges(known: np.ndarray, whole_from: int | None) -> np.ndarray:
    """Edges of the bars: of whole numbers each has the middle of its bar, and equal values one bar of a sensible width."""
    low, high = float(known.min()), float(known.max())
    if whole_from is not None:
        step = max(1, int(np.ceil((high - low + 1) / BINS)))
        first = whole_from - step * np.ceil((whole_from - low) / step)
        return np.arange(first - 0.5, high + step + 0.5, step)
    if high - low < 1e-6:
        middle, half = low, max(abs(low) * 0.05, 0.5)
        return np.linspace(middle - half, middle + half, 12)
    return np.linspace(low, high, min(BINS, max(8, int(2 * known.size**0.5))) + 1)


def _marks(axes: Axes, marks: Mapping[str, float]) -> None:
    """Limits as dashed lines with their names; those far off the data are left out: they would squeeze it."""
    low, high = axes.get_xlim()
    room = 0.4 * (high - low)
    for name, place in marks.items():
        if low - room <= place <= high + room:
            axes.axvline(place, color=RED, linestyle=(0, (4, 3)), linewidth=1.4)
            left, right = axes.get_xlim()
            before = place > (left + right) / 2
            axes.annotate(
                name,
                (place, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(-4 if before else 4, 8),
                textcoords="offset points",
                ha="right" if before else "left",
                fontsize=9,
                color=RED,
            )


def _mark(name: str, place: float | None) -> dict[str, float]:
    return {} if place is None else {name.format(place): place}


def _kinds(kinds: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Sample rates that came in, by format."""
    if not kinds:
        return None
    table = pd.DataFrame(kinds).assign(format=lambda rows: rows["format"].fillna("unknown"))
    table = table.pivot_table(index="rate_hz", columns="format", values="utterances", aggfunc="sum", fill_value=0)
    table = table[table.sum().sort_values(ascending=False, kind="stable").index]
    if table.shape[1] > len(COLOURS):
        table = table.iloc[:, : len(COLOURS) - 1].assign(others=table.iloc[:, len(COLOURS) - 1 :].sum(axis=1))
    rates = len(table)
    title = f"Everything came in at {table.index[0]:,} Hz" if rates == 1 else f"{rates} sample rates came in"
    if rates > MAX_RATES:
        table = table.loc[table.sum(axis=1).nlargest(MAX_RATES).index].sort_index()
        title += f"; the {MAX_RATES} most frequent"
    figure = Figure(figsize=(SIZE_IN[0], min(SIZE_IN[1], 0.45 * len(table) + 1.2)), layout="constrained")
    axes = figure.subplots()
    names = [f"{rate / 1000:g} kHz" for rate in table.index]
    left = np.zeros(len(table))
    for colour, (name, counts) in zip(COLOURS, table.items(), strict=False):
        axes.barh(names, counts.to_numpy(), height=0.7, left=left, color=colour, label=str(name))
        left += counts.to_numpy()
    for place, count in enumerate(left):
        axes.text(count + 0.01 * left.max(), place, f"{count:,.0f}", va="center", fontsize=9, color="#333333")
    axes.set_xlim(0, 1.15 * left.max())
    axes.set_xlabel("utterances", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper left", ncols=len(COLOURS), frameon=False, fontsize=9, handlelength=1.0)
    return title, _svg(figure, axes)


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _svg(figure: Figure, axes: Axes) -> bytes:
    """The figure's SVG; the same input gives the same bytes."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    axes.set_axisbelow(True)
    axes.grid(axis="x" if axes.get_ylabel() == "" else "y", color="#e6e6e6")
    FigureCanvasSVG(figure)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "edgealign"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return buffer.getvalue()
