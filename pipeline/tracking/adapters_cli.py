"""``edgealign adapters``: which personal adapters there are, and which of them are in use."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from pipeline.tracking.registry import Standing

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_(as_json: bool = typer.Option(False, "--json", help="One JSON list, for other programs.")) -> None:
    """List every personal adapter: held-out figures, size, whether it is its user's champion, what the rule says."""
    from pipeline.runs.common import Context
    from pipeline.tracking.registry import standings

    context = Context.open()
    found = standings(context.tracker, context.settings.personal_cohorts)
    if as_json:
        typer.echo(json.dumps([_plain(standing) for standing in found], indent=2, ensure_ascii=False))
        return
    if not found:
        typer.echo("No personal adapters yet. `dvc repro` trains some.")
        return
    table = Table(box=None)
    for name in ("adapter", "base WER", "personal WER", "bytes"):
        table.add_column(name, justify="left" if name == "adapter" else "right", overflow="fold")
    table.add_column("champion")
    table.add_column("may be promoted", overflow="fold")
    for standing in found:
        table.add_row(*_row(standing))
    Console().print(table)


@app.command()
def promote(
    adapter: str = typer.Argument("", metavar="COHORT/USER", help="The adapter."),
    all_of: str = typer.Option(
        "", "--all", metavar="COHORT", help="In its place: all of a cohort that the rule takes."
    ),
    dry_run: bool = typer.Option(False, help="Say what would happen; register nothing."),
    again: bool = typer.Option(False, help="Take an adapter, too, that a rollback withdrew."),
) -> None:
    """Make an adapter its user's champion in MLflow's registry, if the written rule takes it (docs/compare.md).

    The champion before becomes `previous`. Ends with status 1 where the adapter is refused, with each condition that does
    not hold; with --all, where no adapter of the cohort is champion afterwards.
    """
    from pipeline.runs.common import Context
    from pipeline.tracking.registry import promote as apply
    from stages.errors import InputError

    cohort, _, user = adapter.partition("/")
    if bool(adapter) == bool(all_of) or (adapter and not (cohort and user)):
        raise InputError(
            f"adapters promote: got {adapter or 'no adapter'!r}, needed COHORT/USER, or --all COHORT alone"
        )
    context = Context.open()
    known = context.settings.personal_cohorts
    if (cohort or all_of) not in known:
        raise InputError(
            f"{cohort or all_of}: not a cohort of personal_cohorts in params.yaml. Known: {', '.join(known)}."
        )
    outcomes = apply(
        context.tracker,
        cohort or all_of,
        user or None,
        dry_run=dry_run,
        again=again,
        tell=lambda standing: _tell(standing, dry_run),
    )
    taken = [standing for standing in outcomes if standing.is_champion or not standing.broken]
    if len(outcomes) > 1:
        typer.echo(f"{len(taken)} of {len(outcomes)} adapters {'would be' if dry_run else 'are'} champions.")
    if not taken:
        raise typer.Exit(1)


@app.command()
def rollback(
    adapter: str = typer.Argument(..., metavar="COHORT/USER", help="Whose champion goes back to the previous one."),
    reason: str = typer.Option("", help="Why; kept with both versions. Name nobody."),
    dry_run: bool = typer.Option(False, help="Say what would happen; change nothing."),
) -> None:
    """Make the previous champion the champion again; what was champion is then the previous one.

    `promote` does not take it again without --again.
    """
    from pipeline.runs.common import Context
    from pipeline.tracking.rollback import rollback as apply
    from stages.errors import InputError

    cohort, _, user = adapter.partition("/")
    if not (cohort and user):
        raise InputError(f"adapters rollback: got {adapter!r}, needed COHORT/USER")
    done = apply(Context.open().tracker, cohort, user, reason, dry_run=dry_run)
    verb = "would be" if dry_run else "is"
    typer.echo(
        f"{adapter}: version {done.restored} {verb} the champion again, version {done.withdrawn} the previous one"
    )


@app.command()
def rollout(
    adapter: str = typer.Argument(
        ..., metavar="COHORT/USER[@ALIAS or @VERSION]", help="The adapter, or `base`; without @ the champion."
    ),
    share: Optional[float] = typer.Option(None, help="Set the share of the devices that take this version first."),  # noqa: UP045 - typer reads it
    halt: str = typer.Option("", metavar="REASON", help="Nobody takes it any more; who has it goes back. Name nobody."),
    resume: bool = typer.Option(False, help="Take the halt and every failed verdict away."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object, for other programs."),
) -> None:
    """Show what each device made of a version (`edgealign-agent pull`), and set its canary share or halt it."""
    from pipeline.runs.common import Context
    from pipeline.tracking.rollouts import rollout as apply

    found = apply(Context.open().tracker, adapter, share=share, halt=halt, resume=resume)
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    told = f"{found['adapter']}, version {found['version']} ({', '.join(found['aliases']) or 'no alias'})"
    typer.echo(f"{told}; first {found['share']:g} of the devices" if found["share"] else told)
    if found["halted"]:
        typer.secho(f"halted: {found['halted']}", fg=typer.colors.RED)
    if not found["devices"]:
        typer.echo("No device has asked for it yet: `edgealign-agent pull` there.")
        return
    table = Table(box=None)
    for name in ("device", "in use", "seen", "first", "verdict", "judged", "user's WER", "others' WER"):
        table.add_column(name, overflow="fold")
    for device in found["devices"]:
        table.add_row(*_device_row(device))
    Console().print(table)


@app.command()
def compare(
    one: str = typer.Argument(
        ..., metavar="A", help="COHORT/USER, or COHORT/USER@champion, @challenger, @previous, @VERSION."
    ),
    other: str = typer.Argument(..., metavar="B", help="Another one, written in the same way."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object, for other programs."),
) -> None:
    """Put two adapters side by side: figures with their differences; settings and lineage where they differ."""
    from pipeline.runs.common import Context
    from pipeline.tracking.compare import compare as apply

    found = apply(Context.open(), one, other)
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    table = Table(box=None)
    table.add_column("", overflow="fold")
    for side in found["adapters"]:
        version = f" (version {side['version']})" if side["version"] else ""
        table.add_column(escape(side["adapter"] + version), justify="right", overflow="fold")
    table.add_column("difference", justify="right")
    for name, values in found["figures"].items():
        table.add_row(name, *(("unknown" if value is None else f"{value:,.6g}") for value in values))
    for part in ("settings", "lineage"):
        for name, values in found[part].items():
            table.add_row(f"{part}: {escape(name)}", *(escape(str(value)) for value in values), "differs")
    Console().print(table)
    if found["same"]:
        typer.echo("Both are the same weights.")
    elif not found["comparable"]:
        typer.echo("Judged on different utterances or texts, as far as is known: the error rates do not compare.")


@app.command()
def why(
    adapter: str = typer.Argument("", metavar="COHORT/USER[@ALIAS or @VERSION]", help="The adapter, or `base`."),
    all_of: bool = typer.Option(False, "--all", help="In its place: the base and every adapter in the workspace."),
    as_json: bool = typer.Option(False, "--json", help="All of it as JSON; a list with --all."),
) -> None:
    """Tell an adapter's whole lineage: recordings, labels, features, base, training, evaluation, promotions, devices.

    Each link is checked by its hash. Ends with status 1 where one is missing or does not fit.
    """
    from pipeline.runs.common import Context
    from pipeline.tracking.reference import Reference
    from pipeline.tracking.why import Walk
    from pipeline.tracking.why_text import tree_of
    from stages.errors import InputError

    if bool(adapter) == all_of:
        raise InputError(f"adapters why: got {adapter or 'no adapter'!r}, needed COHORT/USER or base, or --all alone")
    walk = Walk(Context.open())
    found = [walk.of(reference) for reference in (walk.everyone() if all_of else [Reference.parse(adapter)])]
    if as_json:
        typer.echo(json.dumps(found if all_of else found[0], indent=2, ensure_ascii=False))
    else:
        for told in found:
            if not all_of:
                Console().print(tree_of(told))
                continue
            typer.echo(f"{told['adapter']}: {'complete' if told['complete'] else 'incomplete'}")
            for problem in told["problems"]:
                typer.echo(f"  {problem}")
    if all_of and not as_json:
        whole = sum(told["complete"] for told in found)
        typer.echo(f"The lineage of {whole} of {len(found)} adapters is complete.")
    if not all(told["complete"] for told in found):
        raise typer.Exit(1)


def _tell(standing: Standing, dry_run: bool) -> None:
    one, before = standing.candidate, standing.champion
    if standing.is_champion and before:
        typer.echo(f"{one.name}: is the champion already (version {before.version})")
    elif not standing.broken:
        replaced = f"; version {before.version} {'would be' if dry_run else 'is'} the previous one" if before else ""
        done = "would be promoted" if dry_run else f"promoted, version {standing.version} is the champion"
        typer.echo(f"{one.name}: {done}{replaced}")
        typer.echo(f"  {one.figures}, the base {one.base_figures}, on {one.test_utterances} held-out utterances")
    else:
        typer.secho(f"{one.name}: refused", fg=typer.colors.RED)
    for condition, reason in standing.broken.items():
        typer.echo(f"  {condition}: {reason}")


def _row(standing: Standing) -> list[str]:
    one, champion = standing.candidate, standing.champion
    wers = ["unknown" if figures is None else f"{figures.wer:.3f}" for figures in (one.base_figures, one.figures)]
    if standing.is_champion:
        bears = "yes"
    else:
        bears = f"version {champion.version}" if champion else "none"
    if standing.broken:
        may = "no: " + "; ".join(f"{condition}: {reason}" for condition, reason in standing.broken.items())
    else:
        may = "is champion" if standing.is_champion else "yes"
    return [escape(one.name), *wers, f"{one.adapter_bytes:,}", bears, escape(may)]


def _device_row(device: dict[str, Any]) -> list[str]:
    def change(side: str) -> str:
        before, after = ((device["wer"] or {}).get(at, {}).get(side) for at in ("before", "after"))
        return "unknown" if before is None or after is None else f"{before:.3f} → {after:.3f}"

    in_use = f"version {device['in_use']}" if device["in_use"] else "none of these"
    first = "" if device["canary"] is None else ("yes" if device["canary"] else "no")
    seen, judged = ((device[key] or "never")[:16].replace("T", " ") for key in ("seen", "judged"))
    told = [device["device"], in_use, seen, first, device["verdict"] or "none", judged]
    return [escape(cell) for cell in (*told, change("own"), change("general"))]


def _plain(standing: Standing) -> dict[str, Any]:
    one = standing.candidate
    return {
        "cohort": one.cohort,
        "user": one.user,
        "adapter_sha256": one.file_sha256 or None,
        "adapter_bytes": one.adapter_bytes,
        "base_wer": one.base_figures.wer if one.base_figures else None,
        "wer": one.figures.wer if one.figures else None,
        "base_cer": one.base_figures.cer if one.base_figures else None,
        "cer": one.figures.cer if one.figures else None,
        "test_utterances": one.test_utterances,
        "champion": standing.is_champion,
        "champion_version": standing.champion.version if standing.champion else None,
        "may_be_promoted": not standing.broken and not standing.is_champion,
        "broken": standing.broken,
    }
