"""What a cohort must keep to: the rules of the section ``check`` of params.yaml, each against one figure of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """One rule: its name in params.yaml, what it measures, and which side of the limit is good."""

    key: str
    says: str
    side: Literal["at most", "at least"]
    unit: Literal["share", "number", "dB", "Hz", "hours"]
    measure: Callable[[Figures], float | None]


RULES = (
    Rule("min_users", "users", "at least", "number", lambda f: f["amount"]["users"]),
    Rule("min_hours", "hours of recordings", "at least", "hours", lambda f: f["amount"]["hours"]),
    Rule(
        "max_small_users_share",
        "users with too few utterances for an adapter",
        "at most",
        "share",
        lambda f: _share_of(f["users"], "too_small") if f["personal"] else None,
    ),
    Rule(
        "max_quarantined_share", "set aside when they came in", "at most", "share", lambda f: f["quarantine"]["share"]
    ),
    Rule(
        "max_untranscribed_share",
        "utterances without a transcript",
        "at most",
        "share",
        lambda f: f["amount"]["without_transcript_share"],
    ),
    Rule(
        "max_duplicate_share",
        "utterances whose recording is there already",
        "at most",
        "share",
        lambda f: f["duplicates"]["within"]["share"],
    ),
    Rule(
        "max_across_cohort_duplicates",
        "utterances whose recording another cohort has",
        "at most",
        "number",
        lambda f: f["duplicates"]["across"]["utterances"],
    ),
    Rule(
        "max_shared_users",
        "users whom another cohort has",
        "at most",
        "number",
        lambda f: len({row["user"] for row in f["shared_users"]}),
    ),
    Rule("max_silent_share", "utterances without speech", "at most", "share", lambda f: f["sound"]["silent_share"]),
    Rule("max_clipped_share", "clipped utterances", "at most", "share", lambda f: f["sound"]["clipped_share"]),
    Rule("min_median_snr_db", "median SNR (estimate)", "at least", "dB", lambda f: f["sound"]["snr_db"]["median"]),
    Rule(
        "min_source_rate_hz", "lowest sample rate that came in", "at least", "Hz", lambda f: f["sources"]["min_rate_hz"]
    ),
    Rule(
        "max_outside_characters_share",
        "transcripts with characters outside the language",
        "at most",
        "share",
        lambda f: f["texts"]["outside_characters_share"],
    ),
    Rule(
        "max_speech_rate_share",
        "transcripts too long or too short for their recording",
        "at most",
        "share",
        lambda f: f["speech_rate"]["off_share"],
    ),
    Rule(
        "max_near_duplicate_share",
        "transcripts almost the same as a more frequent text",
        "at most",
        "share",
        lambda f: f["texts"]["near_duplicate_share"],
    ),
    Rule(
        "max_withheld_share", "utterances without consent", "at most", "share", lambda f: f["consent"]["withheld_share"]
    ),
    Rule(
        "require_consent_date",
        "utterances whose consent has no date",
        "at most",
        "number",
        lambda f: f["consent"]["without_date"],
    ),
)
"""In the order in which they are told."""

State = Literal["ok", "broken", "unknown", "off"]


@dataclass(frozen=True)
class Finding:
    """A rule held against a cohort. ``unknown``: the figure cannot be known, or has no meaning for this cohort."""

    key: str
    says: str
    state: State
    value: float | None
    limit: float | None
    shown: str
    shown_limit: str


def judge(figures: Figures, limits: Mapping[str, float | bool | None]) -> list[Finding]:
    """Each rule against ``figures`` (see stages.cohort_report.examine; with ``personal``: whether its users get adapters).

    A limit of None or False switches its rule off; True stands for a limit of 0. A cohort without utterances breaks
    ``min_users`` where that is on; what has no meaning for it is unknown.
    """
    return [_judge(rule, figures, limits[rule.key]) for rule in RULES]


def _judge(rule: Rule, figures: Figures, given: float | bool | None) -> Finding:
    value = rule.measure(figures)
    limit = None if given is None or given is False else 0.0 if given is True else float(given)
    state: State
    if limit is None:
        state = "off"
    elif value is None:
        state = "unknown"
    else:
        state = "ok" if (value <= limit if rule.side == "at most" else value >= limit) else "broken"
    shown_limit = "" if limit is None else f"{rule.side} {shown(limit, rule.unit)}"
    return Finding(rule.key, rule.says, state, value, limit, shown(value, rule.unit), shown_limit)


def shown(value: float | None, unit: str) -> str:
    """A figure as people read it; a dash where it is unknown."""
    if value is None:
        return "–"
    if unit == "share":
        return percent(value)
    return {"dB": f"{value:.1f} dB", "Hz": f"{value:,.0f} Hz", "hours": f"{value:,.2f} h"}.get(unit, f"{value:,.0f}")


def percent(value: float | None) -> str:
    """0.0123 as "1.2 %"; what is there, but little, is not shown as nothing."""
    if value is None:
        return "–"
    if 0 < value < 0.0005:
        return "under 0.1 %"
    return f"{value:.1%}".replace("%", " %").replace(".0 ", " ")


def _share_of(rows: list[Mapping[str, Any]], key: str) -> float | None:
    return sum(bool(row[key]) for row in rows) / len(rows) if rows else None
