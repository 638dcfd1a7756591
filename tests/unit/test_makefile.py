"""``make clean`` takes what runs make again, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.cohorts.erasure.private import EVERYONES_WORDS
from pipeline.cohorts.erasure.survey import STATE, TRACKED
from pipeline.cohorts.store import RETIRED

ROOT = Path(__file__).resolve().parents[2]

STAYS = [
    "data/cohorts/team/shard-00000.tar",
    ".dvc/cache/files/md5/ab/c",
    ".venv/bin/python",
    *(f".edgealign/{name}/mlflow.db" for name in (*TRACKED, "mlflow-replaced-20261129T120000")),
    ".edgealign/spool/1/record.json",
    ".edgealign/" + "/".join(EVERYONES_WORDS),
    f".edgealign/{STATE}/0123.json",
    ".edgealign/quarantine/home.csv",
    ".edgealign/added/home",
    ".edgealign/incoming/home.lock",
    f".edgealign/incoming/team/{RETIRED}/shard-00000.tar",
]

GOES = [
    "artifacts/adapters/base/adapter.safetensors",
    "metrics/summary.json",
    "plots/report.html",
    "dvc_plots/index.html",
    "models/llm/identity.json",
    ".edgealign/checkpoints/base-0123.safetensors",
    ".edgealign/check/home.html",
    ".edgealign/examples/1.flac",
    ".edgealign/.figures-x/curve.png",
    ".edgealign/incoming/team/chunks/0123/00000.tar",
    ".edgealign/incoming/team/final/shard-00000.tar",
]


@pytest.mark.parametrize("names", [[*STAYS, *GOES], []], ids=["after a run", "before any"])
def test_clean_keeps_what_no_run_makes_again(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left - {"Makefile", "requirements.lock"} == set(names) & set(STAYS)
