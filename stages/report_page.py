"""The report as one HTML file that needs nothing else: figures embedded, every text from data escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.report import COLUMNS, devices, number, rows, summarise
from stages.report_users import LEGEND, STYLE, Recordings, Sounds, user_section

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; }
tr.all td { font-weight: 600; border-bottom: 2px solid #888; }
img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
.note { color: #555; }
{{ style|safe }}</style></head><body>
<h1>{{ title }}</h1>
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
{% if figures is defined %}<h2>Figures</h2>
{% for alt, data in figures %}<p><img alt="{{ alt }}" src="data:image/png;base64,{{ data }}"></p>
{% else %}<p>No curve was recorded.</p>{% endfor %}{% endif %}
{% if users %}<h2>Users: listen and look</h2>
<p class="note">Two held-out utterances a user: where the personal adapter helps most, and where it errs most.</p>
{{ legend|safe }}{% for section in users %}{{ section|safe }}
{% endfor %}{% endif %}
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


def page(
    summary: Mapping[str, Any],
    cohorts: Mapping[str, Mapping[str, Any]],
    figures: Mapping[str, Path],
    recordings: Recordings | None = None,
) -> str:
    """The whole page. ``figures`` maps each figure's finding (its text for those who cannot see it) to its PNG."""
    sounds = Sounds(recordings)
    users = [
        user_section(cohort, user, entry, sounds)
        for cohort in sorted(cohorts)
        for user, entry in sorted((cohorts[cohort].get("users") or {}).items())
    ]
    skipped = [(c, user, why) for c, part in summary["cohorts"].items() for user, why in part["skipped"].items()]
    return _render(
        title="edgealign report",
        finding=finding(summary),
        devices=devices(summary),
        columns=COLUMNS,
        rows=rows(summary),
        skipped=skipped,
        figures=[(alt, base64.b64encode(path.read_bytes()).decode()) for alt, path in figures.items()],
        users=users,
    )


def user_page(cohort: str, user: str, entry: Mapping[str, Any], recordings: Recordings | None = None) -> str:
    """A page of one user alone, for that user's run."""
    summary = summarise({cohort: {"users": {user: entry}}}, {})
    return _render(
        title=f"{user} ({cohort})",
        finding=finding(summary),
        devices=devices(summary),
        columns=COLUMNS,
        rows=[(cohort, user, cells) for _, user, cells in rows(summary)[:1]],
        # the only section is open
        users=[user_section(cohort, user, entry, Sounds(recordings)).replace("<details>", "<details open>", 1)],
    )


def _render(**values: Any) -> str:
    from jinja2 import Environment  # comes with MLflow and DVC

    template = Environment(autoescape=True, trim_blocks=True).from_string(_TEMPLATE)
    return template.render(style=STYLE, legend=LEGEND, **values)
