"""A benchmark's figures, curves and pictures as a run in the project's MLflow store, beside the runs of its stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.tables import draw
from pipeline.runs.common import Context
from pipeline.runs.recorded import timed_curve


def record_area(path: Path, context: Context) -> None:
    """``path``: docs/benchmarks/<area>.json as ``write_area`` made it, its pictures beside it.

    Figures are metrics by their names, curves are runs below (one a method and seed, WER over seconds of training). A store
    that cannot be reached gets it later (`edgealign tracking replay`).
    """
    area: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    asked = [figure for figure in area["figures"] if figure["asked"]]
    with context.tracker.run(f"bench {area['area']}", tags={"command": area["command"]}) as run:
        run.params({"machine": area["machine"], "versions": area["versions"], "date": area["date"]})
        run.metrics({figure["name"]: figure["value"] for figure in area["figures"]})
        run.metrics({"figures_asked": len(asked), "figures_met": sum(figure["met"] is True for figure in asked)})
        run.artifact(path)
        for name, _ in draw(area):
            run.artifact(path.parent / name, "pictures")
        for name, points in _curves(area["plots"]).items():
            with run.child(name, method=name.split(",")[0]) as child:
                timed_curve(child, "wer", [(step, seconds, wer) for step, (seconds, wer) in enumerate(points, 1)])


def _curves(plots: dict[str, Any]) -> dict[str, list[list[float]]]:
    """WER over seconds, by method and seed."""
    return dict((plots.get("methods_quality") or {}).get("curves") or {})
