"""``edgealign words``: names that no training has heard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from stages.word_list import WordList

app = typer.Typer(no_args_is_help=True, help="Names and other words to listen for.")

USER = typer.Option("", "--user", help="For one user's recordings only: USER or COHORT/USER. Default: for everyone's.")
WORDS = typer.Argument(..., help="Words or names; quote one of several words: 'anna maria'.")


def _list(user: str) -> WordList:
    from pipeline.ask import choose_adapter
    from pipeline.project import Project
    from pipeline.settings import load_settings
    from pipeline.words import word_list

    project = Project.find()
    if not user:
        return word_list(project)
    return word_list(project, choose_adapter(project, load_settings(project.root), user).name)


@app.command()
def add(words: list[str] = WORDS, user: str = USER) -> None:
    """Listen for words such as names: `ask` and `transcribe` do from now on.

    Nothing is trained: where the adapter nearly reads a listed word, it is read. With base.speller (params.yaml), listed names
    are also found in what was spelled; without, a name whose sound was never learned is better corrected
    (`edgealign-agent correct`). The list is kept on this machine alone.
    """
    found = _list(user)
    new, there = found.add(words)
    if new:
        typer.echo(f"listens for {', '.join(new)} ({found.owner})")
    if there:
        typer.echo(f"was there already: {', '.join(there)}")


@app.command("list")
def list_words() -> None:
    """What is listened for, and in whose recordings."""
    from rich.console import Console
    from rich.table import Table

    from pipeline.project import Project
    from pipeline.words import word_lists

    lists = word_lists(Project.find())
    if not lists:
        typer.echo("nothing yet: `edgealign words add NAME`")
        return
    table = Table("in whose recordings", "words")
    for found in lists:
        table.add_row(found.owner, ", ".join(found.read()))
    Console().print(table)


@app.command()
def remove(words: list[str] = WORDS, user: str = USER) -> None:
    """Listen for these words no longer."""
    found = _list(user)
    typer.echo(f"no longer: {', '.join(found.remove(words))} ({found.owner})")
