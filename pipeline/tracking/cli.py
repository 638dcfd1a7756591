"""`edgealign tracking`: look at the runs, send what waits."""

from __future__ import annotations

import os
import socket
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from pipeline.tracking.tracker import Tracker

app = typer.Typer(help="Runs recorded in MLflow: view them, list them, send those that wait.", no_args_is_help=True)

MAIN_METRICS = ("wer", "dev_wer", "base_wer", "utterances", "accepted")
"""What `runs` shows of a run: the first of these that it has."""


def _tracker() -> Tracker:
    from pipeline.project import Project
    from pipeline.settings import load_settings
    from pipeline.tracking.tracker import Tracker

    project = Project.find()
    return Tracker(project, load_settings(project.root).tracking)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@app.command()
def ui(
    port: int = typer.Option(0, min=0, max=65535, help="Port on loopback; 0 takes a free one."),
) -> None:
    """Show the runs in MLflow's own UI. With a server configured, say where it is; else serve the embedded store."""
    from pipeline.tracking.store import PATIENCE, redacted

    tracker = _tracker()
    if tracker.settings.uri.startswith(("http://", "https://")):
        typer.echo(f"The runs are on the server {redacted(tracker.uri)}: open it in a browser.")
        return
    artifacts = tracker.prepare()
    tracker.send()
    port = port or _free_port()
    typer.echo(f"MLflow UI: http://127.0.0.1:{port}   (ready in about ten seconds; Ctrl-C ends it)")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", tracker.uri]
    if artifacts is not None:
        command += ["--default-artifact-root", artifacts.as_uri()]
    # in place of this process: Ctrl-C and signals reach the server itself
    environment = {**os.environ, **PATIENCE, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    os.chdir(tracker.project.private)
    os.execve(sys.executable, command, environment)


@app.command()
def replay(
    refused: bool = typer.Option(False, help="Also those that were refused before and put aside."),
) -> None:
    """Send the runs that wait in the spool. Ends with status 1 where one still waits or was refused."""
    tracker = _tracker()
    if refused:
        tracker.spool.readmit()
    done = tracker.send()
    typer.echo(f"{done.sent} run(s) sent, {done.waiting} still waiting, {done.refused} refused.")
    if done.waiting or done.refused:
        raise typer.Exit(1)


@app.command()
def runs(
    count: int = typer.Option(20, "--count", "-n", min=1, max=1000, help="How many, newest first."),
) -> None:
    """List the last runs."""
    found = _tracker().latest(count)
    table = Table(box=None)
    for name in ("started", "stage", "cohort", "user", "device", "status", "main metric"):
        table.add_column(name, no_wrap=name not in ("cohort", "user", "device"), overflow="fold")
    for run in found:
        table.add_row(*_row(run))
    Console().print(table if found else "No runs yet. `dvc repro` makes some.")


def _row(run: Any) -> list[str]:
    tags, metrics = run.data.tags, run.data.metrics
    device = " ".join(tags[key] for key in ("device", "device_kind") if key in tags)
    main = next((f"{name} {metrics[name]:.4g}" for name in MAIN_METRICS if name in metrics), "")
    started = datetime.fromtimestamp(run.info.start_time / 1000).strftime("%m-%d %H:%M")
    place = [escape(tags.get(key, "")) for key in ("stage", "cohort", "user")]
    return [started, *place, escape(device), run.info.status, main]
