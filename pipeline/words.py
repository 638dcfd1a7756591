"""The words that a project listens for: kept on this machine, never in git or DVC, since names are personal."""

from __future__ import annotations

from pipeline.project import Project
from stages.word_list import WordList

EVERYONE = "everyone"


def word_list(project: Project, user: str = EVERYONE) -> WordList:
    """The list of ``user`` (COHORT/USER), or the one that holds for everyone's recordings.

    A file for each: `edgealign cohort forget` removes a person's with everything else.
    """
    return WordList(project.private.joinpath("words", *f"{user}.json".split("/")), user)


def word_lists(project: Project) -> list[WordList]:
    """Those that there are, everyone's first."""
    folder = project.private / "words"
    names = [str(path.relative_to(folder).with_suffix("")) for path in sorted(folder.rglob("*.json"))]
    return [word_list(project, name) for name in sorted(names, key=lambda name: (name != EVERYONE, name))]


def words_for(project: Project, user: str | None) -> list[str]:
    """What is listened for in a recording of ``user`` (None: nobody known): everyone's words and the user's own."""
    own = word_list(project, user).read() if user else []
    return sorted({*word_list(project).read(), *own})
