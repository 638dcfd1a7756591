"""The whole pipeline: `make demo` in a fresh clone, `dvc repro` with nothing to do, and the largest worker."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.corpora import ROOT
from benchmarks.record import Figure, at_most, plain, write_area
from pipeline.project import Project


def run() -> Path:
    """Measure and write docs/benchmarks/pipeline.json."""
    with tempfile.TemporaryDirectory(prefix="edgealign-demo-") as scratch:
        clone = Path(scratch) / "edgealign"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        first = _timed(clone, [sys.executable, "-m", "pipeline", "demo"])
        second = _timed(clone, [sys.executable, "-m", "pipeline", "demo"])
        nothing = _timed(clone, [sys.executable, "-m", "dvc", "repro", "--quiet"])
        peak, largest, stages = _workers(Project(clone))
    note = "a fresh clone with the environment there: demo cohorts, every stage, report"
    return write_area(
        "pipeline",
        [
            at_most("demo_minutes", first / 60, 15.0, "min", note=note),
            plain("demo_again_seconds", second, "s", note="everything is there"),
            at_most("repro_nothing_to_do_seconds", nothing, 10.0, "s"),
            at_most("peak_worker_rss_gb", peak / 1e9, 3.0, "GB", note=f"largest worker: {largest}"),
            *stages,
        ],
    )


def _timed(folder: Path, command: list[str]) -> float:
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True)
    return time.perf_counter() - start


def _workers(project: Project) -> tuple[float, str, list[Figure]]:
    """The largest resident memory that any run recorded, whose it was, and how long each stage took."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{project.private / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("edgealign")
    if experiment is None:
        raise RuntimeError("the demo left no experiment in its MLflow store")
    runs = client.search_runs([experiment.experiment_id], max_results=5000)
    measured = [(run.data.metrics.get("peak_rss_bytes", 0.0), run.info.run_name or "") for run in runs]
    peak, largest = max(measured)
    spent: dict[str, float] = {}
    for run in runs:
        stage, user = run.data.tags.get("stage", ""), run.data.tags.get("user")
        if not user and stage != "repro" and run.info.end_time:
            spent[stage] = spent.get(stage, 0.0) + (run.info.end_time - run.info.start_time) / 1000
    return peak, largest, [plain(f"stage_seconds_{name}", value, "s") for name, value in sorted(spent.items())]
