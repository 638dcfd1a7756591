"""`edgealign tracking`: look at the runs, send what waits, keep copies, let old ones go."""

from __future__ import annotations

import os
import socket
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from pipeline.tracking.tracker import Tracker

app = typer.Typer(help="Runs recorded in MLflow: view, list, send, back up, prune.", no_args_is_help=True)

SHOWN = 20
"""Runs that `prune` lists; of more it says how many."""

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
    last = tracker.latest(1)
    # straight to the runs: the first page shows what MLflow has for agents
    page = f"/#/experiments/{last[0].info.experiment_id}/runs?workflowType=machine_learning" if last else ""
    port = port or _free_port()
    typer.echo(f"MLflow UI: http://127.0.0.1:{port}{page}   (ready in about ten seconds; Ctrl-C ends it)")
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


@app.command()
def prune(
    keep_days: float | None = typer.Option(None, min=0, help="Keep runs that began within so many days."),
    keep_last: int | None = typer.Option(
        None, min=0, help="Keep the runs of so many newest `dvc repro`, and devices' since."
    ),
    yes: bool = typer.Option(False, "--yes", help="Delete them for good. Without it, only say what would go."),
) -> None:
    """Delete old runs with their files, for good. Says what would go; --yes does it.

    What is kept is tracking.keep_days and tracking.keep_last in params.yaml, or the options. Runs of registered adapters and of
    the bases under them are never deleted, nor what lies above a kept run.
    """
    from pipeline.tracking.prune import apply, plan

    tracker = _tracker()
    days = tracker.settings.keep_days if keep_days is None else keep_days
    last = tracker.settings.keep_last if keep_last is None else keep_last
    found = plan(tracker, days, last)
    for run in found.runs[:SHOWN]:
        started = datetime.fromtimestamp(run.info.start_time / 1000).strftime("%Y-%m-%d %H:%M")
        gone = "  (deleted in the UI already)" if run.info.lifecycle_stage == "deleted" else ""
        typer.echo(f"  {started}  {run.info.run_name}{gone}")
    if len(found.runs) > SHOWN:
        typer.echo(f"  and {len(found.runs) - SHOWN} more")
    size = "" if found.bytes is None else f", {found.bytes / 1e6:,.1f} MB of files"
    kept = "; ".join(f"{count} {reason}" for reason, count in sorted(found.kept.items())) or "none"
    typer.echo(f"{len(found.runs)} run(s){size} {'go' if yes else 'would go'}. Kept: {kept}.")
    if yes:
        left = apply(tracker, found)
        typer.echo(left or "Deleted for good.")
    elif found.runs:
        typer.echo(
            "Nothing was deleted. The same command with --yes does it; `edgealign tracking backup` first keeps a copy."
        )


@app.command()
def backup(
    target: Path = typer.Argument(..., metavar="FILE|FOLDER", help="The file to write, or the folder for it."),
) -> None:
    """Write the embedded store to one tar file, database and files with their hashes; stages may go on meanwhile."""
    from pipeline.tracking.backup import backup as write

    made = write(_tracker(), target)
    typer.echo(f"{made.file}: {made.runs} run(s), {made.files} file(s), {made.bytes / 1e6:,.1f} MB, as of {made.made}")


@app.command()
def restore(
    source: Path = typer.Argument(..., metavar="FILE", exists=True, dir_okay=False, help="What `backup` wrote."),
    replace: bool = typer.Option(False, "--replace", help="Where a store is there: put it aside."),
) -> None:
    """Put a backup in the place of the embedded store, after its hashes were checked. End the UI first."""
    from pipeline.tracking.backup import restore as put_back

    found, aside = put_back(_tracker(), source, replace=replace)
    typer.echo(f"Restored: {found.runs} run(s), {found.files} file(s), as of {found.made}.")
    if aside is not None:
        typer.echo(f"The store that was there is {aside} now; delete it once you do not need it.")
    typer.echo(
        "Whoever was forgotten after the backup was made is in it again: run `edgealign cohort forget` for them."
    )
