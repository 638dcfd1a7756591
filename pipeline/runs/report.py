"""The ``report`` stage: ``metrics/summary.json``, tables, figures and a page for people."""

from __future__ import annotations

import json
from typing import Any

from pipeline.cohorts.erasure.tombstones import retrain_notice
from pipeline.runs.common import Context, log
from pipeline.runs.recorded import recorded
from stages.errors import InputError


def run(context: Context) -> None:
    """Summarise the cohorts that params.yaml lists (not whatever files lie about)."""
    from stages.report import write_report

    project = context.project
    with recorded(context, "report") as run:
        cohorts, base = read_results(context)
        summary = write_report(cohorts, base, project.summary, project.plots, context.recordings)
        run.metrics(summary["overall"])
        run.whole({**summary["overall"], **{name: part["all"] for name, part in summary["cohorts"].items()}})
        run.artifact(project.summary, "metrics")
        for path in sorted(project.plots.iterdir()):
            run.artifact(path, "report")
    log.info("report: %s", project.plots / "report.html")
    for line in retrain_notice(project):
        log.warning("report: %s", line)


def read_results(context: Context) -> tuple[dict[str, Any], dict[str, Any]]:
    """Each personal cohort's evaluation, and the base adapter's record. Raises InputError where one is not there."""
    project = context.project
    paths = {cohort: project.evaluation(cohort) for cohort in context.settings.personal_cohorts}
    paths[""] = project.base_adapter / "adapter.json"
    found = {}
    for cohort, path in paths.items():
        try:
            found[cohort] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{path}: not there. Run `dvc repro` (or `make demo`) to make it.") from None
    base = found.pop("")
    return found, base
