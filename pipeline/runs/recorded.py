"""The run of a stage, with what every stage's run holds: settings, inputs with their md5, load of the machine."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pipeline.cluster.work import Result
from pipeline.runs.common import Context
from pipeline.runs.inputs import inputs_of
from pipeline.system_metrics import SystemMetrics
from pipeline.tracking.tracker import Run
from stages.flat import finite, flatten

log = logging.getLogger("edgealign.tracking")

ON_RAY = ("features", "pseudo_labels", "base", "second_labels", "personalize", "evaluate")
NOT_A_RESULT = ("workers",)
"""Settings that no DVC stage lists, because results do not depend on them; a run tells them all the same."""


@contextmanager
def recorded(context: Context, stage: str, cohort: str = "", method: str | None = None) -> Iterator[Run]:
    """The run of ``stage``. Open it before the stage looks at its inputs: one that is refused leaves a FAILED run, too."""
    with context.tracker.run(stage, cohort=cohort or None, method=method) as run:
        run.params(settings_read(context, stage))
        try:
            for item in inputs_of(context.project, context.settings, stage, cohort):
                run.dataset(item.path, item.md5, item.path, context=stage)
                run.tags({f"dvc_md5.{item.path}": item.md5})
        except OSError as error:  # a file that cannot be read is the stage's to tell
            log.warning("tracking: the run of %s goes without its inputs: %s", stage, error)
        load = SystemMetrics().start()
        try:
            yield run
        finally:
            run.record.metrics += load.stop()


@contextmanager
def figures_of(context: Context, run: Run) -> Iterator[Path]:
    """A folder to draw in, gone afterwards. What cannot be drawn costs the run its figures, never the stage its results."""
    context.project.private.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=context.project.private, prefix=".figures-") as folder:
        try:
            yield Path(folder)
        except Exception as error:
            log.warning("tracking: the run %s goes without some figures: %s", run.record.name, error)
            run.tags({"missing.figures": f"{type(error).__name__}: {error}"})


def timed_curve(run: Run, name: str, points: Iterable[tuple[int, float, float | None]]) -> None:
    """A figure over (step, seconds of training, value); MLflow's axis of relative time then shows these seconds."""
    for step, seconds, value in points:
        number = finite(value)
        if number is not None:
            run.record.metrics.append((name, number, run.record.start_ms + int(seconds * 1000), int(step)))


def tell_load(run: Run, result: Result, *, figures: bool = True) -> None:
    """What the device told of itself during one task: samples as system metrics, energy and peak temperature as figures."""
    load = result.load
    if load is None:
        return
    earlier = {name: step + 1 for name, _, _, step in run.record.metrics if name.startswith("system/device_")}
    run.record.metrics += [(name, value, at, step + earlier.get(name, 0)) for name, value, at, step in load.samples]
    if figures:
        told = {"energy_joules": load.energy_j, "hottest_celsius": load.hottest_c, "paused_seconds": load.paused_s}
        run.metrics({name: value for name, value in told.items() if value is not None})
        run.tags({"power_mode": load.power_mode} if load.power_mode else {})


def settings_read(context: Context, stage: str) -> dict[str, Any]:
    """Every setting that the stage reads, by its name in params.yaml: what dvc.yaml lists, Ray's, and what no result shows."""
    try:
        described = yaml.safe_load((context.project.root / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
        names = [name for name in described.get("params") or [] if isinstance(name, str)]
    except (OSError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        names = []  # a project that runs the stage without DVC: the stage tells its own
    everything = flatten(context.settings.model_dump())
    names += ["ray"] if stage in ON_RAY else []
    names += [f"{stage}.{name}" for name in NOT_A_RESULT if f"{stage}.{name}" in everything]
    return {
        name: value
        for name, value in everything.items()
        if any(name == wanted or name.startswith(f"{wanted}.") for wanted in names)
    }
