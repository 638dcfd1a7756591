"""docs/benchmarks.md and its pictures, made from docs/benchmarks/*.json and never typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import ablation_plots, methods_plots, personal_plots, sparse_plots
from benchmarks.drawing import new_figure
from benchmarks.record import FOLDER, read_areas
from stages.atomic import write_text

HEADER = """# Benchmarks

Made by `make bench` from `docs/benchmarks/*.json`; do not edit. Each area says its command, machine and date. A figure that
falls short of what was asked stays here and says so. Timings on a shared machine are noisy; ratios hold better. No figure
here was measured on a Jetson: the device kind is "virtual" throughout.
"""


def write_tables() -> Path:
    """Write docs/benchmarks.md and the pictures it shows."""
    areas = read_areas()
    parts = [HEADER, *(_section(area) for area in areas)]
    path = FOLDER.parent / "benchmarks.md"
    write_text(path, "\n".join(parts))
    return path


def _section(area: dict[str, Any]) -> str:
    host, versions = area["machine"], area["versions"]
    lines = [
        f"## {area['area']}",
        "",
        f"`{area['command']}` · {area['date']} · {host['cpu']}, {host['cores']} cores, {host['memory_gb']} GB · "
        + ", ".join(f"{name} {number}" for name, number in versions.items()),
        "",
        "| figure | measured | asked | met | how |",
        "|---|---|---|---|---|",
    ]
    for figure in area["figures"]:
        met = {True: "yes", False: "**no**", None: ""}[figure["met"]]
        value = _number(figure["value"])
        seeds = f"; seeds {', '.join(map(str, figure['seeds']))}" if figure["seeds"] else ""
        measured = f"{value} {figure['unit']}"
        lines.append(f"| `{figure['name']}` | {measured} | {figure['asked']} | {met} | {figure['note']}{seeds} |")
    pictures = draw(area)
    return "\n".join([*lines, "", *(f"![{title}](benchmarks/{name})\n" for name, title in pictures)])


def _number(value: float | None) -> str:
    if value is None:
        return "—"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def draw(area: dict[str, Any]) -> list[tuple[str, str]]:
    """Pictures of an area's plots: (file name, what it shows)."""
    made = []
    for name, title in {
        "an4_unseen_speakers": "WER on unseen AN4 speakers against seconds of training",
        "an4_short_schedule": "The same under the short schedule of the time-to-quality figure",
        "an4_from_synthetic": "The same, beginning with the synthetic base",
        "synthetic_to_an4": "WER on AN4 against seconds of training on synthetic speech",
    }.items():
        if name in area["plots"]:
            made.append((_curves(name, title, area["plots"][name]), title))
    if "personal" in area["plots"]:
        made.append((_personal(area["plots"]["personal"]), "WER of every AN4 user before and after a personal adapter"))
    for pictures in (methods_plots, ablation_plots, sparse_plots, personal_plots):
        made += pictures.draw(area["plots"], FOLDER)
    return made


def _curves(name: str, title: str, curves: dict[str, list[list[float]]]) -> str:
    figure, axes = new_figure(height=3.6)
    axes.grid(axis="y", color="#ddd", linewidth=0.8)
    for (label, points), style in zip(curves.items(), ("-", "--", ":", "-."), strict=False):
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            style,
            marker="o",
            markersize=3,
            color="#0072b2",
            label=label,
        )
    axes.set_yscale("log")
    axes.set_yticks([0.03, 0.06, 0.1, 0.2, 0.5, 1.0], ["0.03", "0.06", "0.1", "0.2", "0.5", "1"])
    axes.minorticks_off()
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("WER")
    axes.set_title(title, loc="left", fontsize=11)
    axes.legend(frameon=False)
    figure.savefig(FOLDER / f"{name}.png")
    return f"{name}.png"


def _personal(methods: dict[str, list[dict[str, Any]]]) -> str:
    figure, axes = new_figure()
    axes.grid(axis="y", color="#ddd", linewidth=0.8)
    users = sorted(methods["shira"], key=lambda item: item["base"])
    places = range(len(users))
    axes.vlines(places, [u["personal"] for u in users], [u["base"] for u in users], color="#bbb", linewidth=1)
    axes.plot(places, [u["base"] for u in users], "o", color="#999999", markersize=4, label="base")
    axes.plot(
        places,
        [u["personal"] for u in users],
        "o",
        color="#0072b2",
        markersize=4,
        label="sparse personal adapter",
    )
    axes.set_xticks(places, [u["user"] for u in users], rotation=90, fontsize=7)
    axes.set_ylabel("WER on held-out utterances")
    axes.set_title("Every AN4 user before and after a personal adapter (synthetic base)", loc="left", fontsize=11)
    axes.legend(frameon=False)
    figure.savefig(FOLDER / "personal.png")
    return "personal.png"
