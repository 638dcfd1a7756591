"""The ``edgealign`` command. Heavy libraries are imported by the command that needs them, so that ``--help`` is quick."""

from __future__ import annotations

import logging
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Optional

import typer

from pipeline.cohorts.cli import app as cohort_app
from pipeline.tracking.adapters_cli import app as adapters_app
from pipeline.tracking.cli import app as tracking_app
from pipeline.words_cli import app as words_app
from stages.errors import EdgealignError

app = typer.Typer(
    help="Personal speech adapters that let a frozen LLM on a small device understand each user directly.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(
    cohort_app, name="cohort", help="Recordings: add, append, check, share, remove, forget; make the demo cohorts."
)
app.add_typer(adapters_app, name="adapters", help="Personal adapters: list, compare, promote, roll back; why.")
app.add_typer(words_app, name="words", help="Names and other words to listen for.")
app.add_typer(tracking_app, name="tracking", help="MLflow: open the UI, list runs, replay the spool, back up, prune.")


class Stage(str, Enum):
    """The stages of dvc.yaml."""

    models = "models"
    features = "features"
    pseudo_labels = "pseudo_labels"
    base_inputs = "base_inputs"
    base = "base"
    second_labels = "second_labels"
    personalize = "personalize"
    evaluate = "evaluate"
    report = "report"


OF_A_COHORT = {Stage.features, Stage.pseudo_labels, Stage.second_labels, Stage.personalize, Stage.evaluate}


@app.command()
def stage(
    name: Stage = typer.Argument(..., help="Which stage of dvc.yaml."),
    cohort: str = typer.Argument("", help="The cohort, for a stage that has one run a cohort."),
) -> None:
    """Run one stage of dvc.yaml by itself (`dvc repro` calls this; what is already done is not done again)."""
    from importlib import import_module

    from pipeline.runs.common import Context

    if (name in OF_A_COHORT) != bool(cohort):
        needed = "needs a cohort" if name in OF_A_COHORT else "takes no cohort"
        raise EdgealignError(f"edgealign stage {name.value}: {needed}. See `edgealign stage --help`.")
    module = import_module(f"pipeline.runs.{name.value}")
    arguments = (cohort,) if cohort else ()
    module.run(Context.open(), *arguments)


@app.command()
def demo() -> None:
    """Make the demo cohorts, run `dvc repro` through every stage on an embedded Ray, and print what came out."""
    from pipeline.demo import run_demo

    run_demo()


@app.command()
def show() -> None:
    """Print the table of the last report: base and personal WER of every user, and what each adapter cost."""
    from pipeline.demo import print_summary
    from pipeline.runs.common import Context

    print_summary(Context.open())


@app.command()
def fleet(
    as_json: bool = typer.Option(False, "--json", help="Print it once, as JSON."),
) -> None:
    """What every device tells now: memory, load, temperature, power; a table that goes on until Ctrl-C."""
    from pipeline.fleet import show_fleet
    from pipeline.runs.common import Context

    show_fleet(Context.open(), as_json)


@app.command()
def transcribe(
    file: Path = typer.Argument(..., help="A recording: WAV, FLAC, MP3, OGG, Opus, M4A, WebM and more, at any rate."),
    user: str = typer.Option("", help="Use this user's personal adapter; USER or COHORT/USER. Default: the base."),
) -> None:
    """Write down what the adapter hears in a recording (no LLM is loaded)."""
    from pipeline.ask import transcribe_file

    transcribe_file(file, user)


@app.command()
def ask(
    file: Path = typer.Argument(..., help="A recording: WAV, FLAC, MP3, OGG, Opus, M4A, WebM and more, at any rate."),
    user: str = typer.Option("", help="Use this user's personal adapter; USER or COHORT/USER. Default: the base."),
    instruction: str = typer.Option(
        "", help="What the LLM is told before it hears the recording. Default: answer the user."
    ),
    max_new_tokens: int = typer.Option(64, min=1, help="Longest reply."),
) -> None:
    """Hand a recording to the LLM as soft tokens: read-out, reply, and how long each step took."""
    from pipeline.ask import ask_file

    ask_file(file, user, instruction, max_new_tokens)


@app.command()
def head(
    host: str = typer.Option(..., help="This machine's IP address in the devices' network."),
    port: int = typer.Option(6379, min=1, max=65535, help="Port that devices join at."),
    cpus: Optional[int] = typer.Option(  # noqa: UP045 - typer evaluates the annotation on Python 3.10 too
        None, min=0, help="CPU slots for stages that run here. Default: all."
    ),
) -> None:
    """Make this machine the head of a cluster that Jetsons join (`edgealign-agent join`). Ctrl-C ends it.

    Needed for real devices only: without ray.address in params.yaml a project has an embedded session of its own. Use it in a
    private network: Ray trusts whoever holds the token.
    """
    from pipeline.cluster.head import run_head

    run_head(host, port, cpus)


def set_up_logging() -> None:
    """Plain lines to standard error: INFO of our own, warnings of others."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name in ("edgealign", "pipeline"):
        logging.getLogger(name).setLevel(logging.INFO)


def run_app(run: typer.Typer) -> None:
    """Run a command line; an error that a person is meant to read ends it with one message and status 1."""
    set_up_logging()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # else it reports how its pages and calls are used
    try:
        run()
    except EdgealignError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        sys.exit(1)


def main() -> None:
    """Entry point."""
    run_app(app)
