"""A user's part of a page: examples to listen to and what was read, one read-out over time, the adapter's layers."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from stages.svg import JOINER, bars, curve, heat_map
from stages.words import NOTHING, align

EXAMPLES_A_USER = 2
MOST_AUDIO_BYTES = 8_000_000
"""Recordings that one page holds, before base64: a page that a mail or a browser still takes."""

Recordings = Callable[[str, Mapping[str, str]], Mapping[str, bytes]]
"""(cohort, {utterance: SHA-256 of its FLAC bytes}) -> {utterance: these bytes}; what may not or cannot be heard is left out."""

STYLE = """
audio { width: 100%; max-width: 24rem; height: 2.2rem; }
details { border-top: 1px solid #ddd; padding: .6rem 0; }
summary { cursor: pointer; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .5rem 0 1.2rem; }
dt { color: #555; } dd { margin: 0; }
.w { font-weight: 600; text-decoration: underline; text-decoration-color: #D55E00; text-decoration-thickness: 2px; }
.m { color: #767676; text-decoration: line-through; }
.side { display: inline-block; vertical-align: top; margin: 0 1.5rem 1rem 0; }
.side p { margin: .2rem 0; }
"""

LEGEND = (
    '<p class="note"><span class="w">&#8288;underlined</span>: read as another word, or added. '
    '<span class="m">&#8288;struck out</span>: said and not read.</p>'
)


def chosen_examples(entry: Mapping[str, Any], count: int = EXAMPLES_A_USER) -> list[dict[str, Any]]:
    """The examples that tell most: where the personal adapter helps most, then where it errs most."""
    rows = {row["utterance"]: row for row in entry.get("read") or []}
    items = [{**rows.get(item.get("utterance"), {}), **item} for item in entry.get("examples") or []]

    def gain(item: Mapping[str, Any]) -> int:
        return int(item.get("base_errors", 0) - item.get("personal_errors", 0))

    best = sorted(items, key=gain, reverse=True)[:1]
    rest = sorted((i for i in items if i not in best), key=lambda item: item.get("personal_errors", 0), reverse=True)
    return [*best, *rest][:count]


class Sounds:
    """Recordings as data URIs, until the page is full."""

    def __init__(self, recordings: Recordings | None, most_bytes: int = MOST_AUDIO_BYTES) -> None:
        self._recordings, self._left = recordings, most_bytes

    def of(self, cohort: str, examples: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """{utterance: data URI} of the examples that can be heard."""
        wanted = {item["utterance"]: item["audio_sha256"] for item in examples if item.get("audio_sha256")}
        if self._recordings is None or not wanted or self._left <= 0:
            return {}
        found = {}
        for utterance, content in self._recordings(cohort, wanted).items():
            if len(content) <= self._left:
                self._left -= len(content)
                found[utterance] = f"data:audio/flac;base64,{base64.b64encode(content).decode()}"
        return found


def marked(reference: str, text: str) -> str:
    """What was read, as HTML: wrong words underlined, words that are missing struck out."""
    parts: list[str] = []
    plain: list[str] = []
    for said, read in [*align([reference], [text])[0], (NOTHING, NOTHING)]:
        if said == read != NOTHING:
            plain.append(read)
            continue
        parts += [JOINER + escape(" ".join(plain))] if plain else []
        plain = []
        if said != read:
            parts += [f'<span class="w">{JOINER}{escape(read)}</span>'] if read != NOTHING else []
            parts += [f'<span class="m">{JOINER}{escape(said)}</span>'] if said != NOTHING else []
    return f"“{' '.join(parts)}”" if parts else "(nothing)"


def user_section(cohort: str, user: str, entry: Mapping[str, Any], sounds: Sounds) -> str:
    """The HTML of one user."""
    examples = chosen_examples(entry)
    heard = sounds.of(cohort, examples)
    parts = [_example(item, heard.get(item.get("utterance", ""))) for item in examples]
    over_time = entry.get("posteriors")
    if over_time:
        parts.append(f"<h4>Soft tokens over time: “{escape(over_time['reference'])}”</h4>")
        parts.append(
            '<p class="note">Each row is a token of the LLM; the lighter, the surer the adapter is of it at that moment.</p>'
        )
        for side in ("base", "personal"):
            told = over_time["sides"][side]
            picture = heat_map(told, f"posteriors over time, {side} adapter")
            parts.append(f'<div class="wide"><p>{side} adapter reads “{escape(told["text"])}”</p>{picture}</div>')
    parts.append(_training(entry))
    return f"<details><summary>{escape(user)} ({escape(cohort)}){_rates(entry)}</summary>{''.join(parts)}</details>"


def _rates(entry: Mapping[str, Any]) -> str:
    def rate(side: str, of: Mapping[str, Any]) -> float | None:
        return (of.get(side) or {}).get("wer")

    before, after, guard = rate("base", entry), rate("personal", entry), entry.get("guard") or {}
    if before is None or after is None:
        return ""
    told = f": WER {before:.3f} → {after:.3f}"
    if guard.get("utterances"):
        others = (rate("base", guard), rate("personal", guard))
        told += f"; on {guard['utterances']} utterances of other people {others[0]:.3f} → {others[1]:.3f}"
    return told


def _example(item: Mapping[str, Any], sound: str | None) -> str:
    reference = item.get("reference") or ""
    lines = [("said", f"“{escape(reference)}”" if reference else "–")]
    for side in ("base", "personal", "cascade"):
        text = item.get(side)
        lines.append((side, "–" if text is None else marked(reference, text)))
    lines.append(("LLM's reply", f"“{escape(item['reply'])}”" if item.get("reply") else "–"))
    player = f'<audio controls preload="metadata" src="{sound}"></audio>' if sound else ""
    length = item.get("duration_s")
    if length:
        lines.insert(0, ("recording", f"{player} {length:.1f} s" if player else f"{length:.1f} s, not in this page"))
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in lines) + "</dl>"


def _training(entry: Mapping[str, Any]) -> str:
    from stages.layers import densities, layer_name

    shares = [(layer_name(layer), value) for layer, value in densities(entry).items()]
    losses = [(float(step), float(loss)) for step, loss in entry.get("curve") or []]
    parts = []
    if shares:
        picture = bars(shares, "share of each layer's weights that the adapter changes")
        parts.append(f'<div class="side"><h4>Weights changed, by layer</h4>{picture}</div>')
    if len(losses) > 1:
        picture = curve(losses, "training loss by step", "training step", "loss")
        parts.append(f'<div class="side"><h4>Learning curve</h4>{picture}</div>')
    return "".join(parts)
