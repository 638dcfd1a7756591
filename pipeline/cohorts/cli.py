"""``edgealign cohort``: recordings in, and what is there."""

from __future__ import annotations

from pathlib import Path

import typer

app = typer.Typer(no_args_is_help=True)


@app.command()
def add(
    name: str = typer.Argument(..., help="The cohort's name: a-z, 0-9 and hyphens."),
    audio: Path = typer.Option(..., help="Folder of recordings; any format and rate that libsndfile reads."),
    transcripts: Path = typer.Option(..., help="CSV with the columns file,user,text; an empty text is no transcript."),
    language: str = typer.Option("en", help="Language of the recordings."),
    consent: str = typer.Option("granted", help="Status of the users' consent; only `granted` trains."),
    base: bool = typer.Option(False, help="Also train the base adapter on this cohort."),
    personal: bool = typer.Option(True, help="Train a personal adapter for each of its users."),
    replace: bool = typer.Option(False, help="Put it in the place of a cohort of the same name."),
    dry_run: bool = typer.Option(False, help="Check everything and say what would happen; write no cohort."),
) -> None:
    """Bring a folder of recordings in. Bad ones are set aside with their reason, the good ones go in."""
    from pipeline.cohorts.add import add_cohort
    from pipeline.cohorts.store import list_in_params, track_with_dvc
    from pipeline.project import Project
    from pipeline.settings import load_settings

    project = Project.find()
    load_settings(project.root)  # a params.yaml that cannot be read is told before any work
    add_cohort(
        project,
        name,
        audio,
        transcripts,
        language=language,
        consent=consent,
        replace=replace,
        dry_run=dry_run,
        tell=typer.echo,
    )
    if dry_run:
        return
    lists = list_in_params(project, name, base, personal)
    if lists:
        typer.echo(f"params.yaml: added to {', '.join(lists)}")
    track_with_dvc(project, typer.echo)
    typer.echo("next: dvc repro")


@app.command()
def demo() -> None:
    """Make the three demo cohorts with eSpeak NG; does nothing where they are there."""
    from pipeline.cohorts.demo import make_demo
    from pipeline.project import Project

    make_demo(Project.find().root, say=typer.echo)


@app.command("list")
def list_cohorts() -> None:
    """The cohorts in data/, and what each is used for."""
    from rich.console import Console
    from rich.table import Table

    from pipeline.cohorts.store import read_cohort
    from pipeline.project import Project
    from pipeline.settings import load_settings

    project = Project.find()
    settings = load_settings(project.root)
    table = Table("cohort", "users", "utterances", "minutes", "without transcript", "used for")
    there = {path.parent.name for path in project.cohort("x").parent.glob("*/cohort.yaml")}
    for name in sorted(there | set(settings.cohorts)):
        uses = [use for use in ("base", "personal") if name in getattr(settings, f"{use}_cohorts")]
        used = ", ".join(uses) or ("features and labels" if name in settings.cohorts else "nothing: not in params.yaml")
        if name not in there:
            table.add_row(name, "", "", "", "", f"{used}; no data here: `dvc pull`")
            continue
        record = read_cohort(project.cohort(name))
        untold = sum(user.untranscribed for user in record.users.values())
        figures = (len(record.users), record.utterances, f"{record.seconds / 60:.1f}", untold)
        table.add_row(name, *map(str, figures), used)
    Console().print(table)


@app.command()
def show(name: str = typer.Argument(..., help="The cohort's name.")) -> None:
    """One cohort: its users, and what each has."""
    from rich.console import Console
    from rich.table import Table

    from pipeline.cohorts.store import read_cohort
    from pipeline.project import Project

    record = read_cohort(Project.find().cohort(name))
    consent = record.consent.get("status", "unknown")
    table = Table("user", "called", "utterances", "without transcript", "seconds", title=f"{name} (consent: {consent})")
    for user, entry in record.users.items():
        table.add_row(user, entry.name, str(entry.utterances), str(entry.untranscribed), f"{entry.seconds:.0f}")
    Console().print(table)
