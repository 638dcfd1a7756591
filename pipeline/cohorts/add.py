"""Recordings in: a folder and a CSV become a cohort. Each bad item is set aside with its reason, the good ones go in."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from pipeline.cohorts.store import CohortRecord, build, publish, workspace
from pipeline.progress import progress
from pipeline.project import Project
from pipeline.settings import COHORT_NAME
from stages.atomic import sha256_bytes, sha256_file, sha256_json, write_text
from stages.audio import decode, describe, encode_flac, read_header, to_mono_16k
from stages.errors import InputError
from stages.schema import SAMPLE_RATE_HZ
from stages.shards import Problem, ShardItem
from stages.text import problems_of

MADE_BY = "edgealign cohort add"
COLUMNS = ("file", "user", "text")
MIN_DURATION_S = 0.1  # shorter than any word
MAX_DURATION_S = 30.0
MAX_CLIPPED_SHARE = 0.05  # above it, the flat tops are most of the loud speech
WORKERS = 2


@dataclass(frozen=True)
class Row:
    """One line of the CSV that points at a recording inside the folder."""

    line: int
    path: Path
    user: str
    called: str  # the user's name as the CSV has it
    text: str | None
    utterance: str


@dataclass
class Intake:
    """What came in and what was set aside."""

    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    converted: dict[str, int] = field(default_factory=dict)  # what was done to recordings, how often

    def note(self, what: str) -> None:
        self.converted[what] = self.converted.get(what, 0) + 1


def read_rows(audio: Path, transcripts: Path, language: str) -> Intake:
    """The usable rows of the CSV, sorted by utterance, and the others with their reasons.

    Raises InputError where the folder or the CSV as a whole cannot be used.
    """
    if not audio.is_dir():
        raise InputError(f"{audio}: no such folder. Give the folder of recordings with --audio.")
    table = csv.DictReader(io.StringIO(_decode(transcripts), newline=""))
    try:
        rows = list(table)
    except csv.Error as error:
        raise InputError(f"{transcripts}: not readable as CSV ({error}). Save it as CSV with UTF-8.") from error
    missing = [name for name in COLUMNS if name not in (table.fieldnames or [])]
    if missing:
        raise InputError(
            f"{transcripts}: lacks the column(s) {', '.join(missing)}, has {', '.join(table.fieldnames or []) or 'none'}. "
            f"Needed: {','.join(COLUMNS)}."
        )
    intake = Intake()
    names = _Names()
    for line, row in enumerate(rows, start=2):
        item = f"line {line}: {(row['file'] or '').strip() or '(no file)'}"
        try:
            intake.rows.append(_row(line, row, audio, transcripts.parent, language, names))
        except InputError as error:
            intake.problems.append(Problem(item, str(error)))
    intake.rows.sort(key=lambda row: row.utterance)
    return intake


def _decode(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}). Give the CSV with --transcripts.") from error
    for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"", "utf-8-sig")):
        if content.startswith(mark):
            try:
                text = content.decode(encoding)
            except UnicodeDecodeError as error:
                raise InputError(f"{path}: not {encoding} text ({error.reason}). Save it as CSV with UTF-8.") from error
            if "\0" in text:
                raise InputError(f"{path}: holds NUL bytes: no CSV. Save it as CSV with UTF-8.")
            return text
    raise AssertionError  # the empty mark matches everything


class _Names:
    """Names that are safe in paths and tars, the same for the same input, never the same for two different ones."""

    def __init__(self) -> None:
        self.users: dict[str, str] = {}
        self.utterances: dict[str, Path] = {}

    def user(self, given: str) -> str:
        clean = _slug(given)
        owner = self.users.setdefault(clean, given)
        if owner != given:  # two people whose names differ only in what was cleaned away
            clean = f"{clean[:100]}-{sha256_bytes(given.encode())[:8]}"
            self.users[clean] = given
        return clean

    def utterance(self, path: Path, user: str) -> str:
        name = _slug(path.stem)
        if self.utterances.get(name) == path:
            raise InputError("the recording is listed twice. Keep one line.")
        if name in self.utterances:
            name = f"{user[:60]}-{name[:60]}"
        if self.utterances.get(name, path) != path:
            name = f"{name[:100]}-{sha256_bytes(path.as_posix().encode())[:8]}"
        if name in self.utterances:
            raise InputError("the recording is listed twice. Keep one line.")
        self.utterances[name] = path
        return name


def _slug(given: str) -> str:
    text = unicodedata.normalize("NFKD", given)
    text = re.sub(r"[^A-Za-z0-9_-]+", "-", "".join(mark for mark in text if not unicodedata.combining(mark)))
    text = text.strip("-_")[:120]
    return text or f"x{sha256_bytes(given.encode())[:8]}"


def _row(line: int, row: dict[str, str | None], audio: Path, csv_folder: Path, language: str, names: _Names) -> Row:
    given, user, text = ((row.get(name) or "").strip() for name in COLUMNS)
    if None in row:
        raise InputError("has more fields than the header. Put quotes around text that holds a comma.")
    if not given:
        raise InputError("names no file.")
    if not user:
        raise InputError("names no user.")
    found = _inside(given, audio, csv_folder)
    if text:
        try:
            reason = problems_of(text, language)
        except ValueError as error:
            raise InputError(str(error)) from error
        if reason:
            raise InputError(f"its transcript cannot be used: {reason}")
    return Row(line, found, names.user(user), user, text or None, names.utterance(found, names.user(user)))


def _inside(given: str, audio: Path, csv_folder: Path) -> Path:
    """The file that a CSV names, which must lie in the folder of recordings. Raises InputError."""
    root = audio.resolve()
    for base in (audio, csv_folder):
        try:
            path = (base / given).resolve()
        except (OSError, ValueError) as error:
            raise InputError(f"its path cannot be used ({error}).") from error
        if path.is_relative_to(root) and path.is_file():
            return path
    if not (audio / given).resolve().is_relative_to(root):
        raise InputError(f"its path leaves the folder {audio}.")
    raise InputError(f"no such file in {audio}.")


def read_item(row: Row, language: str, consent: dict[str, str]) -> tuple[ShardItem | Problem, list[str]]:
    """One recording, checked and converted, or why not; and what was done to it."""
    name = row.path.name
    try:
        header = read_header(row.path, name)
        if header.duration_s > MAX_DURATION_S:  # from the header: an hour of audio is never decoded
            raise InputError(
                f"{name}: lasts {header.duration_s:.0f} s, at most {MAX_DURATION_S:g} s are one utterance. Cut it up."
            )
        if header.duration_s < MIN_DURATION_S:
            raise InputError(f"{name}: lasts {header.duration_s:.2f} s, no word fits into it. Leave it out.")
        recording = decode(row.path, name)
        levels = describe(recording.samples, recording.rate_hz)
        if levels.silent:
            raise InputError(f"{name}: silent (level {levels.rms:.1e} of full scale). Record it again or leave it out.")
        if levels.clipped_share > MAX_CLIPPED_SHARE:
            raise InputError(
                f"{name}: clipped: {levels.clipped_share:.0%} of its samples are at full scale, at most "
                f"{MAX_CLIPPED_SHARE:.0%} are usable. Record it again at a lower level."
            )
        audio = encode_flac(to_mono_16k(recording))
    except InputError as error:
        return Problem(f"line {row.line}: {row.path.name}", str(error)), []
    done = []
    if header.rate_hz != SAMPLE_RATE_HZ:
        done.append(f"resampled from {header.rate_hz} Hz")
    if header.channels > 1:
        done.append(f"mixed down from {header.channels} channels")
    if levels.clipped_share > 0.001:
        done.append("slightly clipped, kept")
    return (
        ShardItem(
            utterance=row.utterance,
            user=row.user,
            text=row.text,
            language=language,
            consent=dict(consent),
            source_sha256=sha256_bytes(row.path.read_bytes()),
            duration_s=header.duration_s,
            audio=audio,
            audio_sha256=sha256_bytes(audio),
        ),
        done,
    )


def add_cohort(
    project: Project,
    name: str,
    audio: Path,
    transcripts: Path,
    *,
    language: str = "en",
    consent: str = "granted",
    replace: bool = False,
    dry_run: bool = False,
    tell: Callable[[str], None] = print,
) -> Intake:
    """Bring a folder of recordings in as the cohort ``name``. With ``dry_run`` everything is checked, nothing written.

    Raises InputError where the cohort is there already, or where no recording can be used.
    """
    target = project.cohort(name)
    if not COHORT_NAME.match(name):
        raise InputError(f"cohort {name!r}: use a-z, 0-9 and hyphens, at most 63 characters.")
    if target.exists() and not replace and not dry_run:
        raise InputError(f"{target}: the cohort is there already. Give --replace to put this one in its place.")
    intake = read_rows(audio, transcripts, language)
    card = {"status": consent}
    report = project.private / "quarantine" / f"{name}.csv"
    try:
        with progress(f"cohort {name}", len(intake.rows), "recordings") as advance:
            items = _items(intake, language, card, advance)
            if dry_run:
                count = sum(1 for _ in items)
                tell(f"dry run: {count} recording(s) would go in, {len(intake.problems)} would be set aside")
            else:
                _publish(project, name, intake, items, language, card, tell)
    finally:
        if not dry_run:
            _write_report(report, intake.problems)
        for what, count in sorted(intake.converted.items()):
            tell(f"  {count} {what}")
        if intake.problems:
            where = "" if dry_run else f", each with its reason in {report}"
            tell(f"  {len(intake.problems)} set aside{where}")
            for problem in intake.problems[: None if dry_run else 5]:
                tell(f"    {problem.item}: {problem.reason}")
    return intake


def _publish(
    project: Project,
    name: str,
    intake: Intake,
    items: Iterator[ShardItem],
    language: str,
    consent: dict[str, str],
    tell: Callable[[str], None],
) -> None:
    """Build the cohort beside data/ and move it there; data/ stays as it was where anything fails."""
    source = sha256_json([[row.utterance, row.user, row.text, sha256_file(row.path)] for row in intake.rows])
    with workspace(project, name) as scratch:
        record = CohortRecord(name, language, dict(consent), MADE_BY, source)
        made = build(scratch / name, record, items, {row.user: row.called for row in intake.rows})
        if not made.utterances:
            raise InputError(
                f"cohort {name}: no recording could be used; every reason stands in the quarantine report."
            )
        publish(scratch / name, project.cohort(name))
    tell(
        f"cohort {name}: {made.utterances} utterances of {len(made.users)} user(s), {made.seconds / 60:.1f} minutes, "
        f"{len(made.shards)} shard(s)"
    )


def _items(
    intake: Intake, language: str, consent: dict[str, str], advance: Callable[[int], None]
) -> Iterator[ShardItem]:
    """Good items in order; decoding runs ahead on threads (libsndfile and soxr let go of the interpreter)."""
    rows = iter(intake.rows)
    seen: dict[str, str] = {}
    with ThreadPoolExecutor(WORKERS) as pool:

        def submit(row: Row) -> Future[tuple[ShardItem | Problem, list[str]]]:
            return pool.submit(read_item, row, language, consent)

        waiting = deque(submit(row) for row in islice(rows, 4 * WORKERS))  # a few ahead: memory stays flat
        while waiting:
            found, done = waiting.popleft().result()
            if isinstance(found, ShardItem):
                first = seen.setdefault(found.source_sha256, found.utterance)
                if first != found.utterance:  # on both sides of a split it would judge what it has taught
                    found = Problem(f"recording {found.utterance}", f"the same recording as {first}. Keep one of them.")
            waiting.extend(submit(row) for row in islice(rows, 1))
            advance(1)
            if isinstance(found, Problem):
                intake.problems.append(found)
                continue
            for what in done:
                intake.note(what)
            yield found


def _write_report(path: Path, problems: list[Problem]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("item", "reason"))
    writer.writerows((problem.item, problem.reason) for problem in problems)
    write_text(path, buffer.getvalue())
