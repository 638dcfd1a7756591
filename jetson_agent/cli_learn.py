"""``edgealign-agent setup | transcribe | correct | adapt | rollback | history | status | forget``."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Annotated, Optional

import typer

HomeFolder = Annotated[
    Optional[Path],  # noqa: UP045 - typer evaluates the annotation on Python 3.10 too
    typer.Option("--home", help="The agent's folder (default: EDGEALIGN_AGENT_HOME, else in the user's data folder)."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (setup, transcribe, correct, adapt, rollback, history, status, forget):
        app.command()(command)


def setup(
    project: Annotated[Path, typer.Option(help="An edgealign project whose `dvc repro` is done.")],
    cohort: Annotated[str, typer.Option(help="The user's cohort.")],
    user: Annotated[str, typer.Option(help="The user.")],
    server: Annotated[
        Optional[str],  # noqa: UP045 - as above
        typer.Option(help="Address of the MLflow server to follow (default: tracking.uri of the project)."),
    ] = None,
    home: HomeFolder = None,
) -> None:
    """Say whose device this is; take models, base, general utterances and the user's adapter from a project."""
    from jetson_agent.home import Home

    found = Home.open(home)
    found.setup(project, cohort, user, server)
    version = found.shelf.current()
    learned, judging = found.general()
    in_use = f"version {version.number}" if version else "the base alone"
    typer.echo(f"{found.folder}: {cohort}/{user}, {in_use}; {len(learned)} + {len(judging)} utterances of other people")


def transcribe(
    file: Annotated[
        Path, typer.Argument(help="A recording: WAV, FLAC, MP3, OGG, Opus, M4A, WebM and more, at any rate.")
    ],
    home: HomeFolder = None,
) -> None:
    """Write down what the adapter in use hears in a recording."""
    from jetson_agent.hearing import hear
    from jetson_agent.home import Home

    typer.echo(hear(Home.open(home), file).heard)


def correct(
    file: Annotated[Path, typer.Argument(help="A recording of the user.")],
    text: Annotated[str, typer.Argument(help="What the user said in it.")],
    home: HomeFolder = None,
) -> None:
    """Remember what the user really said in a recording: the next `adapt` learns from it, or judges by it."""
    from dataclasses import replace

    from jetson_agent.hearing import hear
    from jetson_agent.home import Home
    from stages.errors import InputError
    from stages.text import as_said

    found = Home.open(home)
    device = found.device
    said = as_said(text, device.language)
    if not said:
        raise InputError(f"{text!r}: no word in it. Give what was said.")
    item = hear(found, file)
    with found.keeping(device.cohort, device.user) as theirs:
        if not theirs:
            raise InputError(
                f"this device is no longer set up for {device.cohort}/{device.user}: nothing is remembered."
            )
        found.replay.add(replace(item, text=said, source="correction"))
    typer.echo(f"heard {item.heard!r}, remembered {said!r}")


def adapt(home: HomeFolder = None) -> None:
    """Learn once from what is remembered; taken only if it helps the user and leaves other people no worse off."""
    from jetson_agent.home import Home
    from jetson_agent.update import adapt as update

    outcome = update(Home.open(home))
    typer.echo(f"{'taken' if outcome.taken else 'not taken'}: {outcome.why}")
    if outcome.figures:
        typer.echo(json.dumps(outcome.figures))


def rollback(
    home: HomeFolder = None, why: Annotated[str, typer.Option(help="Goes into the history.")] = "asked for"
) -> None:
    """Go back to the version before, or to the base alone."""
    from jetson_agent.home import Home
    from jetson_agent.journal import roll_back

    version = roll_back(Home.open(home), why)
    typer.echo(f"in use: {f'version {version.number}' if version else 'the base alone'}")


def history(home: HomeFolder = None) -> None:
    """Every update and rollback, oldest first."""
    from jetson_agent.home import Home

    for event in Home.open(home).history():
        when = datetime.datetime.fromtimestamp(event.when).isoformat(" ", "seconds")
        in_use = f"version {event.number}" if event.number else "base alone"
        wer = event.figures.get("wer", {})
        told = f" {json.dumps({'before': wer['before'], 'after': wer['after']})}" if wer else ""
        typer.echo(f"{when}  {event.what:11}  {in_use:11}  {event.why}{told}")


def forget(
    user: Annotated[str, typer.Argument(help="Who is to be forgotten; USER or COHORT/USER.")],
    home: HomeFolder = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Delete a person from this device: recordings, corrections, adapters, and utterances that others' adapters learn with."""
    from jetson_agent.home import Home

    cohort, _, name = user.rpartition("/")
    folders, utterances = Home.open(home).forget(name, cohort or None, dry_run=dry_run)
    did = "would delete" if dry_run else "deleted"
    typer.echo(f"{did} {len(folders)} folder(s) and {utterances} utterance(s) of {user} on this device")


def status(home: HomeFolder = None) -> None:
    """Whose device this is, what is in use and what is remembered, as JSON."""
    from jetson_agent.home import Home

    found = Home.open(home)
    version, items = found.shelf.current(), found.replay.items()
    told = {
        "cohort": found.device.cohort,
        "user": found.device.user,
        "version": version.number if version else None,
        "remembered": len(items),
        "corrections": sum(item.source == "correction" for item in items),
        "method": found.settings.method,
        "follows": found.rollout.server or None,
        "outbox": found.waiting(),
    }
    typer.echo(json.dumps(told))
