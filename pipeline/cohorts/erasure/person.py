"""Who is to be forgotten, and whether a name, a text or a JSON speaks of that person.

A user called ``may`` must be found where *may* stands as a user, and not in everybody's transcripts. So plain names count only
where a whole field holds nothing else (a key, a value, a table's cell); names and utterance ids that are no ordinary word count
anywhere.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any
from urllib.parse import quote

SPEECH = frozenset({"text", "reference", "base", "personal", "cascade", "reply", "instruction"})
"""Keys whose values are what somebody said: a name in them is a word."""

_CELLS = re.compile(r"[<>|,;:\t\r\n\"'()\[\]{}=/\\]+")
_TOKENS = re.compile(r"[A-Za-z0-9_-]+")
_ENTITIES = re.compile(r"&[#\w]+;")


@dataclass
class Person:
    """All by which the person is found. Grows while old versions are searched; goes to the state file, never to the proof."""

    asked: str
    """What was typed."""
    slugs: dict[str, str] = field(default_factory=dict)
    """{cohort: the user's slug there}, for the cohorts that are in scope."""
    called: set[str] = field(default_factory=set)
    """What the sources call the user."""
    namesakes: set[str] = field(default_factory=set)
    """Cohorts out of scope that have a user of the same name, who stays."""
    others: set[str] = field(default_factory=set)
    """Names of other users that begin with one of the person's: ``ann-lee`` is not ``ann``."""
    utterances: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    """SHA-256 of the files that came in."""
    audio: set[str] = field(default_factory=set)
    """SHA-256 of the FLAC bytes."""
    shared_sources: set[str] = field(default_factory=set)
    """Those of ``sources`` from which utterances of others were cut as well: a conversation."""
    adapters: set[str] = field(default_factory=set)
    """SHA-256 of the weights of the person's own adapters."""
    bases: set[str] = field(default_factory=set)
    """SHA-256 of base adapters that learned from, or were chosen on, the person's recordings."""
    descendants: set[str] = field(default_factory=set)
    """SHA-256 of other users' adapters on such a base."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, for the state file."""
        return {key: sorted(value) if isinstance(value, set) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Person:
        """What ``to_json`` told."""
        sets = {item.name for item in fields(cls)} - {"asked", "slugs"}
        values: dict[str, Any] = {key: set(value) if key in sets else value for key, value in content.items()}
        return cls(**values)


class Matcher:
    """Answers for one person; made anew when the person has grown."""

    def __init__(self, person: Person, cohorts: Iterable[str] = ()) -> None:
        """``cohorts``: every cohort that is known, so that a key that is one says where its content belongs."""
        self.person = person
        self.cohorts = {*cohorts, *person.slugs, *person.namesakes}
        self.slugs = set(person.slugs.values())
        self.names = {form for name in self.slugs | person.called for form in forms(name)}

    @cached_property
    def _loud_names(self) -> re.Pattern[str] | None:
        loud = sorted((name for name in self.names if is_loud(name)), key=len, reverse=True)
        if not loud or self.person.namesakes:
            return None
        return _bounded(loud)

    @cached_property
    def _prefix(self) -> re.Pattern[str] | None:
        return None if self.person.namesakes or not self.names else _bounded(sorted(self.names, key=len, reverse=True))

    @cached_property
    def _loud_utterances(self) -> set[str]:
        return {name for name in self.person.utterances if is_loud(name)}

    def in_scope(self, cohort: str | None) -> bool:
        """Whether a user of the person's name in this cohort (None: unknown) is the person."""
        if cohort is None:
            return not self.person.namesakes
        return cohort in self.person.slugs

    def is_user(self, value: Any, cohort: str | None = None) -> bool:
        """Whether ``value`` is what the person is called in ``cohort``."""
        if not isinstance(value, str) or not self.in_scope(cohort):
            return False
        return value in self.names or (cohort is not None and value == self.person.slugs.get(cohort))

    def is_utterance(self, value: Any, cohort: str | None = None) -> bool:
        """Whether ``value`` is the id of one of the person's utterances."""
        if not isinstance(value, str) or (cohort is not None and cohort not in self.person.slugs):
            return False
        return value in self.person.utterances

    def in_path(self, parts: Iterable[str], cohort: str | None = None, *, prefix: bool = False) -> bool:
        """Whether a path's parts name the person: a folder or file of the user, or of one of the utterances.

        With ``prefix`` also what begins with a name, such as a recording ``ann-07.wav`` that never became an utterance.
        """
        for part in parts:
            if cohort is None and part in self.cohorts:
                cohort = part  # a cohort may be called like its user
                continue
            stem = part.lstrip(".").partition(".")[0]
            if self.is_user(part, cohort) or self.is_user(stem, cohort) or self.is_utterance(stem, cohort):
                return True
            if self._says_loudly(part, cohort) or (prefix and self._found(self._prefix, part, start=True)):
                return True
        return False

    def in_text(self, text: str, cohort: str | None = None) -> bool:
        """Whether a table, page or log names the person: in a cell of its own, or by a name that is no ordinary word."""
        if _ENTITIES.search(text):
            text = html.unescape(text)
        if self._says_loudly(text, cohort):
            return True
        before = None
        for cell in filter(None, map(str.strip, _CELLS.split(text))):
            if self.is_utterance(cell, cohort):
                return True
            # cohort and user stand side by side, in either order, in every table that edgealign writes
            only_cohort = cell in self.cohorts and before not in self.person.slugs
            if (
                cell in self.names
                and not only_cohort
                and (self.in_scope(cohort) or (cohort is None and before in self.person.slugs))
            ):
                return True
            if before in self.names and cohort is None and cell in self.person.slugs:
                return True
            before = cell
        return False

    def in_json(self, content: Any, cohort: str | None = None) -> bool:
        """Whether parsed JSON names the person, in a key or in a value; what somebody said is not asked."""
        if isinstance(content, Mapping):
            if isinstance(content.get("cohort"), str):
                cohort = content["cohort"]
            if is_evaluation(content):
                return self._in_evaluation(content, cohort)
            for key, value in content.items():
                if key == "cohort" or key in SPEECH:
                    continue
                is_cohort = cohort is None and key in self.cohorts
                if (not is_cohort and self._is(key, cohort)) or self.in_json(value, key if is_cohort else cohort):
                    return True
            return False
        if isinstance(content, list):
            return any(self.in_json(item, cohort) for item in content)
        return isinstance(content, str) and self._is(content, cohort)

    def _in_evaluation(self, content: Mapping[str, Any], cohort: str | None) -> bool:
        users = {**(content.get("users") or {}), **(content.get("skipped") or {})}
        if any(self.is_user(user, cohort) for user in users):
            return True
        told = [user for user in users.values() if isinstance(user, Mapping)]
        items = [item for user in told for key in ("examples", "read") for item in user.get(key) or []]
        items += [user["posteriors"] for user in told if user.get("posteriors")]
        return any(self.is_utterance(item.get("utterance"), cohort) for item in items)

    def _is(self, value: str, cohort: str | None) -> bool:
        if self.is_user(value, cohort) or self.is_utterance(value, cohort):
            return True
        first, _, second = value.partition("/")
        if second and first in self.cohorts and self.is_user(second, first):
            return True
        return self._says_loudly(value, cohort) or ("/" in value and self.in_path(value.split("/"), cohort))

    def _says_loudly(self, text: str, cohort: str | None) -> bool:
        if cohort is not None and cohort not in self.person.slugs:
            return False
        return self._found(self._loud_names, text) or not self._loud_utterances.isdisjoint(_TOKENS.findall(text))

    def _found(self, pattern: re.Pattern[str] | None, text: str, *, start: bool = False) -> bool:
        """Whether one of the names stands in ``text`` (at its start) and is not the beginning of somebody else's."""
        if pattern is None:
            return False
        for found in [pattern.match(text)] if start else pattern.finditer(text):
            if found and not any(text.startswith(name, found.start()) for name in self.person.others):
                return True
        return False

    def loud(self) -> list[str]:
        """Names and utterance ids that are no ordinary words: what a search of raw bytes may look for."""
        names = set() if self.person.namesakes else {name for name in self.names if is_loud(name)}
        return sorted(names | self._loud_utterances)


def is_evaluation(content: Mapping[str, Any]) -> bool:
    """Whether JSON is a cohort's evaluation, or its metrics as they were when these still named users."""
    return isinstance(content.get("users"), Mapping) and "all" in content


def is_loud(name: str) -> bool:
    """Whether a name is no word that a text could hold by chance: a long one, or letters joined with digits or signs."""
    return len(name) >= 5 and (len(name) >= 12 or bool(re.search(r"[^\W\d_]", name) and re.search(r"[\W\d_]", name)))


def _bounded(names: Iterable[str]) -> re.Pattern[str]:
    """Any of the names where no letter or digit goes on before or after it."""
    return re.compile(rf"(?<![^\W_])(?:{'|'.join(map(re.escape, names))})(?![^\W_])")


def forms(name: str) -> Iterator[str]:
    """A name as files may spell it: composed or not, escaped for JSON, HTML or a URL."""
    for norm in ("NFC", "NFD"):
        plain = unicodedata.normalize(norm, name)
        yield from {plain, json.dumps(plain)[1:-1], html.escape(plain), quote(plain)}
