"""The person out of .edgealign/ and what a cluster shipped here: reports, spool, replay buffers, what killed commands left."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.cohorts.erasure.artifacts import clean_record
from pipeline.cohorts.erasure.content import Notes, blob_of, holds, parse_json, quarantined, read_kind
from pipeline.cohorts.erasure.person import Matcher
from pipeline.cohorts.erasure.state import Erasure
from pipeline.cohorts.erasure.survey import on_this_device
from pipeline.settings import Settings
from pipeline.tracking.record import Record
from pipeline.tracking.spool import Spool
from stages.atomic import write_json, write_private, write_text
from stages.errors import InputError
from stages.spoken_form import fold
from stages.word_list import WordList

SEND_WAIT_S = 60.0
EVERYONES_WORDS = ("words", "everyone.json")


def erase_private(erasure: Erasure, settings: Settings, found: Iterable[str], shipped: Iterable[str]) -> None:
    """Clean or delete what was found. Raises filelock.Timeout where another process sends the spool for a minute."""
    private, matcher = erasure.project.private, erasure.matcher()
    spool = Spool(private / "spool")
    records = set()
    for place in found:
        path = erasure.project.root / place
        parts = path.relative_to(private).parts if private in path.parents else ()
        if parts[:1] == ("quarantine",):
            _clean_quarantine(path, matcher)
        elif parts[:1] == ("spool",) and len(parts) > 1:
            records.add(private.joinpath(*parts[: 3 if parts[1] == "refused" else 2]))
        elif parts == EVERYONES_WORDS:
            continue  # cleaned below, whether or not a search found it: a name among words is text, which it does not ask
        elif parts[:1] == ("incoming",) and len(parts) > 3:
            shutil.rmtree(path.parent, ignore_errors=True)  # a chunk or a cohort that was not finished
        else:
            path.unlink(missing_ok=True)
            _prune(path.parent, erasure.project.root, matcher)
    if records:
        with spool.sending(SEND_WAIT_S):
            for folder in sorted(records):
                _clean_record(folder, matcher)
    if set(settings.base_cohorts) & set(erasure.person.slugs):
        for checkpoint in (private / "checkpoints").glob("*base-*"):
            checkpoint.unlink()  # a training under way, of a base that learns from the person
    _clean_words(private.joinpath(*EVERYONES_WORDS), matcher)
    for drawing in private.glob(".figures-*"):
        shutil.rmtree(drawing, ignore_errors=True)  # of a stage that was killed; no search finds a name in a picture
    for shipment in shipped:
        shutil.rmtree(shipment, ignore_errors=True)
    on_this_device(erasure.person, dry_run=False)


def _prune(folder: Path, top: Path, matcher: Matcher) -> None:
    """Remove folders that are empty now, upwards, as long as they are called like the person or lie in such a folder."""
    while folder != top and folder.is_dir() and not any(folder.iterdir()):
        if not matcher.in_path(folder.relative_to(top).parts[1:], prefix=True):
            return
        folder.rmdir()
        folder = folder.parent


def _clean_quarantine(path: Path, matcher: Matcher) -> None:
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = [row for row in csv.reader(file) if not quarantined(row, matcher, path.stem)]
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    write_text(path, buffer.getvalue())


def _clean_words(path: Path, matcher: Matcher) -> None:
    """Words that everybody's recordings are listened to for: what the person is called goes, the others stay."""
    called = {fold(name) for name in matcher.names}
    try:
        words = WordList(path, "everyone").read()
        left = [word for word in words if fold(word) not in called and not matcher.in_text(word)]
    except InputError:
        path.unlink()  # nobody can say whose names are in it
        return
    if left and left != words:
        write_private(path, (json.dumps(left, ensure_ascii=False, indent=2) + "\n").encode())
    elif not left:
        path.unlink(missing_ok=True)


def _clean_record(folder: Path, matcher: Matcher) -> None:
    """A run that waits in the spool: the person's own goes, another's loses what names the person."""
    path = folder / "record.json"
    content = parse_json(path.read_bytes()) if path.is_file() else None
    try:
        record = Record.from_json(content or {})
    except (KeyError, TypeError, ValueError, AttributeError):
        shutil.rmtree(folder, ignore_errors=True) if folder.is_dir() else folder.unlink(missing_ok=True)
        return
    if matcher.is_user(record.tags.get("user"), record.tags.get("cohort")):
        shutil.rmtree(folder)
        return
    kept = []
    for artifact in record.artifacts:
        file = folder / artifact.source
        if file.is_file() and not clean_file(file, matcher, record.tags.get("cohort")):
            file.unlink()
        if file.is_file():
            kept.append(artifact)
    write_json(
        path,
        replace(
            record,
            artifacts=kept,
            params=clean_pairs(record.params, matcher, record.tags.get("cohort")),
            tags=clean_pairs(record.tags, matcher, record.tags.get("cohort")),
            ancestors=[replace(item, tags=clean_pairs(item.tags, matcher, None)) for item in record.ancestors],
            datasets=[item for item in record.datasets if not matcher.in_json([item.name, item.source])],
        ).as_json(),
    )


def clean_pairs(pairs: dict[str, str], matcher: Matcher, cohort: str | None) -> dict[str, str]:
    """Tags or parameters without those that name the person."""
    return {
        key: value
        for key, value in pairs.items()
        if not (matcher.in_text(key, cohort) or matcher.in_text(value, cohort))
    }


def clean_file(path: Path, matcher: Matcher, cohort: str | None) -> bool:
    """Whether a run's file may stay: it does not name the person, or it was a base's record and is cleaned now.

    A picture may show a name that no search finds: it stays only where no file beside it (of the same run) named the person,
    which the caller decides.
    """
    kind = read_kind(blob_of(path, cohort))
    if kind == "picture":
        return False
    if not holds(blob_of(path, cohort), kind, matcher.person, matcher, Notes()):
        return True
    cleaned: Any = clean_record(parse_json(path.read_bytes()), matcher)
    if cleaned is None:
        return False
    path.chmod(0o644)
    path.write_text(json.dumps(cleaned, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return True
