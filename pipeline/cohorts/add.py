"""Recordings in: what people have becomes a cohort, or the next part of one.

All or nothing as seen by data/: a cohort is prepared in ``.edgealign/incoming`` and put into place in one step. What a kill
leaves there is used by the next try. Each bad item is set aside with its reason, the good ones go in.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.cohorts.convert import judge_chunk, write_chunk
from pipeline.cohorts.index import read_index
from pipeline.cohorts.intake import THERE_ALREADY, Batch, Known, finish, gather, told_when_full
from pipeline.cohorts.plan import Plan, Taken, check_language, plan_rows, withheld
from pipeline.cohorts.store import CohortRecord, claim, publish, read_cohort
from pipeline.cohorts.workers import chunk_folders, default_workers, run_local, run_on_ray
from pipeline.progress import progress
from pipeline.project import Project
from pipeline.settings import COHORT_NAME, Settings
from stages.atomic import sha256_json, write_text
from stages.consent import make_consent
from stages.errors import InputError
from stages.shards import Problem

MADE_BY = "edgealign cohort add"
RAY_FROM = 10_000  # recordings from which a cluster, where params.yaml names one, is worth sending them to
SHOWN = 5  # problems that are told; all of them stand in the quarantine report


@dataclass(frozen=True)
class Options:
    """How a source is read and converted; the same for ``add`` and ``append``."""

    transcripts: Path | None = None
    user_from: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    language: str | None = None  # None: the cohort's own, English for a new one
    consent: Mapping[str, Any] | None = None  # None: the cohort's own, granted without a date for a new one
    cut_long: bool = True
    workers: int | None = None  # None: one a core; 0: this process
    ray: bool | None = None  # None: where params.yaml names a cluster and there is much to do


@dataclass
class Outcome:
    """What came in and what was set aside."""

    utterances: int = 0
    problems: list[Problem] = field(default_factory=list)
    converted: dict[str, int] = field(default_factory=dict)  # what was done to recordings, how often
    shards: list[str] = field(default_factory=list)  # those that were written
    nothing_new: bool = False  # every recording was there already


def add_cohort(
    project: Project,
    name: str,
    audio: Path,
    options: Options | None = None,
    *,
    settings: Settings | None = None,
    replace: bool = False,
    dry_run: bool = False,
    tell: Callable[[str], None] = print,
) -> Outcome:
    """Bring recordings in as the cohort ``name``. With ``dry_run`` everything is checked, no cohort is written.

    Raises InputError where the cohort is there already (unless it came from the very same recordings: then nothing is
    left to do), or where no recording can be used.
    """
    options = options or Options()
    if not COHORT_NAME.match(name):
        raise InputError(f"cohort {name!r}: use a-z, 0-9 and hyphens, at most 63 characters.")
    target = project.cohort(name)
    language = options.language or "en"
    check_language(language)
    record = CohortRecord(name, language, dict(options.consent or make_consent(True)), MADE_BY, "")
    with claim(project, name) as scratch:
        plan = _plan(audio, options, record, None, tell)
        key = _key(plan, options)
        if target.exists() and not replace and not dry_run:
            if _added(project, name).is_file() and _added(project, name).read_text(encoding="utf-8") == key:
                tell(f"cohort {name}: is there already, from these very recordings")
                return Outcome(nothing_new=True)
            raise InputError(
                f"{target}: the cohort is there already. Give --replace to put this one in its place, or bring more "
                f"recordings in with `edgealign cohort append {name} ...`."
            )
        return _bring_in(project, record, plan, options, settings, scratch, None, Known(), dry_run, key, tell)


def append_cohort(
    project: Project,
    name: str,
    audio: Path,
    options: Options | None = None,
    *,
    settings: Settings | None = None,
    dry_run: bool = False,
    tell: Callable[[str], None] = print,
) -> Outcome:
    """Bring more recordings, of known or new users, into a cohort; its shards stay as they are, only new ones are written.

    Raises InputError where there is no such cohort.
    """
    options = options or Options()
    target = project.cohort(name)
    with claim(project, name) as scratch:
        record = read_cohort(target)
        index = read_index(target).select(["utterance", "audio_sha256"]).to_pydict()
        known = Known(frozenset(index["audio_sha256"]))
        taken = Taken(frozenset(index["utterance"]), {slug: user.name for slug, user in record.users.items()})
        plan = _plan(audio, options, record, taken, tell)
        return _bring_in(project, record, plan, options, settings, scratch, target, known, dry_run, None, tell)


def _plan(
    audio: Path, options: Options, record: CohortRecord, taken: Taken | None, tell: Callable[[str], None]
) -> Plan:
    """Find out what the source is and name its rows."""
    from pipeline.cohorts.sources import find_source

    source = find_source(audio, options.transcripts, user_from=options.user_from, columns=options.columns)
    tell(f"found: {source.kind}")
    for line in source.says:
        tell(f"  {line}")
    plan = plan_rows(
        source.rows,
        options.language or record.language,
        dict(options.consent or record.consent),
        root=str(Path(audio).resolve()),
        taken=taken,
    )
    told = sum(row.text is not None for row in plan.rows)
    users = len({row.user for row in plan.rows})
    tell(
        f"  {len(plan.rows)} recording(s) of {users} user(s), {told} with a transcript"
        + (f", {len(plan.problems)} line(s) cannot be used" if plan.problems else "")
    )
    if withheld(plan):
        tell(f"  {withheld(plan)} recording(s) without consent: they go in, and train nothing")
    return plan


def _key(plan: Plan, options: Options) -> str:
    """Identity of a plan: the same recordings, untouched since, and the same options."""
    return sha256_json([folder.name for _, folder in chunk_folders(plan.chunks(), Path(), options.cut_long)])


def _added(project: Project, name: str) -> Path:
    return project.private / "added" / name


def _bring_in(
    project: Project,
    record: CohortRecord,
    plan: Plan,
    options: Options,
    settings: Settings | None,
    scratch: Path,
    old: Path | None,
    known: Known,
    dry_run: bool,
    key: str | None,
    tell: Callable[[str], None],
) -> Outcome:
    """Convert the plan's rows and put them into place; the report of what was set aside is written in any case."""
    from pipeline.cohorts.erasure.tombstones import erased_recordings

    known.erased = erased_recordings(project)
    chunks = list(chunk_folders(plan.chunks(), scratch / ("judged" if dry_run else "chunks"), options.cut_long))
    batch = Batch(problems=list(plan.problems))
    try:
        with told_when_full(scratch):
            _convert(project, record.name, chunks, options, settings, dry_run)
            final = scratch / "final"
            shutil.rmtree(final, ignore_errors=True)  # what a kill left
            if not dry_run:
                final.mkdir()
            found = gather((folder for _, folder in chunks), known, None if dry_run else final, next_shard(record))
            found.problems = batch.problems + found.problems
            batch = found
            if dry_run:
                tell(
                    f"dry run: {batch.table.num_rows} utterance(s) would go in, {len(batch.problems)} would be set aside"
                )
            elif not batch.shards:
                shutil.rmtree(final)
                if not batch.done[THERE_ALREADY]:
                    raise InputError(
                        f"cohort {record.name}: no recording could be used; every reason stands in the quarantine report."
                    )
                tell(f"cohort {record.name}: nothing new")
                shutil.rmtree(scratch / "chunks", ignore_errors=True)
                return Outcome(problems=batch.problems, converted=dict(batch.done), nothing_new=True)
            else:
                full = finish(final, record, batch, old, _called(record, plan))
                publish(final, project.cohort(record.name))
                if key is not None:
                    write_text(_added(project, record.name), key)
                _tell_what_came(record, full, batch, tell)
        shutil.rmtree(scratch / ("judged" if dry_run else "chunks"), ignore_errors=True)
    finally:
        _tell_problems(project, record.name, batch, old is not None, dry_run, tell)
    return Outcome(batch.table.num_rows, batch.problems, dict(batch.done), sorted(batch.shards))


def next_shard(record: CohortRecord) -> int:
    """The number of the next shard: not how many there are, as one may have gone with a user who was forgotten."""
    return max((int(Path(name).stem.split("-")[1]) + 1 for name in record.shards), default=0)


def _convert(
    project: Project, name: str, chunks: list[Any], options: Options, settings: Settings | None, dry_run: bool
) -> None:
    total = sum(len(rows) for rows, _ in chunks)
    with progress(f"cohort {name}", total, "recordings") as advance:
        if not dry_run and settings is not None and _over_ray(options, settings, total):
            run_on_ray(project, settings, chunks, options.cut_long, advance)
        else:
            convert = judge_chunk if dry_run else write_chunk
            workers = default_workers() if options.workers is None else options.workers
            run_local(chunks, options.cut_long, workers, advance, convert)


def _over_ray(options: Options, settings: Settings, total: int) -> bool:
    if options.ray is not None:
        return options.ray
    return bool(settings.ray.address) and total >= RAY_FROM


def _called(record: CohortRecord, plan: Plan) -> dict[str, str]:
    return {**{slug: user.name for slug, user in record.users.items()}, **plan.called}


def _tell_what_came(record: CohortRecord, full: CohortRecord, batch: Batch, tell: Callable[[str], None]) -> None:
    new = f"{batch.table.num_rows} new, now " if record.shards else ""
    tell(
        f"cohort {full.name}: {new}{full.utterances} utterances of {len(full.users)} user(s), {full.seconds / 60:.1f} "
        f"minutes; {len(batch.shards)} shard(s) written"
    )


def _tell_problems(
    project: Project, name: str, batch: Batch, appended: bool, dry_run: bool, tell: Callable[[str], None]
) -> None:
    report = project.private / "quarantine" / f"{name}.csv"
    if not dry_run:
        try:
            _write_report(report, batch.problems, appended)
        except OSError as error:  # a full disk: the error that is on its way says so
            tell(f"  {report}: cannot be written ({error.strerror})")
    for what, count in sorted(batch.done.items()):
        tell(f"  {count} {what}")
    if batch.problems:
        tell(f"  {len(batch.problems)} set aside" + ("" if dry_run else f", each with its reason in {report}"))
        shown = batch.problems if dry_run and len(batch.problems) <= 20 * SHOWN else batch.problems[:SHOWN]
        for problem in shown:
            tell(f"    {problem.item}: {problem.reason}")
        if len(shown) < len(batch.problems):
            tell(f"    … and {len(batch.problems) - len(shown)} more")


def _write_report(path: Path, problems: list[Problem], keep: bool) -> None:
    """The quarantine report: anew, or with ``keep`` after what stands in it."""
    rows = [(problem.item, problem.reason) for problem in problems]
    if keep and path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            rows = [*map(tuple, list(csv.reader(file))[1:]), *rows]  # type: ignore[list-item]  # two columns each
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("item", "reason"))
    writer.writerows(dict.fromkeys(rows))
    write_text(path, buffer.getvalue())
