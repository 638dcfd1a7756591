"""Tracking: what it costs a stage, and how it bears 10,000 runs: the list of adapters, the UI, loading, lineage.

One small project of synthetic speech goes through `dvc repro` with the settings of params.yaml (the base is trained for two
epochs only); its embedded store is filled with runs and models afterwards. Commands are processes, as a user runs them.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

from benchmarks.record import Figure, at_least, at_most, plain, write_area
from benchmarks.tracking_clock import BESIDE
from benchmarks.tracking_store import fill
from pipeline.project import Project

ROOT = Path(__file__).resolve().parents[1]
RUNS, MODELS = 10_000, 500
TIMES = 5
COHORT = "home"
VOICES = {"ann": "en-us+f2", "bob": "en+m3", "cid": "en-us+m1", "dot": "en-gb-scotland+f4"}
SENTENCES = 14


def run() -> Path:
    """Measure and write docs/benchmarks/tracking.json."""
    folder = Path(tempfile.mkdtemp(prefix="edgealign-bench-"))
    try:
        project = make_project(folder / "project", folder / "recordings")
        figures = [
            *cost_of_stages(project),
            *lineage(project),
            *fresh_process(project, folder),
            *many_runs(project),
            *compare_page(project, folder),
        ]
        return write_area("tracking", figures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_project(root: Path, recordings: Path) -> Project:
    """A project with one cohort that trains the base as well; its stages run under the clock."""
    root.mkdir(parents=True)
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    (root / "dvc.yaml").write_text(text.replace("-m pipeline stage", "-m benchmarks.tracking_clock"), encoding="utf-8")
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params |= {"cohorts": [], "base_cohorts": [], "personal_cohorts": []}
    params["pseudo_labels"]["untold_only"] = []
    params["base"] |= {"epochs": 2, "dev_users": 0.25}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    (root / ".gitignore").write_text("/.edgealign/\n/models/\n/artifacts/\n/plots/\n/data\n", encoding="utf-8")
    project = Project(root)
    _call(project, "git", "init", "--quiet")
    _call(project, sys.executable, "-m", "dvc", "init", "--quiet")
    speak_sentences(recordings)
    edgealign(project, "cohort", "add", COHORT, "--audio", str(recordings), "--base")
    _call(project, "git", "add", "--all")
    _call(project, "git", "-c", "user.name=Benchmark", "-c", "user.email=b@example.org", "commit", "-qm", "A cohort")
    _call(project, sys.executable, "-m", "dvc", "repro")
    return project


def speak_sentences(folder: Path) -> None:
    """Recordings of eSpeak's voices and their CSV."""
    from pipeline.cohorts.grammar import Grammar
    from tests.helpers_checkout import speak

    grammar = Grammar("edgealign tracking benchmark", set())
    speak(folder, VOICES, tuple(grammar.sentence("command").text for _ in range(SENTENCES)))


def cost_of_stages(project: Project) -> list[Figure]:
    """The share of each stage's time that it spent inside tracking's calls."""
    told = [json.loads(path.read_text()) for path in sorted((project.private / "clock").glob("*.json"))]
    beside = sum(one["tracking"].pop(BESIDE, 0.0) for one in told)
    spent = {one["stage"]: (one["seconds"], sum(one["tracking"].values()), one["tracking"]) for one in told}
    note = "seconds that the stage waits for tracking's calls over seconds of its process"
    seconds, inside, parts = spent[f"personalize@{COHORT}"]
    whole = sum(one[0] for one in spent.values())
    figures = [
        at_most(
            "share_of_personalize",
            inside / seconds,
            0.03,
            "",
            note=f"{note}: {inside:.2f} of {seconds:.1f} s, {len(VOICES)} users, of it sending {parts.get('send', 0):.2f} s",
            details={name: round(value, 3) for name, value in parts.items()},
        ),
        at_most(
            "share_of_repro",
            sum(one[1] for one in spent.values()) / whole,
            0.03,
            "",
            note=f"all stages together, {whole:.0f} s, one cohort of {len(VOICES)} users",
        ),
        plain(
            "share_of_repro_beside",
            beside / whole,
            "",
            note=f"{beside:.1f} s in a thread beside the stages' own start: MLflow is imported and the store opened there",
        ),
    ]
    for name, (seconds, inside, _) in spent.items():
        figures.append(plain(f"share_of_{name}", inside / seconds, "", note=f"{inside:.2f} of {seconds:.1f} s"))
    return figures


def lineage(project: Project) -> list[Figure]:
    """For how many adapters `why` tells a complete lineage."""
    began = time.perf_counter()
    told = json.loads(edgealign(project, "adapters", "why", "--all", "--json", status=(0, 1)))
    seconds = time.perf_counter() - began
    share = sum(one["complete"] for one in told) / len(told)
    problems = sorted({problem for one in told for problem in one["problems"]})
    note = f"`edgealign adapters why --all`, {len(told)} adapters, {seconds:.1f} s" + "".join(
        f"; {one}" for one in problems
    )
    return [at_least("why_complete_share", share, 1.0, "", note=note)]


_ANSWER = """
import sys
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
[told] = model.predict([sys.argv[3]], {"reply": True, "max_new_tokens": 32}).to_dict("records")
print(sorted(told))
"""


def fresh_process(project: Project, folder: Path) -> list[Figure]:
    """A process that knows nothing but the registry: import, load an adapter, hear a recording, reply."""
    uri = f"sqlite:///{project.private / 'mlflow' / 'mlflow.db'}"
    recording = str(folder / "recordings" / "ann-00.wav")
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    took = []
    for _ in range(1 + TIMES):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _ANSWER, uri, f"models:/edgealign.{COHORT}.ann@challenger", recording],
            cwd=folder,
            env={**kept, "XDG_CACHE_HOME": str(folder / "cache")},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the registered adapter did not answer: {done.stderr[-2000:]}")
        took.append(time.perf_counter() - began)
    note = "imports, pyfunc.load_model, a recording, up to 32 tokens of reply; " + _spread(took[1:])
    return [
        at_most("fresh_process_answers_seconds", statistics.median(took[1:]), 15.0, "s", note=note),
        plain("fresh_process_first_time_seconds", took[0], "s", note="encoder and LLM are prepared once a machine"),
    ]


def many_runs(project: Project) -> list[Figure]:
    """`edgealign adapters list` beside 10,000 runs of others."""
    before = _listing(project)
    began = time.perf_counter()
    fill(project.private / "mlflow" / "mlflow.db", RUNS, MODELS)
    filled = time.perf_counter() - began
    took = _listing(project)
    beside = f"beside {RUNS} runs and {MODELS} models of others (filled in {filled:.0f} s)"
    return [
        at_most(
            "adapters_list_seconds",
            statistics.median(took),
            2.0,
            "s",
            note=f"{len(VOICES)} adapters {beside}, whole command; {_spread(took)}",
        ),
        plain("adapters_list_seconds_before", statistics.median(before), "s", note="the same in the small store"),
    ]


def _listing(project: Project) -> list[float]:
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        shown = edgealign(project, "adapters", "list")
        took.append(time.perf_counter() - began)
        if not all(f"{COHORT}/{user}" in shown for user in VOICES):
            raise RuntimeError(f"edgealign adapters list: not all users in\n{shown}")
    return took


def compare_page(project: Project, folder: Path) -> list[Figure]:
    """MLflow's pages in chromium: the table of runs, and two of them compared, until the figures are there."""
    from mlflow import MlflowClient
    from tests.helpers_programs import program
    from tests.helpers_ui import browser, served

    if program("chromium") is None:
        note = "chromium is not installed: apt-get install chromium"
        return [Figure("compare_page_seconds", None, "s", "opens", False, note=note)]
    with served(project, folder / "ui.log") as (address, _), browser(address) as ui:
        client = MlflowClient(tracking_uri=address)
        experiment = client.get_experiment_by_name("edgealign").experiment_id
        there = runs_in(project)
        began = time.perf_counter()
        ui.runs(experiment)
        table = time.perf_counter() - began
        began = time.perf_counter()
        first, second, *_ = dict.fromkeys(ui.names())
        ui.compare(first, second)
        shown = ui.differences("Parameters") | ui.differences("Metrics")
        opened = time.perf_counter() - began
        away = len(ui.away)
    note = f"two runs beside {there} selected in the table, Compare clicked, {len(shown)} figures that differ shown"
    return [
        Figure("compare_page_seconds", round(opened, 2), "s", "opens", there > RUNS and bool(shown), note=note),
        plain("runs_page_seconds", table, "s", note=f"the table of runs; {away} requests to other addresses"),
    ]


def runs_in(project: Project) -> int:
    """How many runs the store holds; MLflow's pages load a hundred at a time and count no others."""
    with closing(sqlite3.connect(project.private / "mlflow" / "mlflow.db")) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM runs").fetchone()[0])


def _spread(took: list[float]) -> str:
    return f"median of {len(took)}, {min(took):.2f} to {max(took):.2f} s"


def edgealign(project: Project, *words: str, status: tuple[int, ...] = (0,)) -> str:
    """What an edgealign command prints. Raises RuntimeError where it ends with another status."""
    return _call(project, sys.executable, "-m", "pipeline", *words, status=status)


def _call(project: Project, *command: str, status: tuple[int, ...] = (0,)) -> str:
    environment: dict[str, Any] = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in status:
        raise RuntimeError(
            f"{' '.join(command)}: status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
    return done.stdout
