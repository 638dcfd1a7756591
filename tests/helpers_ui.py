"""A project as a team has it after some days, and MLflow's own UI in a browser without a network.

Two cohorts of two users; two runs of the whole pipeline with different settings, the second one an experiment; the first
one's adapters of one cohort promoted. What the pages show is compared with the store by the tests.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from pipeline.owner import Owner, owner
from pipeline.project import Project
from tests.helpers_adapters import FAIR, Away, build, compute, context_of, set_params
from tests.helpers_programs import program

ROOT = Path(__file__).resolve().parents[1]
COHORTS = {"quiet-voices": {"ann": 1.5, "bob": 1.5}, "far-accents": {"cid": 1.5, "dot": 0.0}}
EXPERIMENT = "longer"
LONGER = {"steps": 8, "learning_rate": 2e-3}

SETTLED = {
    "mlflow.workflowType": "machine_learning",  # else the page begins with what it has for agents
    "mlflow.settings.telemetry.enabled": False,
    "mlflow.telemetry.info.alert.dismissed": True,
    "mlflow.assistant.panelOpen": False,
    "mlflow.assistant.fab.autoOpenedOnFirstLoad": True,
    "_mlflow_model_registry_promo_modal_dismissed": True,
}
"""What a person has clicked away on the first day, as MLflow's pages keep it in the browser."""


@contextmanager
def _whole_run(number: int, experiment: str = "") -> Iterator[None]:
    """What is recorded inside belongs to one `dvc repro`, or to one `dvc exp run`."""
    here = owner()
    command = f"dvc exp run --name {experiment}" if experiment else "dvc repro"
    found = Owner(here.pid, time.time(), command, f"{here.key}-{number}", dvc=True)
    with mock.patch("pipeline.tracking.tracker.owner", lambda: found), mock.patch.dict(os.environ):
        if experiment:
            os.environ["DVC_EXP_NAME"] = experiment
        yield


def build_project(folder: Path) -> Project:
    """The project; the runs of its experiment wait in the spool."""
    from pipeline.runs import report

    with _whole_run(1):
        project = build(folder, COHORTS)
        report.run(context_of(project, Away()))
    promoted = edgealign(project, "adapters", "promote", "--all", "quiet-voices")
    assert promoted.returncode == 0, promoted.stdout + promoted.stderr
    set_params(project, personalize={**FAIR, **LONGER})
    with _whole_run(2, EXPERIMENT):
        compute(project)
        report.run(context_of(project, Away()))
    return project


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def edgealign(project: Project, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *words],
        cwd=project.root,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@contextmanager
def served(project: Project, log: Path) -> Iterator[tuple[str, int]]:
    """`edgealign tracking ui` as a person starts it: the address that it serves, and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "tracking", "ui", "--port", str(port)],
            cwd=project.root,
            env=_environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        for _ in range(360):
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=2):
                    break
            except OSError:
                assert process.poll() is None, log.read_text()[-2000:]
                time.sleep(0.5)
        else:
            raise AssertionError(log.read_text()[-2000:])
        yield address, process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


@dataclass
class Ui:
    """MLflow's pages in one tab; what they asked of other addresses is refused and kept in ``away``."""

    address: str
    page: Any
    away: list[str] = field(default_factory=list)

    def runs(self, experiment: str, query: str = "", flat: bool = False) -> None:
        """The table of runs, of those that ``query`` finds. MLflow shows a tree, unless sorted by something but the time."""
        if self.page.url.startswith(self.address):
            self.page.evaluate("localStorage.clear()")  # which runs are unfolded
            self.page.goto("about:blank")  # the same address with another fragment would not be loaded anew
        sort = "metrics.`train_seconds`" if flat else "attributes.start_time"
        self.page.goto(f"{self.address}/#/experiments/{experiment}/runs?orderByKey={sort}&orderByAsc=false")
        self.page.get_by_text("matching runs").wait_for()
        if query:
            before = self.matching()
            box = self.page.get_by_placeholder(re.compile("metrics.rmse"))
            box.fill(query)
            box.press("Enter")
            # the count follows the answer; a query that every run answers leaves it
            self.page.wait_for_function("before => !document.body.innerText.includes(before)", arg=before)
        self.page.locator(".ag-row").first.wait_for()

    def matching(self) -> str:
        """The line below the table, "28 matching runs"."""
        return str(self.page.get_by_text("matching runs").first.inner_text())

    def names(self) -> list[str]:
        """Names of the runs in the table, from the top; the full ones, also where the column is too narrow."""
        links = self.page.locator(".ag-row a[href*='/runs/']")
        return [str(name).strip() for name in links.all_inner_texts()]

    def row(self, name: str) -> Any:
        return self.page.get_by_role("row").filter(has=self.page.get_by_role("link", name=name, exact=True)).first

    def unfold(self, name: str) -> None:
        """Show the runs below a run."""
        before = len(self.names())
        self.row(name).locator("button").first.click()
        self.page.wait_for_function(
            "n => document.querySelectorAll(\".ag-row a[href*='/runs/']\").length > n", arg=before
        )

    def compare(self, *names: str) -> None:
        """Select runs of the table and click Compare."""
        for name in names:
            self.row(name).get_by_role("checkbox").first.click()
        self.page.get_by_role("button", name="Compare").click()
        self.page.get_by_role("heading", name=f"Comparing {len(names)} Runs").wait_for()

    def differences(self, title: str) -> dict[str, list[str]]:
        """What the page that compares shows as different below a title: {name: one value a run}."""
        switch = self.page.get_by_role("switch", name=f"{title} - Show diff only")
        if switch.get_attribute("aria-checked") == "false":
            switch.click()
        part = self.page.locator(".du-bois-light-collapse-item").filter(has=switch).last
        rows = part.locator("tr").all_inner_texts()
        if rows:
            cells = [[cell.strip() for cell in row.split("\t")] for row in rows]
            return {first: rest for first, *rest in cells}
        # metrics are no table: all names first, then the values a line
        text = part.inner_text().split("Show diff only", 1)[1]
        told = [line.strip() for line in text.splitlines() if line.strip()]
        count = len(told) // 3
        names, values = told[:count], told[count:]
        return {name: values[2 * place : 2 * place + 2] for place, name in enumerate(names)}

    def open_run(self, name: str) -> None:
        self.page.get_by_role("link", name=name, exact=True).first.click()
        self.page.get_by_role("tab", name="Overview").wait_for()

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def curve(self, name: str) -> list[float]:
        """The values that a chart of a run's metrics draws."""
        self.page.get_by_text(name, exact=True).first.scroll_into_view_if_needed()
        self.page.wait_for_function(_CURVE, arg=name)
        return [float(value) for value in self.page.evaluate(_CURVE, name)]

    def artifact(self, name: str) -> Any:
        """A folder or file in the tree of a run's artifacts."""
        return self.page.locator("[data-radium]").get_by_text(name, exact=True).first

    def models(self) -> None:
        self.page.goto(f"{self.address}/#/models")
        self.page.get_by_role("heading", name="Registered Models").wait_for()
        self.page.get_by_role("link", name=re.compile("^Version ")).first.wait_for()

    def model(self, name: str) -> None:
        self.page.get_by_role("link", name=name, exact=True).first.click()
        self.page.get_by_role("heading", name=name).wait_for()
        self.page.get_by_role("link", name="Version 1", exact=True).first.wait_for()

    def quiet(self) -> None:
        """Without the button of the assistant, which floats over the page."""
        self.page.add_style_tag(content="[data-component-id*='assistant.fab'] { visibility: hidden }")


_CURVE = """name => {
  for (const plot of document.querySelectorAll('.js-plotly-plot')) {
    const card = plot.closest('[data-testid="experiment-view-compare-runs-card"]') || plot.parentElement.parentElement;
    if (!card || !card.parentElement.innerText.split('\\n').includes(name)) continue;
    const line = (plot.data || []).find(one => one.y && one.y.length > 1);
    if (line) return Array.from(line.y);
  }
  return null;
}"""


@contextmanager
def browser(address: str, width: int = 1400, height: int = 850) -> Iterator[Ui]:
    """Debian's chromium, with the pages at ``address`` as the only ones there are."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(program("chromium")), args=["--no-sandbox"])
        try:
            context = chromium.new_context(viewport={"width": width, "height": height})
            context.set_default_timeout(60_000)
            kept = {f"{key}_v1": json.dumps(value) for key, value in SETTLED.items()}
            context.add_init_script(
                f"for (const [key, value] of Object.entries({json.dumps(kept)})) localStorage.setItem(key, value)"
            )
            ui = Ui(address, context.new_page())

            def answer(route: Any) -> None:
                if route.request.url.startswith((f"{address}/", "data:", "blob:")):
                    route.continue_()
                else:
                    ui.away.append(route.request.url)
                    route.abort()

            context.route("**/*", answer)
            yield ui
        finally:
            chromium.close()
