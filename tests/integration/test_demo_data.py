"""The demo cohorts, made again from nothing, are the ones that data.dvc points at."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cohorts.demo import make_demo
from pipeline.settings import load_settings
from pipeline.tracking.lineage import data_md5

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.integration


def test_made_again_they_have_the_md5_in_data_dvc(tmp_path: Path) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    assert make_demo(tmp_path, say=lambda line: None) == ["base-synthetic", "quiet-voices", "far-accents"]
    if set(load_settings(ROOT).cohorts) != {"base-synthetic", "quiet-voices", "far-accents"}:
        pytest.skip("this checkout's data.dvc points at other cohorts as well")
    assert data_md5(tmp_path / "data.dvc") == data_md5(ROOT / "data.dvc")
