"""Recordings of real people through every stage."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from tests.helpers_checkout import ROOT, Checkout

AN4 = Path(os.environ.get("EDGEALIGN_AN4") or ROOT.parent / "shared" / "data" / "an4")

pytestmark = [pytest.mark.integration, pytest.mark.models, pytest.mark.timeout(1500)]


@pytest.mark.an4
@pytest.mark.skipif(not (AN4 / "transcripts.csv").is_file(), reason=f"AN4 is not in {AN4}; set EDGEALIGN_AN4")
def test_an4_goes_in_and_through_every_stage(tmp_path: Path) -> None:
    """Five people of AN4: four train the base and all five are personalised."""
    project = Checkout(tmp_path / "project")
    with (AN4 / "transcripts.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    users = sorted({row["user"] for row in rows})[:5]
    table = tmp_path / "transcripts.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("file", "user", "text"))
        writer.writeheader()
        writer.writerows({**row, "file": row["file"].removeprefix("audio/")} for row in rows if row["user"] in users)
    audio = str(AN4 / "audio")
    project.edgealign("cohort", "add", "an4", "--audio", audio, "--transcripts", str(table), "--base")
    project.repro()
    summary = project.summary()
    assert sorted(summary["cohorts"]["an4"]["users"]) == users
    # the cohort trains the base as well: of each person as many judge as train the adapter, and the base learned none of them
    assert summary["overall"]["test_utterances"] == 5 * 4
    adapters = project.folder / "artifacts" / "adapters"
    trained = json.loads((adapters / "base" / "adapter.json").read_text(encoding="utf-8"))["train_utterances"]
    for user in users:
        record = json.loads((adapters / "an4" / user / "adapter.json").read_text(encoding="utf-8"))
        assert len(record["held_out_utterances"]) == 4 and not {*record["held_out_utterances"]} & {*trained}
    assert 0.0 <= summary["overall"]["cascade_wer"] < 1.5
