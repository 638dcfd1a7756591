"""MLflow's own pages over the embedded store, in a browser: what they show is what the store holds.

`edgealign tracking ui` serves them; a person's clicks find runs, compare two, open curves, files and models. With
EDGEALIGN_SHOTS=FOLDER the pages are kept there as pictures, else in pytest's temporary folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers_programs import needs
from tests.helpers_ui import COHORTS, EXPERIMENT, LONGER, Ui, browser, build_project, served

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@dataclass
class Shown:
    """The pages, what the store says, and where pictures go."""

    ui: Ui
    client: Any
    experiment: str
    shots: Path
    log: Path
    pid: int

    def runs(self, query: str = "") -> list[Any]:
        return list(self.client.search_runs([self.experiment], query, max_results=1000))

    def whole(self) -> tuple[Any, Any]:
        """The run of the first `dvc repro`, and that of the experiment after it."""
        first, second = sorted(self.runs("tags.stage = 'repro'"), key=lambda run: run.info.start_time)
        return first, second

    def shoot(self, name: str) -> Path:
        path = self.shots / f"mlflow_{name}.png"
        self.ui.page.screenshot(path=path)
        return path


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    needs("chromium")
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("ui")
    project = build_project(folder / "project")
    with served(project, folder / "ui.log") as (address, pid), browser(address) as ui:
        client = MlflowClient(tracking_uri=address, registry_uri=address)
        experiment = client.get_experiment_by_name("edgealign")
        shots = Path(os.environ.get("EDGEALIGN_SHOTS") or folder)
        yield Shown(ui, client, experiment.experiment_id, shots, folder / "ui.log", pid)
        # nothing of a team's speakers leaves the machine, nor does the page need anything from elsewhere
        assert ui.away == []


def test_the_command_says_where_the_runs_are_and_reports_nothing(shown: Shown) -> None:
    [link] = re.findall(r"MLflow UI: (\S+)", shown.log.read_text())
    shown.ui.page.goto(link)
    shown.ui.page.get_by_text("matching runs").wait_for()
    shown.ui.row(shown.whole()[0].info.run_name).wait_for()
    # MLflow would send how its pages are used to its makers
    assert psutil.Process(shown.pid).environ()["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_whole_runs_unfold_into_their_stages_and_users(shown: Shown) -> None:
    first, second = shown.whole()
    shown.ui.runs(shown.experiment)
    assert shown.ui.names() == [second.info.run_name, first.info.run_name]
    assert EXPERIMENT in second.info.run_name
    assert shown.ui.matching() == f"{len(shown.runs())} matching runs"
    shown.ui.unfold(second.info.run_name)
    below = {run.info.run_name for run in shown.runs(f"tags.mlflow.parentRunId = '{second.info.run_id}'")}
    assert {*below, first.info.run_name, second.info.run_name} == set(shown.ui.names())
    [stage] = shown.runs(
        f"tags.mlflow.parentRunId = '{second.info.run_id}' and tags.stage = 'personalize' and tags.cohort = 'far-accents'"
    )
    shown.ui.unfold(stage.info.run_name)
    users = {run.info.run_name for run in shown.runs(f"tags.mlflow.parentRunId = '{stage.info.run_id}'")}
    assert len(users) == len(COHORTS["far-accents"])
    assert users <= set(shown.ui.names())
    shown.shoot("runs")


def test_a_search_finds_the_runs_of_a_cohort(shown: Shown) -> None:
    query = "tags.cohort = 'quiet-voices' and tags.stage = 'personalize'"
    found = shown.runs(query)
    assert len(found) == 2 * (1 + len(COHORTS["quiet-voices"]))
    shown.ui.runs(shown.experiment, query, flat=True)
    assert shown.ui.matching() == f"{len(found)} matching runs"
    assert sorted(shown.ui.names()) == sorted(run.info.run_name for run in found)
    shown.ui.runs(shown.experiment, f"tags.dvc_experiment = '{EXPERIMENT}' and tags.stage = 'repro'")
    assert shown.ui.names() == [shown.whole()[1].info.run_name]


def test_compare_shows_what_differs_between_two_whole_runs(shown: Shown) -> None:
    first, second = shown.whole()
    shown.ui.runs(shown.experiment)
    shown.ui.compare(second.info.run_name, first.info.run_name)
    pairs = {
        name: [second.data.params[name], first.data.params[name]]
        for name in second.data.params
        if second.data.params[name] != first.data.params[name]
    }
    assert set(pairs) == {f"personalize.{name}" for name in LONGER}
    assert shown.ui.differences("Parameters") == pairs
    figures = shown.ui.differences("Metrics")
    assert {"train_seconds", "quiet-voices.train_seconds"} <= figures.keys()
    assert {"wer", "cer"} & figures.keys()
    for name, values in figures.items():
        wanted = [second.data.metrics[name], first.data.metrics[name]]
        assert [float(value.replace(",", "")) for value in values] == pytest.approx(wanted, abs=0.00051, rel=5e-4), (
            name
        )  # four digits
    shown.shoot("compare")


def test_a_users_run_shows_its_curve_and_its_parents(shown: Shown) -> None:
    query = f"tags.user = 'ann' and tags.stage = 'personalize' and tags.dvc_experiment = '{EXPERIMENT}'"
    [ann] = shown.runs(query)
    shown.ui.runs(shown.experiment, query, flat=True)
    shown.ui.open_run(ann.info.run_name)
    page = shown.ui.page
    parent = shown.client.get_run(ann.data.tags["mlflow.parentRunId"])
    for name in (parent.info.run_name, "edgealign.quiet-voices.ann"):
        page.get_by_role("link", name=name).first.wait_for()
    page.get_by_text(ann.data.tags["adapter_sha256"]).first.wait_for()  # MLflow draws its tags after the links
    text = page.inner_text("body")
    assert f"personalize.steps\n{LONGER['steps']}\n" in text
    shown.ui.tab("Model metrics")
    history = sorted(shown.client.get_metric_history(ann.info.run_id, "loss"), key=lambda point: point.step)
    assert len(history) == LONGER["steps"]
    assert shown.ui.curve("loss") == pytest.approx([point.value for point in history])
    shown.shoot("curve")


def test_the_report_opens_among_a_runs_files(shown: Shown) -> None:
    _, second = shown.whole()
    query = f"tags.mlflow.parentRunId = '{second.info.run_id}' and tags.stage = 'report'"
    [report] = shown.runs(query)
    shown.ui.runs(shown.experiment, query, flat=True)
    shown.ui.open_run(report.info.run_name)
    shown.ui.tab("Artifacts")
    page = shown.ui.page
    shown.ui.artifact("report").click()
    there = {Path(item.path).name for item in shown.client.list_artifacts(report.info.run_id, "report")}
    assert "report.html" in there
    for name in there:
        shown.ui.artifact(name).wait_for()
    shown.ui.artifact("report.html").click()
    frame = page.frame_locator("iframe").first
    frame.get_by_role("heading", name="edgealign report").wait_for()
    table = frame.locator("table").first.inner_text()
    for users in COHORTS.values():
        for user in users:
            assert user in table
    assert f"{report.data.metrics['wer']:.3f}" in table
    # docs/ shows the picture: where the test's store lies is nothing to a reader
    page.get_by_text("Path:", exact=False).first.evaluate("line => line.style.visibility = 'hidden'")
    shown.shoot("artifacts")


def test_models_show_champion_and_challenger(shown: Shown) -> None:
    shown.ui.models()
    rows = shown.ui.page.get_by_role("row").all_inner_texts()[1:]
    models = {model.name: model for model in shown.client.search_registered_models()}
    assert len(models) == sum(map(len, COHORTS.values()))
    assert sorted(row.split()[0] for row in rows) == sorted(models)
    ann = models["edgealign.quiet-voices.ann"]
    aliases = {name: str(version) for name, version in ann.aliases.items()}
    assert (aliases["champion"], aliases["challenger"]) == ("1", "2")
    shown.shoot("models")
    shown.ui.model(ann.name)
    for version in ("1", "2"):
        row = shown.ui.page.get_by_role("row").filter(
            has=shown.ui.page.get_by_role("link", name=f"Version {version}", exact=True)
        )
        text = row.first.inner_text().replace("\xa0", " ")
        bears = {name for name in ("champion", "challenger", "previous") if f"@ {name}" in text}
        assert bears == {name for name, number in aliases.items() if number == version}


def test_pictures_are_not_empty(shown: Shown) -> None:
    """A page that drew nothing would be one colour."""
    from PIL import Image

    for path in sorted(shown.shots.glob("mlflow_*.png")):
        with Image.open(path) as picture:
            assert len(picture.convert("L").getcolors(256) or []) > 30, path
            assert path.stat().st_size < 300_000, path
