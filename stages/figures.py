"""Which figures a report and a stage's run have. Matplotlib is imported with this module, by those who draw."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.plots import draw_base_curve, draw_personal_curves, draw_wer_by_user
from stages.plots_adapter import draw_mask_density, draw_posteriors
from stages.plots_words import draw_confusions, draw_length_error
from stages.reading import read_rows

Drawn = dict[str, Path]
"""{what a figure shows to be the case: its PNG}."""


def draw_all(
    cohorts: Mapping[str, Mapping[str, Any]], base: Mapping[str, Any], summary: Mapping[str, Any], folder: Path
) -> Drawn:
    """Draw every figure that there is data for; maps each finding to its PNG in ``folder``."""
    curves = (
        (draw_base_curve(base, folder / "base_curve.png"), folder / "base_curve.png"),
        (draw_personal_curves(cohorts, folder / "personal_curves.png"), folder / "personal_curves.png"),
    )
    return draw_judged(cohorts, summary, folder) | {finding: path for finding, path in curves if finding}


def draw_judged(cohorts: Mapping[str, Mapping[str, Any]], summary: Mapping[str, Any], folder: Path) -> Drawn:
    """The figures that evaluate has the data for; as ``draw_all``."""
    rows = read_rows(cohorts)
    drawn = (
        (draw_wer_by_user(summary, folder / "wer_by_user.png"), folder / "wer_by_user.png"),
        (draw_confusions(rows, folder / "confusion.png"), folder / "confusion.png"),
        (draw_length_error(rows, folder / "length_error.png"), folder / "length_error.png"),
        (draw_mask_density(cohorts, folder / "layers.png"), folder / "layers.png"),
        (_draw_first_over_time(cohorts, folder / "posteriors.png"), folder / "posteriors.png"),
    )
    return {finding: path for finding, path in drawn if finding}


def _draw_first_over_time(cohorts: Mapping[str, Mapping[str, Any]], path: Path) -> str | None:
    """One user's read-out over time, as a picture to show; the pages have one for each user."""
    for cohort in sorted(cohorts):
        for user, entry in sorted((cohorts[cohort].get("users") or {}).items()):
            if entry.get("posteriors"):
                return draw_posteriors(entry["posteriors"], path, f"{user} ({cohort})")
    return None
