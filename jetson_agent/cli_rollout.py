"""``edgealign-agent pull | push``: follow the registry, and tell it what happened here."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from jetson_agent.cli_learn import HomeFolder

Server = Annotated[
    Optional[str],  # noqa: UP045 - typer evaluates the annotation on Python 3.10 too
    typer.Option(help="Address of the MLflow server (default: `server` in rollout.json)."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (pull, push):
        app.command()(command)


def pull(
    server: Server = None,
    alias: Annotated[
        Optional[str],  # noqa: UP045 - as above
        typer.Option(help="The alias to follow (default: `alias` in rollout.json, else champion)."),
    ] = None,
    again: Annotated[bool, typer.Option(help="Try a version, too, that this device refused or left before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    home: HomeFolder = None,
) -> None:
    """Bring the adapter to what the registry's alias names: checked, judged here, no worse than what is in use.

    Tells what waits in the outbox first. Ends with status 1 where the version was refused; what is in use stays then.
    """
    from jetson_agent.home import Home
    from jetson_agent.rollout import pull as apply

    found = Home.open(home)
    if not apply(found, found.following(server, alias), typer.echo, dry_run=dry_run, again=again):
        raise typer.Exit(1)


def push(
    server: Server = None,
    again: Annotated[bool, typer.Option(help="Send again what the registry refused.")] = False,
    home: HomeFolder = None,
) -> None:
    """Tell the registry what happened on this device: figures, adapters learned here, verdicts; never texts or recordings.

    In order, each once, however often it is cut off. Ends with status 1 where something could not be told; it waits on.
    """
    from jetson_agent.home import Home
    from jetson_agent.rollout import push as apply

    found = Home.open(home)
    for outbox in found.outboxes() if again else ():
        outbox.readmit()
    sent = apply(found, found.following(server))
    told = f"told the registry {sent.told} thing(s); {sent.waiting} wait, {sent.aside} it refused"
    typer.echo(f"{told}{f': {sent.problem}' if sent.problem else ''}")
    if sent.problem or sent.aside:
        raise typer.Exit(1)
