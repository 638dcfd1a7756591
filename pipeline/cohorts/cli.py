"""``edgealign cohort``: recordings in, looked at, checked, shared and forgotten."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import typer

app = typer.Typer(no_args_is_help=True)


class UserFrom(str, Enum):
    """Where a recording's user comes from."""

    path = "path"
    column = "column"
    name = "name"


class Consent(str, Enum):
    """What the users said."""

    granted = "granted"
    withheld = "withheld"


class Scope(str, Enum):
    """What the users allow."""

    all = "all"
    personal = "personal"


NAME = typer.Argument(..., help="The cohort's name: a-z, 0-9 and hyphens.")
AUDIO = typer.Option(
    ...,
    help="What you have: a folder of recordings (WAV, FLAC, MP3, OGG, Opus, M4A ...), a LibriSpeech, Kaldi, NeMo or "
    "Common Voice folder, or a WebDataset (folder of tars, or one tar).",
)
TRANSCRIPTS = typer.Option(
    None,
    help="CSV, TSV, JSONL, *.trans.txt, Kaldi text, NeMo manifest, validated.tsv. Left out: looked for in the folder.",
)
USER_FROM = typer.Option(
    None,
    help="Who speaks: the recording's folder (path), a column of the transcripts, or its name up to the first - or _.",
)
MAP = typer.Option([], "--map", help="Which column is what, if their names do not tell: --map user=speaker,text=utt")
LANGUAGE = typer.Option(None, help="Language of the recordings (a new cohort: en; else the cohort's own).")
CONSENT = typer.Option(
    None, help="The users' consent; withheld recordings go in and train nothing (a new cohort: granted)."
)
SCOPE = typer.Option(
    None, help="What they allow: everything (all), or their own adapter alone (personal); without it, all."
)
CONSENT_DATE = typer.Option(None, metavar="YYYY-MM-DD", help="When they consented.")
CUT = typer.Option(True, "--cut/--no-cut", help="Cut recordings over 30 s at silences; else they are set aside.")
WORKERS = typer.Option(None, min=0, help="Processes that convert (one a core; 0: this one).")
RAY = typer.Option(
    None,
    "--ray/--local",
    help="Convert on the Ray cluster of params.yaml (by itself from 10,000 recordings, where one is named).",
)
DRY_RUN = typer.Option(False, help="Check everything and say what would happen; change nothing.")
YES = typer.Option(False, "--yes", help="Do not ask.")


@app.command()
def add(
    name: str = NAME,
    audio: Path = AUDIO,
    transcripts: Path | None = TRANSCRIPTS,
    user_from: UserFrom | None = USER_FROM,
    map_: list[str] = MAP,
    language: str | None = LANGUAGE,
    consent: Consent | None = CONSENT,
    consent_scope: Scope | None = SCOPE,
    consent_date: str | None = CONSENT_DATE,
    base: bool = typer.Option(False, help="Also train the base adapter on this cohort."),
    personal: bool = typer.Option(True, help="Train a personal adapter for each of its users."),
    cut: bool = CUT,
    workers: int | None = WORKERS,
    ray: bool | None = RAY,
    replace: bool = typer.Option(False, help="Put it in the place of a cohort of the same name."),
    dry_run: bool = DRY_RUN,
) -> None:
    """Bring recordings in as a new cohort. Bad ones are set aside with their reason, the good ones go in.

    Stopped or killed, the same command goes on where it was.
    """
    from pipeline.cohorts.add import Options, add_cohort
    from pipeline.cohorts.store import list_in_params, track_with_dvc
    from pipeline.project import Project
    from pipeline.settings import load_settings

    project = Project.find()
    settings = load_settings(project.root)  # a params.yaml that cannot be read is told before any work
    given = _consent(consent, consent_scope, consent_date)
    options = Options(transcripts, user_from and user_from.value, _columns(map_), language, given, cut, workers, ray)
    add_cohort(project, name, audio, options, settings=settings, replace=replace, dry_run=dry_run, tell=typer.echo)
    if dry_run:
        return
    lists = list_in_params(project, name, base, personal)
    if lists:
        typer.echo(f"params.yaml: added to {', '.join(lists)}")
    track_with_dvc(project, typer.echo, [name])
    typer.echo("next: dvc repro")


@app.command()
def append(
    name: str = NAME,
    audio: Path = AUDIO,
    transcripts: Path | None = TRANSCRIPTS,
    user_from: UserFrom | None = USER_FROM,
    map_: list[str] = MAP,
    language: str | None = LANGUAGE,
    consent: Consent | None = CONSENT,
    consent_scope: Scope | None = SCOPE,
    consent_date: str | None = CONSENT_DATE,
    cut: bool = CUT,
    workers: int | None = WORKERS,
    ray: bool | None = RAY,
    dry_run: bool = DRY_RUN,
) -> None:
    """Bring more recordings of known or new users into a cohort. Its shards stay; only new ones are written.

    Language and consent are the cohort's own where they are not given. What is there already is recognised by its sound.
    """
    from pipeline.cohorts.add import Options, append_cohort
    from pipeline.cohorts.store import track_with_dvc
    from pipeline.project import Project
    from pipeline.settings import load_settings

    project = Project.find()
    settings = load_settings(project.root)
    given = _consent(consent, consent_scope, consent_date)
    options = Options(transcripts, user_from and user_from.value, _columns(map_), language, given, cut, workers, ray)
    append_cohort(project, name, audio, options, settings=settings, dry_run=dry_run, tell=typer.echo)
    if dry_run:
        return
    track_with_dvc(project, typer.echo, [name])
    typer.echo("next: dvc repro")


def _columns(given: list[str]) -> dict[str, str]:
    """``["user=speaker,text=utt"]`` as {"user": "speaker", "text": "utt"}. Raises BadParameter."""
    columns = {}
    for pair in ",".join(given).split(","):
        if not pair:
            continue
        what, equals, column = pair.partition("=")
        if not (what and equals and column):
            raise typer.BadParameter(f"--map {pair}: needed WHAT=COLUMN, for example user=speaker_id,text=sentence")
        columns[what.strip()] = column.strip()
    return columns


def _consent(consent: Consent | None, scope: Scope | None, date: str | None) -> dict[str, object] | None:
    """The consent that the options give; None where they say nothing."""
    from stages.consent import make_consent

    if consent is None and scope is None and date is None:
        return None
    return make_consent(consent is not Consent.withheld, scope.value if scope else "all", date)


@app.command()
def check(
    names: list[str] = typer.Argument(None, metavar="[NAME]...", help="Cohorts; without one, all that are in data/."),
    html: Path | None = typer.Option(None, help="Where the page goes, for one cohort (.edgealign/check/NAME.html)."),
    json_: bool = typer.Option(False, "--json", help="Print the findings as JSON."),
) -> None:
    """Look a cohort over: hours, users, levels, noise, duplicates, transcripts, consent. Writes a page with plots.

    The rules stand in params.yaml under `check`; the exit status is 1 where one is broken.
    """
    from pipeline.cohorts.check import check_and_print
    from pipeline.project import Project

    if not check_and_print(Project.find(), names or [], html=html, as_json=json_):
        raise typer.Exit(1)


@app.command()
def forget(
    user: str = typer.Option(
        ..., help="The user, by the name in `cohort show` or as the recordings' source calls them."
    ),
    cohort: str | None = typer.Option(None, help="Only in this cohort (in every cohort)."),
    yes: bool = YES,
    dry_run: bool = DRY_RUN,
) -> None:
    """Erase a person for good: audio, features, labels, adapters, runs, registered models, DVC's cache and remotes.

    Adapters of others that learned from the person are listed and marked to be retrained. A proof without audio, text or
    name stays in data/erasures. Stopped or killed, the same command goes on.
    """
    from pipeline.cohorts.erasure.forget import forget_user
    from pipeline.project import Project

    result = forget_user(
        Project.find(),
        user,
        cohort=cohort,
        dry_run=dry_run,
        confirm=lambda question: yes or typer.confirm(question),
        tell=typer.echo,
    )
    if result.left:
        raise typer.Exit(1)


@app.command()
def remove(name: str = NAME, yes: bool = YES, dry_run: bool = DRY_RUN) -> None:
    """Take a cohort out of the project: its recordings, features, labels and adapters. It can be brought back.

    To erase a person for good, use `edgealign cohort forget`.
    """
    from pipeline.cohorts.remove import remove_cohort
    from pipeline.cohorts.store import track_with_dvc
    from pipeline.project import Project

    project = Project.find()
    if remove_cohort(
        project, name, dry_run=dry_run, confirm=lambda question: yes or typer.confirm(question), tell=typer.echo
    ):
        track_with_dvc(project, typer.echo, [name])
        typer.echo("next: dvc repro; to bring it back: git checkout data.dvc params.yaml && dvc checkout data.dvc")


@app.command()
def share(
    url: str = typer.Argument(
        "", help="The DVC remote: a folder, or s3://bucket/path. Left out: set up merging alone."
    ),
    local: bool = typer.Option(False, "--local", help="Note the remote for this clone alone; git does not carry it."),
) -> None:
    """Work on cohorts with others: set the DVC remote, and let git merge two branches that each added a cohort.

    Whoever clones the project runs it once without a URL.
    """
    from pipeline.cohorts.share import share as set_up
    from pipeline.project import Project

    set_up(Project.find(), url or None, local=local, tell=typer.echo)


class MergeKind(str, Enum):
    """What a merge driver merges."""

    data = "data"
    params = "params"
    lock = "lock"


@app.command("merge-driver", hidden=True)
def merge_driver(kind: MergeKind, ancestor: Path, ours: Path, theirs: Path) -> None:
    """What git calls to merge data.dvc, params.yaml and dvc.lock."""
    from pipeline.cohorts.merge import merge_driver as merge
    from pipeline.project import Project

    if not merge(Project.find(), kind.value, ancestor, ours, theirs):
        raise typer.Exit(1)


@app.command()
def demo() -> None:
    """Make the three demo cohorts with eSpeak NG; does nothing where they are there."""
    from pipeline.cohorts.demo import make_demo
    from pipeline.project import Project

    make_demo(Project.find().root, say=typer.echo)


@app.command()
def speak(
    name: str = NAME,
    words: list[str] = typer.Option([], "--word", help="A word or a name to be said; several times for more."),
    words_file: Path | None = typer.Option(None, "--words", help="A text file with a word or a name on each line."),
    sentences: Path | None = typer.Option(None, help="A text file with a sentence on each line, said as it stands."),
    llm_words: int | None = typer.Option(
        None,
        min=1,
        help="So many words of the LLM's own table, common ones first: what a speller (base.speller) wants.",
    ),
    each: int | None = typer.Option(None, min=1, help="Utterances of each voice (as many as say every word twice)."),
    voices: int | None = typer.Option(None, min=1, max=27, help="Voices that speak (all 27 of the demo)."),
    base: bool = typer.Option(True, help="Train the base adapter on this cohort."),
    replace: bool = typer.Option(False, help="Put it in the place of a cohort of the same name."),
    dry_run: bool = DRY_RUN,
) -> None:
    """Make a cohort of synthetic speech that says your words: device commands, names, what nobody has recorded yet.

    For example: edgealign cohort speak commands --word rubout --word "dim the lights"
    """
    from pipeline.cohorts import speak as speaking
    from pipeline.cohorts.store import list_in_params, track_with_dvc
    from pipeline.project import Project
    from pipeline.settings import load_settings

    given = [bool(words), words_file is not None, sentences is not None, llm_words is not None]
    if sum(given) != 1:
        raise typer.BadParameter("give one of --word, --words, --sentences and --llm-words")
    project = Project.find()
    load_settings(project.root)  # a params.yaml that cannot be read is told before any work
    if words_file is not None:
        said = speaking.read_said(words_file, words=True)
    elif sentences is not None:
        said = speaking.read_said(sentences, words=False)
    elif llm_words is not None:
        said = speaking.llm_words(project, llm_words)
    else:
        said = speaking.said_words(words)
    speaking.speak(project, name, said, each=each, voices=voices, replace=replace, dry_run=dry_run, tell=typer.echo)
    if dry_run:
        return
    lists = list_in_params(project, name, base, personal=False, untold=True)
    if lists:
        typer.echo(f"params.yaml: added to {', '.join(lists)}")
    track_with_dvc(
        project, typer.echo, [name]
    )  # also where it was there: an earlier run may have been stopped before this
    typer.echo("next: dvc repro")


@app.command("list")
def list_cohorts() -> None:
    """The cohorts in data/, and what each is used for."""
    from rich.console import Console
    from rich.table import Table

    from pipeline.cohorts.erasure.tombstones import retrain_notice
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
    for line in retrain_notice(project):
        typer.echo(line)


@app.command()
def show(
    name: str = typer.Argument(..., help="The cohort's name."),
    users: int = typer.Option(50, min=0, help="How many of its users are listed."),
) -> None:
    """One cohort: its users, and what each has."""
    from rich.console import Console
    from rich.table import Table

    from pipeline.cohorts.store import read_cohort
    from pipeline.project import Project

    record = read_cohort(Project.find().cohort(name))
    consent = "granted" if record.consent.get("granted") is True else "withheld"
    consent += f", scope {record.consent.get('scope')}, {record.consent.get('date') or 'no date'}"
    table = Table("user", "called", "utterances", "without transcript", "seconds", title=f"{name} (consent: {consent})")
    for user, entry in list(record.users.items())[:users]:
        table.add_row(user, entry.name, str(entry.utterances), str(entry.untranscribed), f"{entry.seconds:.0f}")
    if len(record.users) > users:
        table.add_row(f"… and {len(record.users) - users} more", "", "", "", "")
    Console().print(table)
    Console().print(
        f"{record.utterances} utterances of {len(record.users)} users, {record.seconds / 3600:.2f} h, language "
        f"{record.language}, {len(record.shards)} shards, made by `{record.made_by}`"
    )
