"""``edgealign-agent words``: names that the device's user says and no training has heard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from jetson_agent.cli_learn import HomeFolder

if TYPE_CHECKING:
    from stages.word_list import WordList

app = typer.Typer(no_args_is_help=True)
WORDS = typer.Argument(..., help="Words or names; quote one of several words: 'anna maria'.")


def _list(home: HomeFolder) -> WordList:
    from jetson_agent.home import Home

    return Home.open(home).words


@app.command()
def add(words: list[str] = WORDS, home: HomeFolder = None) -> None:
    """Listen for words from now on; a server that runs takes them up by itself. Nothing is trained.

    Where the base has a speller (base.speller in its project's params.yaml), they are also found in what was spelled.
    """
    new, there = _list(home).add(words)
    if new:
        typer.echo(f"listens for {', '.join(new)}")
    if there:
        typer.echo(f"was there already: {', '.join(there)}")


@app.command("list")
def list_words(home: HomeFolder = None) -> None:
    """What is listened for."""
    typer.echo("\n".join(_list(home).read()) or "nothing yet: `edgealign-agent words add NAME`")


@app.command()
def remove(words: list[str] = WORDS, home: HomeFolder = None) -> None:
    """Listen for these words no longer."""
    typer.echo(f"no longer: {', '.join(_list(home).remove(words))}")
