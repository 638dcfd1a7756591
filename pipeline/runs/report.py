"""The ``report`` stage: ``metrics/summary.json``, tables, figures and a page for people."""

from __future__ import annotations

import json

from pipeline.runs.common import Context, log


def run(context: Context) -> None:
    """Summarise the cohorts that params.yaml lists (not whatever files lie about)."""
    from stages.report import write_report

    project = context.project
    cohorts = {
        cohort: json.loads(project.evaluation(cohort).read_text(encoding="utf-8"))
        for cohort in context.settings.personal_cohorts
    }
    base = json.loads((project.base_adapter / "adapter.json").read_text(encoding="utf-8"))
    with context.tracker.run("report") as run:
        summary = write_report(cohorts, base, project.summary, project.plots)
        run.metrics({name: value for name, value in summary["overall"].items() if isinstance(value, (int, float))})
        run.artifact(project.summary, "metrics")
        for path in sorted(project.plots.iterdir()):
            run.artifact(path, "report")
    log.info("report: %s", project.plots / "report.html")
