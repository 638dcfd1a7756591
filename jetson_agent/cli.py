"""``edgealign-agent``: makes a Jetson a node of the cluster and says what would stop it."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from jetson_agent import cli_learn, cli_rollout, cli_serve, cli_words
from stages.errors import EdgealignError

app = typer.Typer(help="The device side of edgealign.", no_args_is_help=True, add_completion=False)
cli_learn.register(app)
cli_rollout.register(app)
app.command()(cli_serve.serve)
app.add_typer(cli_words.app, name="words", help="Names and other words to listen for.")

Head = Annotated[Optional[str], typer.Option(help="HOST:PORT of the Ray head.")]  # noqa: UP045 - typer reads it
Memory = Annotated[
    Optional[int],  # noqa: UP045 - typer evaluates the annotation on Python 3.10 too
    typer.Option(
        min=500_000_000, help="Memory to offer in bytes (default: three quarters of the device's; --virtual: 6 GB)."
    ),
]
TokenFile = Annotated[
    Optional[Path],  # noqa: UP045 - as above
    typer.Option(help="File with the cluster's token (default: RAY_AUTH_TOKEN_PATH, else ~/.ray/auth_token)."),
]


@app.command()
def join(
    head: Annotated[str, typer.Option(help="HOST:PORT of the Ray head.")],
    virtual: Annotated[bool, typer.Option(help="Say that this node only stands in for a device.")] = False,
    memory_bytes: Memory = None,
    token_file: TokenFile = None,
    pause_above_c: Annotated[
        float, typer.Option(help="Training pauses where the hottest sensor is above this.")
    ] = 85.0,
    resume_below_c: Annotated[float, typer.Option(help="It goes on once that is below this.")] = 75.0,
    drain_s: Annotated[
        float, typer.Option(min=0, help="Time for what runs here when told to leave; 0 leaves at once.")
    ] = 30.0,
) -> None:
    """Join the cluster and stay, joining again after a growing pause when the connection is lost.

    SIGTERM or Ctrl-C leaves: no new work comes, what runs has --drain-s to finish. A second one leaves at once.
    """
    from jetson_agent.budgets import Limits
    from jetson_agent.join import describe_node, supervise, token

    os.environ.update(Limits(pause_above_c, resume_below_c).variables())  # for the node's workers
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    node = describe_node(virtual=virtual, memory_bytes=memory_bytes)
    raise typer.Exit(supervise(node, head, token(token_file), drain_s=drain_s))


@app.command()
def doctor(
    head: Head = None,
    virtual: Annotated[bool, typer.Option(help="As `join --virtual`.")] = False,
    memory_bytes: Memory = None,
    token_file: TokenFile = None,
    mlflow: Annotated[Optional[str], typer.Option(help="Address of the MLflow server.")] = None,  # noqa: UP045 - as above
) -> None:
    """What would stop this device from joining, each with its remedy. Exit status 1 where something would."""
    from jetson_agent.doctor import examine
    from jetson_agent.join import describe_node

    node = describe_node(virtual=virtual, memory_bytes=memory_bytes)
    findings = examine(node, head, token_file, mlflow)
    for finding in findings:
        typer.echo(finding.line())
    typer.echo("would join with: " + json.dumps({"resources": node.resources, "labels": node.labels}))
    raise typer.Exit(0 if all(finding.good for finding in findings) else 1)


def main() -> None:
    """Entry point: an expected error is one message and exit status 1."""
    from jetson_agent.storage import disk_full

    try:
        try:
            app()
        except OSError as error:
            raise disk_full(error) or error from error
    except EdgealignError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
