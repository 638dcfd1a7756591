"""Small pictures as SVG, written by hand: a page a user has them in milliseconds, where matplotlib takes half a second each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

JOINER = "\N{WORD JOINER}"
"""Invisible. Before a word that stands alone in an element: such a word must not be taken for a user of that name by whoever
searches for a user (`edgealign cohort forget`)."""

CIVIDIS = tuple(
    tuple(bytes.fromhex(stop))
    for stop in "00224e 123570 3b496c 575d6d 707173 8a8678 a59c74 c3b369 e1cc55 fee838".split()
)
"""Ten steps of matplotlib's palette of that name, for colour-blind readers and grey prints."""

LABEL_PX, STEP_PX, ROW_PX, FONT_PX = 92, 14, 16, 11
INK = "#1a1a1a"


def colour(share: float) -> str:
    """The palette's colour for 0 to 1."""
    place = min(max(share, 0.0), 1.0) * (len(CIVIDIS) - 1)
    low = min(int(place), len(CIVIDIS) - 2)
    mixed = (a + (b - a) * (place - low) for a, b in zip(CIVIDIS[low], CIVIDIS[low + 1], strict=True))
    return "#" + "".join(f"{round(part):02x}" for part in mixed)


def token_label(token: str) -> str:
    """A token as people read it: the space that begins a word is a mark; the blank is named."""
    if not token:
        return "(blank)"
    return f"▁{token[1:]}" if token.startswith(" ") else JOINER + token


def heat_map(side: Mapping[str, Any], title: str) -> str:
    """Posteriors of some rows over time: ``tokens``, ``values`` (a list of steps each) and ``step_s``."""
    values: Sequence[Sequence[float]] = side["values"]
    steps = max(map(len, values), default=0)
    if not steps:
        return ""
    width, height = LABEL_PX + steps * STEP_PX + 8, len(values) * ROW_PX
    parts = [_open(width, height + 36, title)]
    parts.append(f'<rect x="{LABEL_PX}" y="0" width="{steps * STEP_PX}" height="{height}" fill="{colour(0.0)}"/>')
    for row, (token, line) in enumerate(zip(side["tokens"], values, strict=True)):
        label = escape(token_label(token))
        parts.append(_text(LABEL_PX - 6, row * ROW_PX + 12, label, "end"))
        for step, value in enumerate(line):
            if value >= 0.02:  # the rest is as dark as the ground
                parts.append(
                    f'<rect x="{LABEL_PX + step * STEP_PX}" y="{row * ROW_PX}" width="{STEP_PX}" height="{ROW_PX}" '
                    f'fill="{colour(value)}"><title>{label} {value:.2f}</title></rect>'
                )
    seconds, every = steps * side["step_s"], 0.5 if steps * side["step_s"] <= 4 else 1.0
    for tick in range(int(seconds / every) + 1):
        x = LABEL_PX + tick * every / side["step_s"] * STEP_PX
        parts.append(f'<line x1="{x:.1f}" y1="{height}" x2="{x:.1f}" y2="{height + 4}" stroke="{INK}"/>')
        parts.append(_text(x, height + 16, f"{tick * every:g}"))
    parts.append(_text(LABEL_PX + steps * STEP_PX / 2, height + 31, "time (s)"))
    return "".join([*parts, "</svg>"])


def bars(items: Sequence[tuple[str, float]], title: str, form: str = ".2%", width: int = 300) -> str:
    """Named shares as horizontal bars, the largest as wide as the picture."""
    largest = max((value for _, value in items), default=0.0) or 1.0
    parts = [_open(LABEL_PX + 20 + width + 60, len(items) * 18 + 4, title)]
    for row, (name, value) in enumerate(items):
        y = row * 18
        parts.append(_text(LABEL_PX + 14, y + 13, escape(name), "end"))
        parts.append(
            f'<rect x="{LABEL_PX + 20}" y="{y + 3}" width="{value / largest * width:.1f}" height="13" fill="#0072B2"/>'
        )
        parts.append(_text(LABEL_PX + 24 + value / largest * width, y + 13, format(value, form), "start"))
    return "".join([*parts, "</svg>"])


def curve(points: Sequence[tuple[float, float]], title: str, x_name: str, y_name: str) -> str:
    """A line over steps, from nought upwards."""
    if len(points) < 2:
        return ""
    width, height, left, bottom = 420, 150, 44, 34
    last = max(x for x, _ in points) or 1.0
    top = max(y for _, y in points) or 1.0
    places = [(left + x / last * width, 6 + height * (1 - y / top)) for x, y in points]
    parts = [_open(left + width + 12, height + bottom + 8, title)]
    for share in (0.0, 0.5, 1.0):
        y = 6 + height * (1 - share)
        parts.append(f'<line x1="{left}" y1="{y}" x2="{left + width}" y2="{y}" stroke="#e6e6e6"/>')
        parts.append(_text(left - 5, y + 4, f"{top * share:.2g}", "end"))
        parts.append(_text(left + width * share, height + 20, f"{last * share:.0f}"))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#0072B2" stroke-width="2"/>')
    parts.append(_text(left + width / 2, height + 34, escape(x_name)))
    parts.append(_text(left + width, 20, escape(y_name), "end"))
    return "".join([*parts, "</svg>"])


def _open(width: float, height: float, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="system-ui, sans-serif" font-size="{FONT_PX}">'
        f"<title>{escape(title)}</title>"
    )


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}">{text}</text>'
