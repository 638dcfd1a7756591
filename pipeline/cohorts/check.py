"""``edgealign cohort check``: cohorts held against the rules of params.yaml, as a table, a page and JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cohorts.store import COHORT_FILE, read_cohort
from pipeline.project import Project
from pipeline.settings import Settings, load_settings
from stages.atomic import write_text
from stages.errors import InputError
from stages.shards import Problem

if TYPE_CHECKING:
    from rich.console import Console

    from stages.cohort_report import Cohort
    from stages.cohort_report_rules import Finding

SHOWN_USERS = 10
"""Users that the terminal's table lists, and reasons for what was set aside."""

MAX_NAME = 30
"""Letters of a user's id in the terminal's table."""

WIDE = 110
"""Columns of a terminal from which on the rules are told in words beside their names."""


@dataclass(frozen=True)
class CheckResult:
    """What was found in one cohort."""

    cohort: str
    findings: list[Finding]
    figures: dict[str, Any]
    """See stages.cohort_report.examine."""
    html: Path

    @property
    def broken(self) -> list[Finding]:
        """The rules that the cohort does not keep."""
        return [finding for finding in self.findings if finding.state == "broken"]

    def as_json(self) -> dict[str, Any]:
        """For machines: ``passed``, ``rules`` (one each) and ``figures`` with every list in full."""
        return {
            "cohort": self.cohort,
            "passed": not self.broken,
            "rules": [asdict(finding) for finding in self.findings],
            "figures": self.figures,
            "html": str(self.html),
        }


def check_cohorts(
    project: Project,
    names: Sequence[str],
    *,
    settings: Settings,
    html: Path | None = None,
    tell: Callable[[str], None] = print,
) -> list[CheckResult]:
    """Check the cohorts ``names`` (none: all in data/) and write each one's page, by default to
    ``.edgealign/check/<cohort>.html``: names of users stand in it, so it stays out of git and DVC.

    Cohorts that are only needed for comparison are left out, with a word to ``tell``, where they cannot be read.
    Raises InputError for a cohort that is not there or cannot be read, and for one ``html`` file for several cohorts.
    """
    there = sorted(path.parent.name for path in project.cohort("x").parent.glob(f"*/{COHORT_FILE}"))
    missing = [name for name in names if name not in there]
    if missing:
        known = f"Cohorts in data/: {', '.join(there)}." if there else "There is no cohort in data/."
        raise InputError(
            f"cohort {', '.join(missing)}: not there. {known} `edgealign cohort add` or `dvc pull` brings one in."
        )
    wanted = list(dict.fromkeys(names)) or there
    if html is not None and len(wanted) != 1:
        raise InputError(f"--html {html}: one page for {len(wanted)} cohorts. Name one cohort, or leave --html out.")

    cohorts: dict[str, Cohort] = {}
    for name in there:
        try:
            cohorts[name] = load(project, name)
        except InputError as error:
            if name in wanted:
                raise
            tell(f"cohort {name}: not compared with, it cannot be read ({error})")
    results = []
    for name in wanted:
        others = [other for other in cohorts.values() if other.name != name]
        page = html or project.private / "check" / f"{name}.html"
        results.append(check(cohorts[name], others, settings, page))
    return results


def check(cohort: Cohort, others: Sequence[Cohort], settings: Settings, html: Path) -> CheckResult:
    """Check one cohort and write its page."""
    from stages.cohort_report import Thresholds, examine
    from stages.cohort_report_page import page
    from stages.cohort_report_plots import draw  # matplotlib takes half a second to import
    from stages.cohort_report_rules import judge

    limits = settings.check.model_dump()
    given = {field.name: limits[field.name] for field in fields(Thresholds) if field.name in limits}
    thresholds = Thresholds(**given, min_utterances=settings.personalize.min_utterances)
    figures, frame = examine(cohort, others, thresholds, cohort.name in settings.personal_cohorts)
    findings = judge(figures, limits)
    write_text(html, page(figures, findings, draw(frame, figures, limits)))
    return CheckResult(cohort.name, findings, figures, html)


def load(project: Project, name: str) -> Cohort:
    """A cohort as the report sees it. Raises InputError where it cannot be read."""
    from pipeline.cohorts.index import read_index
    from stages.cohort_report import Cohort

    record = read_cohort(project.cohort(name))
    return Cohort(
        name=name,
        language=record.language,
        table=read_index(project.cohort(name)),
        called={slug: user.name for slug, user in record.users.items()},
        quarantine=read_quarantine(project.private / "quarantine" / f"{name}.csv"),
    )


def read_quarantine(path: Path) -> list[Problem]:
    """What `add` and `append` set aside; empty without a report. Raises InputError for a file that is none."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        return [Problem(row["item"], row["reason"]) for row in rows]
    except FileNotFoundError:
        return []
    except (csv.Error, UnicodeDecodeError, KeyError) as error:
        raise InputError(
            f"{path}: not a quarantine report ({error!r}). Delete it; `edgealign cohort add` writes it."
        ) from error


def check_and_print(project: Project, names: Sequence[str], *, html: Path | None = None, as_json: bool = False) -> bool:
    """Check cohorts and print what was found, for people or as JSON (a list, one object a cohort); whether all rules are kept.

    Raises as ``check_cohorts`` does.
    """
    from rich.console import Console

    settings = load_settings(project.root)
    aside = Console(stderr=True)
    results = check_cohorts(
        project, names, settings=settings, html=html, tell=lambda line: aside.print(line, markup=False, soft_wrap=True)
    )
    if as_json:
        print(json.dumps([result.as_json() for result in results], indent=1, ensure_ascii=False, allow_nan=False))
    else:
        console = Console()
        for result in results:
            print_check(result, console)
            console.print()
        if len(results) > 1:
            print_verdicts(results, console)
    return not any(result.broken for result in results)


# --- the terminal ---------------------------------------------------------------------------------------------------

COLOURS: Mapping[str, str] = {"ok": "green", "broken": "bold red", "unknown": "yellow", "off": "dim"}


def print_check(result: CheckResult, console: Console) -> None:
    """Rules with what was measured, the key figures, and the users that want a look."""
    from rich.table import Table
    from rich.text import Text

    from stages.cohort_report_page import (
        consent_say,
        noted_users,
        sound_say,
        texts_say,
        tiles,
        users_say,
        verdict,
        worst_first,
    )

    figures = result.figures
    console.print(Text(f"{result.cohort}: {', '.join(f'{value} {what}' for value, what in tiles(figures))}", "bold"))
    wide = console.width >= WIDE
    rules = Table("", "rule", *(["what"] if wide else []), "here", "needed", box=None, pad_edge=False)
    for finding in worst_first(result.findings):
        if finding.state != "off":
            says = [finding.says] if wide else []
            state = Text(finding.state, COLOURS[finding.state])
            rules.add_row(state, finding.key, *says, finding.shown, finding.shown_limit)
    console.print(rules)
    for line in (sound_say(figures), texts_say(figures), consent_say(figures), users_say(figures)):
        console.print(Text(line), soft_wrap=True)
    noted = noted_users(figures)
    if noted:
        users = Table("user", "utterances", "minutes", "look at", box=None, pad_edge=False)
        for row in noted[:SHOWN_USERS]:
            name = row["user"] if len(row["user"]) <= MAX_NAME else f"{row['user'][: MAX_NAME - 1]}…"
            users.add_row(Text(name), f"{row['utterances']:,}", f"{row['seconds'] / 60:.1f}", row["notes"])
        if len(noted) > SHOWN_USERS:
            users.add_row(f"… and {len(noted) - SHOWN_USERS:,} more", "", "", "")
        console.print(users)
    for group in figures["quarantine"]["groups"][:SHOWN_USERS]:
        console.print(Text(f"set aside {len(group['items']):,}: {group['reason']}"), soft_wrap=True)
    console.print(Text(verdict(result.findings), COLOURS["broken" if result.broken else "ok"]))
    console.print(Text(f"page: {result.html}"), soft_wrap=True)


def print_verdicts(results: Sequence[CheckResult], console: Console) -> None:
    """A line a cohort."""
    from rich.table import Table
    from rich.text import Text

    from stages.cohort_report_page import verdict

    table = Table("cohort", "verdict", box=None, pad_edge=False)
    for result in results:
        table.add_row(Text(result.cohort), Text(verdict(result.findings), COLOURS["broken" if result.broken else "ok"]))
    console.print(table)
