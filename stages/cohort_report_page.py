"""A cohort's report as one HTML file that needs nothing else: figures embedded, every text from data escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from stages.cohort_report_plots import Plot
from stages.cohort_report_rules import Finding, percent

MAX_USERS, MAX_ROWS, MAX_KINDS, MAX_NAMED = 100, 50, 12, 8
"""Rows of a table of users, of every other list, of kinds of files, and items named for one reason; `--json` has all."""

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ f.cohort }}: cohort check</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: .3rem; overflow-wrap: anywhere; }
h2 { margin: 2.2rem 0 .5rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
h3 { margin: 1.2rem 0 .2rem; font-size: 1rem; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #e3e3e3; text-align: left; vertical-align: top; }
th { color: #555; font-weight: 600; }
td.n, th.n { text-align: right; white-space: nowrap; }
td.w { overflow-wrap: anywhere; max-width: 26rem; } td.ww { overflow-wrap: anywhere; max-width: 44rem; }
code { font: .88rem/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
.note { color: #555; margin: .3rem 0; }
.verdict { display: inline-block; padding: .15rem .7rem; border-radius: .3rem; font-weight: 600; }
.good { background: #dff3ea; color: #00583f; }
.bad { background: #fbe3d8; color: #97390a; }
.state { font-weight: 600; white-space: nowrap; }
.state.ok { color: #007a58; } .state.broken { color: #b8460a; } .state.unknown, .state.off { color: #777; font-weight: 400; }
tr.broken td { background: #fdf3ee; } tr.off td { color: #888; }
td.look { min-width: 15rem; } summary { cursor: pointer; color: #555; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; }
.tile { border: 1px solid #ddd; border-radius: .4rem; padding: .5rem .9rem; min-width: 7rem; }
.tile b { display: block; font-size: 1.35rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { color: #555; font-size: .85rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(29rem, 100%), 1fr)); gap: 1.2rem 1.6rem; }
figure { margin: 0; } figcaption { font-weight: 600; font-size: .95rem; margin-bottom: .2rem; }
img { width: 100%; height: auto; }
@media print { body { margin: 0; max-width: none; } figure { break-inside: avoid; } }
</style></head><body>
{% macro more(count, shown) %}{% if count > shown %}<p class="note">… and {{ "{:,}".format(count - shown) }} more:
<code>edgealign cohort check {{ f.cohort }} --json</code> lists them.</p>{% endif %}{% endmacro %}
{% macro named(items) %}{% for item in items[:max_named] %}<code>{{ item[:200] }}</code>{{ ", " if not loop.last }}
{% endfor %}{% if items|length > max_named %} … and {{ "{:,}".format(items|length - max_named) }} more
{% endif %}{% endmacro %}
{% macro user_table(users) %}<div class="wide"><table><thead><tr><th>user</th><th>called</th><th class="n">utterances</th>
<th class="n">transcribed</th><th class="n">minutes</th><th class="n">level, dBFS</th><th class="n">SNR, dB</th>
<th class="n">letters/s</th><th>look at</th></tr></thead><tbody>
{% for u in users[:max_users] %}<tr><td class="w">{{ u.user|truncate(60) }}</td>
<td class="w">{{ u.called|truncate(60) if u.called != u.user }}</td>
<td class="n">{{ "{:,}".format(u.utterances) }}</td><td class="n">{{ "{:,}".format(u.labelled) }}</td>
<td class="n">{{ "%.1f" % (u.seconds / 60) }}</td><td class="n">{{ number(u.level_dbfs) }}</td>
<td class="n">{{ number(u.snr_db) }}</td><td class="n">{{ number(u.letters_per_second) }}</td>
<td class="look">{{ u.notes }}</td></tr>
{% endfor %}</tbody></table></div>{{ more(users|length, max_users) }}{% endmacro %}
<h1>{{ f.cohort }}</h1>
<p><span class="verdict {{ 'bad' if broken else 'good' }}">{{ verdict }}</span></p>
<div class="tiles">
{% for value, what in tiles %}<div class="tile"><b>{{ value }}</b><span>{{ what }}</span></div>{% endfor %}
</div>

<h2>Rules</h2>
<div class="wide"><table><thead><tr><th></th><th>what</th><th class="n">here</th><th>needed</th>
<th>check. in params.yaml</th></tr></thead><tbody>
{% for r in rules %}<tr class="{{ r.state }}"><td class="state {{ r.state }}">{{ r.state }}</td><td>{{ r.says }}</td>
<td class="n">{{ r.shown }}</td><td>{{ r.shown_limit or "no rule" }}</td><td><code>{{ r.key }}</code></td></tr>
{% endfor %}</tbody></table></div>

<h2>Figures</h2>
<div class="figures">
{% for title, data in plots %}<figure><figcaption>{{ title }}</figcaption>
<img alt="{{ title }}" src="data:image/svg+xml;base64,{{ data }}"></figure>
{% else %}<p>Nothing to draw.</p>{% endfor %}
</div>
{% if unknown %}<p class="note">Not known of every utterance: {{ unknown }}.</p>{% endif %}

<h2>Users</h2>
{% if f.users %}<p>{{ users_say }}</p>
{% if noted %}{{ user_table(noted) }}{% endif %}
{% if plain %}<details><summary>{{ "{:,}".format(plain|length) }} user(s) without anything to look at</summary>
{{ user_table(plain) }}</details>{% endif %}
{% else %}<p>None.</p>{% endif %}
{% if f.shared_users %}<h3>Users whom another cohort has</h3>
<p class="note">The same id, or the same name in the source. It need not be the same person.</p>
<table><thead><tr><th>user</th><th>cohort</th><th>there</th></tr></thead><tbody>
{% for u in f.shared_users[:max_rows] %}<tr><td class="w">{{ u.user }}</td><td>{{ u.cohort }}</td>
<td class="w">{{ u.other }}</td></tr>{% endfor %}</tbody></table>{{ more(f.shared_users|length, max_rows) }}{% endif %}

<h2>Sound</h2>
<p>{{ sound_say }}</p>
{% if f.sources.kinds %}<table><thead><tr><th>came in as</th><th class="n">sample rate, Hz</th><th class="n">channels</th>
<th class="n">utterances</th></tr></thead><tbody>
{% for k in f.sources.kinds[:max_kinds] %}<tr><td>{{ k.format or "unknown" }}</td>
<td class="n">{{ "{:,}".format(k.rate_hz) }}</td>
<td class="n">{{ k.channels or "–" }}</td><td class="n">{{ "{:,}".format(k.utterances) }}</td></tr>
{% endfor %}</tbody></table>{{ more(f.sources.kinds|length, max_kinds) }}{% endif %}
{% for title, items in (("Silent", f.sound.silent), ("Clipped", f.sound.clipped)) if items %}<h3>{{ title }}</h3>
<p>{% for item in items[:max_rows] %}<code>{{ item }}</code>{{ ", " if not loop.last }}{% endfor %}</p>
{{ more(items|length, max_rows) }}{% endfor %}

<h2>The same recording twice</h2>
{% set within, across = f.duplicates.within, f.duplicates.across %}
{% if not within.groups and not across.pairs %}<p>None, neither here nor in another cohort.</p>{% endif %}
{% if within.groups %}<h3>In this cohort</h3>
<table><tbody>{% for group in within.groups[:max_rows] %}<tr><td class="n">{{ group|length }} times</td><td class="ww">
{{ named(group) }}</td></tr>{% endfor %}</tbody></table>{{ more(within.groups|length, max_rows) }}{% endif %}
{% if across.pairs %}<h3>Here and in another cohort</h3>
<table><thead><tr><th>here</th><th>cohort</th><th>there</th></tr></thead><tbody>
{% for p in across.pairs[:max_rows] %}<tr><td class="w"><code>{{ p.utterance }}</code></td><td>{{ p.cohort }}</td>
<td class="w"><code>{{ p.other }}</code></td></tr>{% endfor %}</tbody></table>
{{ more(across.pairs|length, max_rows) }}{% endif %}

<h2>Transcripts</h2>
<p>{{ texts_say }}</p>
{% if f.texts.outside_characters %}<h3>Characters outside the language</h3>
<table><thead><tr><th></th><th>name</th><th>why</th>
<th class="n">times</th><th class="n">utterances</th><th>for example</th></tr></thead><tbody>
{% for c in f.texts.outside_characters[:max_rows] %}<tr><td>{{ c.char if c.char.isprintable() }}</td>
<td>{{ c.name }}</td><td>{{ c.reason }} ({{ c.language }})</td><td class="n">{{ "{:,}".format(c.times) }}</td>
<td class="n">{{ "{:,}".format(c.utterances) }}</td><td class="w">{{ c.example[:120] }}</td></tr>{% endfor %}</tbody></table>
{{ more(f.texts.outside_characters|length, max_rows) }}{% endif %}
{% if f.texts.near_duplicates %}<h3>Almost the same text</h3>
<p class="note">They differ in one like word, in one word more, in the order of their words, or in their spaces. The rarer
one may be a slip of the pen.</p>
<div class="wide"><table><thead><tr><th>text</th><th class="n">times</th><th>text</th><th class="n">times</th>
<th>differs in</th></tr></thead><tbody>
{% for p in f.texts.near_duplicates[:max_rows] %}<tr><td class="w">{{ p.texts[0][:200] }}</td>
<td class="n">{{ "{:,}".format(p.utterances[0]) }}</td><td class="w">{{ p.texts[1][:200] }}</td>
<td class="n">{{ "{:,}".format(p.utterances[1]) }}</td><td class="w">{{ p.differs }}</td></tr>{% endfor %}</tbody></table></div>
{{ more(f.texts.near_duplicate_pairs, max_rows) }}{% endif %}
{% if f.speech_rate.off %}<h3>Too long or too short for the recording</h3>
<div class="wide"><table><thead><tr><th>utterance</th><th class="n">seconds</th><th class="n">letters/s</th>
<th class="n">words/s</th><th>text</th></tr></thead><tbody>
{% for r in off[:max_rows] %}<tr><td class="w"><code>{{ r.utterance }}</code></td>
<td class="n">{{ "%.1f" % r.duration_s }}</td><td class="n">{{ "%.1f" % r.letters_per_second }}</td>
<td class="n">{{ "%.2f" % r.words_per_second }}</td><td class="w">{{ r.text[:200] }}</td></tr>{% endfor %}</tbody></table></div>
{{ more(off|length, max_rows) }}{% endif %}

<h2>Consent</h2>
<p>{{ consent_say }}</p>
{% if f.consent.reasons %}<ul>
{% for reason, count in f.consent.reasons.items() %}<li>{{ "{:,}".format(count) }}:
{{ reason }}</li>{% endfor %}</ul>{% endif %}

<h2>Set aside when it came in</h2>
{% if f.quarantine.groups %}<div class="wide"><table><thead>
<tr><th class="n">items</th><th>reason</th><th>which</th></tr></thead><tbody>
{% for g in f.quarantine.groups[:max_rows] %}<tr><td class="n">{{ "{:,}".format(g["items"]|length) }}</td>
<td class="w">{{ g.reason }}</td><td class="ww">{{ named(g["items"]) }}</td></tr>{% endfor %}</tbody></table></div>
{{ more(f.quarantine.groups|length, max_rows) }}
{% else %}<p>Nothing.</p>{% endif %}
</body></html>
"""


def page(figures: Mapping[str, Any], findings: Sequence[Finding], plots: Sequence[Plot]) -> str:
    """The whole page. ``figures`` are of ``cohort_report.examine``, ``plots`` of ``cohort_report_plots.draw``."""
    from jinja2 import Environment

    noted = noted_users(figures)
    named = {row["user"] for row in noted}
    template = Environment(autoescape=True, trim_blocks=True).from_string(_TEMPLATE)
    return template.render(
        f=figures,
        rules=worst_first(findings),
        broken=any(finding.state == "broken" for finding in findings),
        verdict=verdict(findings),
        tiles=tiles(figures),
        plots=[(title, base64.b64encode(svg).decode()) for title, svg in plots],
        unknown=_unknown(figures),
        noted=noted,
        plain=[{**row, "notes": ""} for row in figures["users"] if row["user"] not in named],
        users_say=users_say(figures),
        sound_say=sound_say(figures),
        texts_say=texts_say(figures),
        consent_say=consent_say(figures),
        off=_slow_and_fast(figures["speech_rate"]["off"]),
        number=lambda value: "–" if value is None else f"{value:.1f}",
        max_users=MAX_USERS,
        max_rows=MAX_ROWS,
        max_kinds=MAX_KINDS,
        max_named=MAX_NAMED,
    )


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Broken rules, then kept ones, then those that cannot be judged, then those that are off."""
    order = ("broken", "ok", "unknown", "off")
    return sorted(findings, key=lambda finding: order.index(finding.state))


def verdict(findings: Sequence[Finding]) -> str:
    """How many rules are broken."""
    held = [finding for finding in findings if finding.state in ("ok", "broken")]
    broken = sum(finding.state == "broken" for finding in held)
    return f"Breaks {broken} of {len(held)} rules" if broken else f"Keeps all of {len(held)} rules"


def tiles(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(value, what): the figures that are looked for first."""
    amount = figures["amount"]
    minutes = amount["hours"] * 60
    return [
        (f"{amount['hours']:,.1f}", "hours") if minutes >= 120 else (f"{minutes:,.1f}", "minutes"),
        (f"{amount['users']:,}", "users"),
        (f"{amount['utterances']:,}", "utterances"),
        (f"{amount['with_transcript']:,}", "with a transcript"),
        (f"{figures['quarantine']['items']:,}", "set aside"),
    ]


def noted_users(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The users that want a look, with ``notes`` that say why; first those of whose utterances most are in trouble."""
    personal = figures["personal"]
    rows = [{**row, "notes": ", ".join(_notes(row, personal))} for row in figures["users"]]
    return sorted((row for row in rows if row["notes"]), key=lambda row: -_trouble(row, personal))


def _notes(user: Mapping[str, Any], personal: bool) -> list[str]:
    withheld = user["utterances"] - user["usable"]
    notes = [f"{withheld:,} without consent"] if withheld else []
    if personal and user["too_small"]:
        notes.append("too few for an adapter")
    elif personal and user["needs_labels"]:
        notes.append("an adapter needs pseudo-labels")
    for key, what in (("silent", "silent"), ("clipped", "clipped"), ("off_rate", "text does not fit")):
        notes += [f"{user[key]:,} {what}"] if user[key] else []
    return notes


def _trouble(user: Mapping[str, Any], personal: bool) -> float:
    if personal and user["too_small"]:
        return 1.0
    bad = user["utterances"] - user["usable"] + user["silent"] + user["clipped"] + user["off_rate"]
    return float(bad / user["utterances"])


def users_say(figures: Mapping[str, Any]) -> str:
    """How many users can be personalised."""
    small = sum(row["too_small"] for row in figures["users"])
    labels = sum(row["needs_labels"] for row in figures["users"])
    needed = figures["min_utterances"]
    if not figures["personal"]:
        return "No personal adapters are trained on this cohort (personal_cohorts in params.yaml)."
    if not small and not labels:
        return f"Each has the {needed} transcribed utterances that an adapter needs."
    users = len(figures["users"])
    says = [f"{small:,} of {users:,} user(s) have fewer"] if small else []
    says += [f"{labels:,} of {users:,} have enough only where pseudo-labels are accepted"] if labels else []
    return f"An adapter needs {needed} utterances: {', '.join(says)}."


def sound_say(figures: Mapping[str, Any]) -> str:
    """Level, SNR, silence and clipping in one sentence."""
    sound = figures["sound"]
    return (
        f"Median level {_number(sound['level_dbfs']['median'])} dBFS (5 % to 95 %: {_number(sound['level_dbfs']['p5'])} to "
        f"{_number(sound['level_dbfs']['p95'])}), median SNR {_number(sound['snr_db']['median'])} dB (estimate); "
        f"{len(sound['silent']):,} silent and {len(sound['clipped']):,} clipped utterance(s)."
    )


def texts_say(figures: Mapping[str, Any]) -> str:
    """How varied the texts are."""
    texts, amount = figures["texts"], figures["amount"]
    if not amount["with_transcript"]:
        return "There are none."
    says = f"{texts['distinct']:,} different texts in {amount['with_transcript']:,} transcripts"
    if texts["most_repeated"]:
        most = texts["most_repeated"][0]
        says += f"; the most frequent, “{most['text'][:80]}”, {most['utterances']:,} times"
    return (
        f"{says}. {percent(texts['repeated_by_user_share'])} are a text that the same user has said more than once: it "
        "can stand in training and in the held-out part."
    )


def consent_say(figures: Mapping[str, Any]) -> str:
    """What may train what."""
    consent = figures["consent"]
    scopes = consent["scopes"]
    return (
        f"{consent['usable']:,} utterance(s) may train their user's adapter, {scopes.get('all', 0):,} of them the base too; "
        f"{consent['withheld']:,} may train nothing; {consent['without_date']:,} without a date of consent."
    )


def _unknown(figures: Mapping[str, Any]) -> str:
    """What the index does not know of all utterances."""
    gaps = [("SNR, where no pause tells the noise", figures["sound"]["snr_known_share"])]
    gaps += [("sample rate, channels and format of the files that came in", figures["sources"]["known_share"])]
    return "; ".join(f"{what} (known of {percent(share)})" for what, share in gaps if share is not None and share < 1)


def _slow_and_fast(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The fastest and the slowest in turn, so that a list that is cut off shows both."""
    ends = [rows[place // 2] if place % 2 == 0 else rows[-1 - place // 2] for place in range(len(rows))]
    return list(ends)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
