"""Settings of a project that has no cohorts, for tests of Ray alone."""

from __future__ import annotations

from pipeline.settings import RaySettings, Settings


def settings_for(address: str = "") -> Settings:
    """``address``: a cluster's head; empty: the embedded session."""
    return Settings(cohorts=[], base_cohorts=[], personal_cohorts=[], ray=RaySettings(address=address))
