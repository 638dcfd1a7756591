"""A small project of its own folder, run by DVC with this checkout's code, and what its places say of the same figures."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]

SENTENCES = (
    "turn on the kitchen light",
    "set a timer for ten minutes",
    "four one two seven",
    "what is the weather today",
    "j o h n s o n",
    "enter f six three",
    "call my sister now",
    "september fourteenth",
    "stop",
    "play some music",
    "erase q e j",
    "nineteen eighty two",
)


class Checkout:
    """A project folder outside the checkout, with this checkout's code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        shutil.copy(ROOT / "dvc.yaml", folder)
        params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        params |= {"cohorts": [], "base_cohorts": [], "personal_cohorts": []}
        params["pseudo_labels"]["untold_only"] = []
        params["pseudo_labels"]["beam_size"] = 1
        params["base"] |= {"epochs": 2, "dev_users": 0.2}
        params["alignment"] |= {"width": 128, "layers": 1}
        params["personalize"] |= {"steps": 5, "train_utterances": 4}
        params["evaluate"] |= {"llm_utterances": 1, "max_new_tokens": 8}
        (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
        (folder / ".gitignore").write_text(".edgealign/\n", encoding="utf-8")
        self.run("git", "init", "--quiet")
        self.run(sys.executable, "-m", "dvc", "init", "--quiet")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=1200, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{command}: status {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}")
        return done

    def edgealign(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "pipeline", *arguments, check=check)

    def repro(self) -> list[str]:
        """`dvc repro`; the names of the stages that ran. What they said is in ``said``."""
        done = self.run(sys.executable, "-m", "dvc", "repro")
        self.said = done.stdout + done.stderr
        return re.findall(r"^Running stage '([^']+)'", done.stdout, re.MULTILINE)

    def commit(self) -> None:
        """A commit of what is staged."""
        self.run("git", "-c", "user.name=Test", "-c", "user.email=test@example.org", "commit", "--quiet", "-m", "all")

    def json(self, path: str) -> dict:
        return json.loads((self.folder / path).read_text(encoding="utf-8"))

    def summary(self) -> dict:
        """What `edgealign show` prints: the figures of every user."""
        from pipeline.runs.common import Context
        from pipeline.runs.report import read_results
        from stages.report import summarise

        return summarise(*read_results(Context.open(self.folder)))


def speak(folder: Path, voices: dict[str, str], sentences: tuple[str, ...]) -> Path:
    """Recordings of voices as WAV files and their CSV."""
    import soundfile

    from pipeline.cohorts.espeak import Speaker, Voice

    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    speaker = Speaker()
    for user, voice in voices.items():
        speaker.use(Voice(voice, 160))
        for place, sentence in enumerate(sentences):
            name = f"{user}-{place:02d}.wav"
            soundfile.write(folder / name, speaker.speak(f"<speak>{sentence}</speak>"), speaker.rate_hz)
            rows.append((name, user, sentence))
    with (folder / "transcripts.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("file", "user", "text"), *rows])
    return folder / "transcripts.csv"


def runs_of(project: Checkout, query: str) -> list[Any]:
    """Runs of the project's store that MLflow's search language finds."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{project.folder}/.edgealign/mlflow/mlflow.db")
    [experiment] = client.search_experiments(filter_string="name = 'edgealign'")
    return list(client.search_runs([experiment.experiment_id], query, max_results=500))


def numbers(values: dict) -> dict[str, float]:
    """The known figures of one level."""
    return {name: value for name, value in values.items() if isinstance(value, (int, float))}


def known(values: dict) -> dict:
    """Without what is unknown: `dvc metrics` and MLflow leave that out."""
    found = {name: known(value) if isinstance(value, dict) else value for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}


def check_that_all_tell_the_same(project: Checkout, whole: Any) -> None:
    """``metrics/``, `dvc metrics show` and the run of a whole repro (with what is below it) agree in every figure."""
    summary = project.json("metrics/summary.json")
    shown = json.loads(project.run(sys.executable, "-m", "dvc", "metrics", "show", "--json").stdout)
    [there] = shown.values()
    assert there["data"]["metrics/summary.json"]["data"] == known(summary)
    overall = numbers(summary["overall"])
    wanted = "wer cer cascade_wer train_seconds utterances trainable_parameters adapter_bytes peak_rss_bytes"
    assert {*wanted.split(), "bytes_exchanged"} <= overall.keys()
    of_cohorts = {
        f"{cohort}.{name}": value
        for cohort, part in summary["cohorts"].items()
        for name, value in numbers(part["all"]).items()
    }
    assert whole.data.metrics == {**overall, **of_cohorts}
    [report] = runs_of(project, f"tags.mlflow.parentRunId = '{whole.info.run_id}' and tags.stage = 'report'")
    assert overall.items() <= report.data.metrics.items()
    users = project.summary()["cohorts"]
    for cohort in summary["cohorts"]:
        figures = project.json(f"metrics/{cohort}.json")
        assert there["data"][f"metrics/{cohort}.json"]["data"] == known(figures)
        together = summary["cohorts"][cohort]["all"]
        assert {name: together.get(name, value) for name, value in figures["all"].items()} == figures["all"]
        below = (
            f"tags.mlflow.parentRunId = '{whole.info.run_id}' and tags.stage = 'evaluate' and tags.cohort = '{cohort}'"
        )
        [stage] = runs_of(project, below)
        assert numbers(figures["all"]).items() <= stage.data.metrics.items()
        judged = runs_of(project, f"tags.mlflow.parentRunId = '{stage.info.run_id}'")
        assert {run.data.tags["user"] for run in judged} == set(users[cohort]["users"])
        for run in judged:
            told = numbers(users[cohort]["users"][run.data.tags["user"]])
            assert told == {name: run.data.metrics.get(name) for name in told}, run.info.run_name
