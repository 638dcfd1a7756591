"""Names and other words that a project listens for: kept on this machine, never in git or DVC, since names are personal."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.project import Project
from stages.atomic import write_json
from stages.errors import InputError
from stages.text import normalise, problems_of

EVERYONE = "everyone"


def words_file(project: Project) -> Path:
    """Where they are."""
    return project.root / ".edgealign" / "words.json"


def read_words(project: Project) -> dict[str, list[str]]:
    """Words by user (COHORT/USER, or EVERYONE). Raises InputError where the file is damaged."""
    path = words_file(project)
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(user): [str(word) for word in words] for user, words in found.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path}: not readable ({error}). Mend or delete it, then add the words again with `edgealign words add`."
        ) from None


def words_for(project: Project, user: str | None) -> list[str]:
    """What is listened for in a recording of ``user`` (None: nobody known): everyone's words and the user's own."""
    found = read_words(project)
    return sorted({*found.get(EVERYONE, []), *(found.get(user, []) if user else [])})


def add_words(project: Project, words: list[str], user: str = EVERYONE) -> tuple[list[str], list[str]]:
    """(new ones, those that were there), in spoken form. Raises InputError, and adds none, where one cannot be spoken."""
    spoken = [_spoken(word) for word in words]
    known = read_words(project)
    there = known.get(user, [])
    new = [word for word in dict.fromkeys(spoken) if word not in there]
    if new:
        write_json(words_file(project), {**known, user: sorted([*there, *new])})
    return new, [word for word in dict.fromkeys(spoken) if word in there]


def remove_words(project: Project, words: list[str], user: str = EVERYONE) -> list[str]:
    """Forget words; returns them. Raises InputError, and removes none, where one is not in the list."""
    known = read_words(project)
    there = known.get(user, [])
    spoken = [_spoken(word) for word in words]
    missing = [word for word in spoken if word not in there]
    if missing:
        listed = ", ".join(there) or "none"
        raise InputError(f"{', '.join(missing)}: not among the words of {user}, which are: {listed}.")
    left = {**known, user: [word for word in there if word not in spoken]}
    write_json(words_file(project), {name: listed for name, listed in left.items() if listed})
    return spoken


def _spoken(word: str) -> str:
    """The spoken form that a read-out has."""
    problems = problems_of(word, "en")
    spoken = "" if problems else normalise(word)
    if not spoken:
        why = f" ({problems})" if problems else ""
        raise InputError(
            f"{word!r}: cannot be said{why}. Give a word or a name in the letters that it is written with."
        )
    return spoken
