"""Consent: what a user allows. It travels with every utterance; without it nothing trains.

``{"granted": bool, "scope": "all" | "personal", "date": "YYYY-MM-DD" | null}``; more keys (who asked, under which terms) may
stand beside these and are kept.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from stages.errors import InputError

SCOPES = ("all", "personal")
"""``all``: may train the base adapter of everyone and the user's own; ``personal``: the user's own alone."""


def make_consent(granted: bool, scope: str = "all", date: str | None = None) -> dict[str, Any]:
    """A consent. Raises InputError for an unknown scope or a date that is none."""
    consent = {"granted": granted, "scope": scope, "date": date}
    problem = consent_problem(consent)
    if problem:
        raise InputError(problem)
    return consent


def consent_problem(consent: Mapping[str, Any]) -> str:
    """What is wrong with a consent; empty where it keeps the contract."""
    if not isinstance(consent.get("granted"), bool):
        return f"consent: granted is {consent.get('granted')!r}, needed true or false"
    if consent.get("scope") not in SCOPES:
        return f"consent: scope is {consent.get('scope')!r}, needed one of {', '.join(SCOPES)}"
    date = consent.get("date")
    if date is not None:
        try:
            if not isinstance(date, str) or len(date) != 10:
                raise ValueError("needed ten characters")
            datetime.date.fromisoformat(date)
        except ValueError as error:
            return f"consent: date is {date!r}, needed YYYY-MM-DD ({error})"
    return ""


def refusal(consent: Mapping[str, Any], use: str) -> str:
    """Why an utterance with this consent may not train ``use`` ("base" or "personal"); empty where it may.

    What cannot be read counts as withheld.
    """
    problem = consent_problem(consent)
    if problem:
        return f"no consent: {problem}"
    if not consent["granted"]:
        return "no consent: it is withheld"
    if use == "base" and consent["scope"] != "all":
        return f"no consent for the base: its scope is {consent['scope']!r}"
    return ""
