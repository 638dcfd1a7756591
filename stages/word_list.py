"""Names and other words to listen for: a small private file for each owner, in spoken form."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from stages.atomic import write_private
from stages.errors import InputError
from stages.text import normalise, problems_of


@dataclass(frozen=True)
class WordList:
    """The words of one owner."""

    path: Path
    owner: str  # as a person reads it

    def read(self) -> list[str]:
        """Sorted; empty where there is no file. Raises InputError where it is damaged."""
        if not self.path.is_file():
            return []
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
                raise ValueError("needed a list of words")
        except ValueError as error:
            raise InputError(
                f"{self.path}: not readable ({error}). Delete it, and add the words again with `words add`."
            ) from None
        return sorted(found)

    def add(self, words: list[str]) -> tuple[list[str], list[str]]:
        """(new ones, those that were there), in spoken form. Raises InputError, and adds none, where one cannot be said."""
        spoken = list(dict.fromkeys(spoken_form(word) for word in words))
        there = self.read()
        new = [word for word in spoken if word not in there]
        if new:
            self._write([*there, *new])
        return new, [word for word in spoken if word in there]

    def remove(self, words: list[str]) -> list[str]:
        """Forget words; returns them. Raises InputError, and removes none, where one is not in the list."""
        there = self.read()
        spoken = list(dict.fromkeys(spoken_form(word) for word in words))
        missing = [word for word in spoken if word not in there]
        if missing:
            listed = ", ".join(there) or "none"
            raise InputError(f"{', '.join(missing)}: not among the words of {self.owner}, which are: {listed}.")
        self._write([word for word in there if word not in spoken])
        return spoken

    def _write(self, words: list[str]) -> None:
        if words:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_private(self.path, (json.dumps(sorted(words), ensure_ascii=False, indent=2) + "\n").encode())
        else:
            self.path.unlink(missing_ok=True)


def spoken_form(word: str) -> str:
    """A word as a read-out has it. Raises InputError where it cannot be said."""
    problem = problems_of(word, "en")
    spoken = "" if problem else normalise(word)
    if not spoken:
        why = f" ({problem})" if problem else ""
        raise InputError(
            f"{word!r}: cannot be said{why}. Give a word or a name in the letters that it is written with."
        )
    return spoken
