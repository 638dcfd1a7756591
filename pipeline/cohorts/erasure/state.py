"""An erasure under way: what it must remember to go on after a kill. It names the person, and is the last thing that goes."""

from __future__ import annotations

import datetime
import json
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.cohorts.erasure.person import Matcher, Person
from pipeline.cohorts.erasure.survey import STATE
from pipeline.project import Project
from stages.atomic import write_json
from stages.errors import InputError


@dataclass
class Erasure:
    """One erasure, from its plan to its proof."""

    project: Project
    id: str
    date: str
    only: str | None
    """The cohort that it was limited to."""
    person: Person
    cohorts: list[str] = field(default_factory=list)
    """Every cohort that was known when it began."""
    shards: dict[str, dict[str, str]] = field(default_factory=dict)
    """{cohort: {shard that holds the person: its SHA-256 before}}."""
    before: dict[str, list[str]] = field(default_factory=dict)
    """{cohort: its shards before}."""
    current: dict[str, dict[str, str]] = field(default_factory=dict)
    """{DVC stage: {dependency: hash}} of dependencies that were up to date before."""
    counts: Counter[str] = field(default_factory=Counter)
    objects: dict[str, list[str]] = field(default_factory=dict)
    """{store: object ids deleted there}."""
    runs: list[str] = field(default_factory=list)
    """MLflow runs that were deleted."""
    waits: list[str] = field(default_factory=list)
    """What others have to do; without a name."""
    proven: str | None = None
    """The erasure in another clone whose proof covers this one: none is written again."""

    @property
    def path(self) -> Path:
        return self.project.private / STATE / f"{self.id}.json"

    def matcher(self) -> Matcher:
        """A matcher for the person as known now."""
        return Matcher(self.person, self.cohorts)

    def save(self) -> None:
        """Write the state, so that a kill from here on loses nothing."""
        write_json(
            self.path,
            {
                "id": self.id,
                "date": self.date,
                "only": self.only,
                "person": self.person.to_json(),
                "cohorts": self.cohorts,
                "shards": self.shards,
                "before": self.before,
                "current": self.current,
                "counts": dict(self.counts),
                "objects": self.objects,
                "runs": self.runs,
                "waits": self.waits,
                "proven": self.proven,
            },
        )

    def is_about(self, user: str) -> bool:
        """Whether this is the erasure of a user who is called so."""
        return user == self.person.asked or user in self.person.slugs.values() or user in self.person.called

    def count(self, place: str, number: int = 1) -> None:
        """Add to the proof's counts."""
        if number:
            self.counts[place] += number

    @classmethod
    def begin(cls, project: Project, person: Person, only: str | None, cohorts: list[str]) -> Erasure:
        """A new erasure, under a random id that tells nothing; not saved yet."""
        return cls(project, secrets.token_hex(8), datetime.date.today().isoformat(), only, person, cohorts)

    @classmethod
    def read(cls, project: Project, path: Path) -> Erasure:
        """The erasure that ``save`` wrote. Raises InputError."""
        try:
            content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            rest = {key: value for key, value in content.items() if key not in ("person", "counts")}
            return cls(project, person=Person.from_json(content["person"]), counts=Counter(content["counts"]), **rest)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: an erasure that was not finished, not readable ({error}). Delete the file and run the command again."
            ) from error


def unfinished(project: Project) -> Iterator[Erasure]:
    """The erasures that were begun here and not finished."""
    for path in sorted((project.private / STATE).glob("*.json")):
        yield Erasure.read(project, path)
