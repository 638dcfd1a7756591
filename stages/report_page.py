"""The report as one HTML file that needs nothing else: figures embedded, every text from data escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.report import COLUMNS, devices, number, rows

EXAMPLES_A_USER = 4

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>edgealign report</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; }
tr.all td { font-weight: 600; border-bottom: 2px solid #888; }
img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
.note { color: #555; }
</style></head><body>
<h1>edgealign report</h1>
<p>{{ finding }}</p>
{% if devices %}<p class="note">Trained on: {{ devices }}.</p>{% endif %}
<h2>Word error rate by user</h2>
<div class="wide"><table><thead><tr><th>cohort</th><th>user</th>
{% for name in columns %}<th class="n">{{ name }}</th>{% endfor %}</tr></thead><tbody>
{% for cohort, user, cells in rows %}<tr{% if user == "all" %} class="all"{% endif %}>
<td>{{ cohort }}</td><td>{{ user }}</td>{% for cell in cells %}<td class="n">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
<p class="note">WER: share of words wrong, on utterances that trained nothing. Base: before personalising. Cascade: the speech
encoder's own transcript. LLM gap: WER of the LLM's repeat from audio minus that from the reference text. A dash: unknown.</p>
{% if skipped %}<h2>Users without an adapter</h2><ul>
{% for cohort, user, reason in skipped %}<li>{{ user }} ({{ cohort }}): {{ reason }}</li>{% endfor %}</ul>{% endif %}
<h2>Figures</h2>
{% for alt, data in figures %}<p><img alt="{{ alt }}" src="data:image/png;base64,{{ data }}"></p>
{% else %}<p>No curve was recorded.</p>{% endfor %}
{% if examples %}<h2>Examples</h2>
<div class="wide"><table><thead><tr><th>user</th><th>spoken</th><th>base</th><th>personal</th><th>cascade</th>
<th>LLM's reply</th></tr></thead><tbody>
{% for user, e in examples %}<tr><td>{{ user }}</td><td>{{ e.reference or "–" }}</td><td>{{ e.base or "–" }}</td>
<td>{{ e.personal or "–" }}</td><td>{{ e.cascade or "–" }}</td><td>{{ e.reply or "–" }}</td></tr>
{% endfor %}</tbody></table></div>{% endif %}
</body></html>
"""


def finding(summary: Mapping[str, Any]) -> str:
    """What the summary says, in one sentence."""
    overall = summary["overall"]
    if overall["wer"] is None or overall["base_wer"] is None:
        return "No personal adapter was evaluated."
    verb = "lower" if overall["wer"] < overall["base_wer"] else "do not lower"
    return (
        f"Personal adapters of {overall['users']} user(s) {verb} the word error rate on held-out utterances: "
        f"{overall['base_wer']:.3f} before, {overall['wer']:.3f} after, cascade {number(overall['cascade_wer'], '.3f')}."
    )


def page(summary: Mapping[str, Any], cohorts: Mapping[str, Mapping[str, Any]], figures: Mapping[str, Path]) -> str:
    """The whole page. ``figures`` maps each figure's finding (its text for those who cannot see it) to its PNG."""
    from jinja2 import Environment  # comes with MLflow and DVC

    examples = [
        (f"{user} ({cohort})", example)
        for cohort in sorted(cohorts)
        for user, entry in sorted((cohorts[cohort].get("users") or {}).items())
        for example in (entry.get("examples") or [])[:EXAMPLES_A_USER]
    ]
    skipped = [(c, user, why) for c, part in summary["cohorts"].items() for user, why in part["skipped"].items()]
    template = Environment(autoescape=True, trim_blocks=True).from_string(_TEMPLATE)
    return template.render(
        finding=finding(summary),
        devices=devices(summary),
        columns=COLUMNS,
        rows=rows(summary),
        skipped=skipped,
        figures=[(alt, base64.b64encode(path.read_bytes()).decode()) for alt, path in figures.items()],
        examples=examples,
    )
