"""Recordings converted on Ray's nodes: the same bytes as on this machine's processes, bad ones set aside alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_cohorts import hashes, make_project, make_recordings

from pipeline.cohorts.add import Options, add_cohort
from pipeline.settings import load_settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def test_over_ray_the_cohort_has_the_same_bytes(tmp_path: Path) -> None:
    audio = make_recordings(tmp_path / "audio", ["ann", "bob", "cid"], 50)
    (audio / "ann" / "ann-0007.wav").write_text("not audio")
    made = []
    for name, ray in (("local", False), ("ray", True)):
        project = make_project(tmp_path / name)
        said: list[str] = []
        found = add_cohort(
            project, "team", audio, Options(ray=ray), settings=load_settings(project.root), tell=said.append
        )
        assert found.utterances == 149
        assert ["ann-0007" in problem.item for problem in found.problems] == [True]
        made.append(hashes(project.cohort("team")))
    assert made[0] == made[1]
    assert len([name for name in made[0] if name.startswith("shard-")]) == 3
