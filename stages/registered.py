"""What registered adapters are called, and the tags that head and devices both read. Strings alone: no registry is asked."""

from __future__ import annotations

import re

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"

RECORD_TAG = "edgealign.record"
"""Tag of a run that makes sending repeatable: set as the run is created, looked for before another is."""

WITHDRAWN = "withdrawn"
"""Tag that a rollback leaves on the version that was champion: when, and why."""

RETRAIN = "retrain"
"""Tag that an erasure leaves on versions of adapters that learned from the person."""

PERSONAL_TEXT = "Personal speech adapter of one user; see docs/compare.md."


def model_prefix(experiment: str) -> str:
    """First part of the names of registered models, without what names and queries cannot hold."""
    return re.sub(r"[/:'%]", "-", experiment)


def model_name(experiment: str, cohort: str | None, user: str | None) -> str:
    """Name of a user's registered model, or the base's. Slugs hold no dots, so no two users share one."""
    return ".".join([model_prefix(experiment), *([cohort, user or ""] if cohort else ["base"])])
