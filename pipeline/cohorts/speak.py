"""``edgealign cohort speak``: synthetic speakers for words or sentences of one's own, or for words of the LLM's table.

The base learns what it never heard from real people: the names of a household, the commands of a device. A speller wants many
words, each now and then: those of the LLM's table.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.cohorts.demo import (
    BASE_NOISE_DB,
    SPOKEN,
    DemoUser,
    Speech,
    State,
    base_voices,
    make_spoken,
    recipe_hash,
    state_of,
)
from pipeline.cohorts.espeak import Voice
from pipeline.cohorts.grammar import Sentence
from pipeline.cohorts.lexicon import WORDS_EACH, id_width, lexicon_users
from pipeline.project import Project
from pipeline.settings import COHORT_NAME
from stages.errors import InputError
from stages.text import normalise, problems_of

MADE_BY = "edgealign cohort speak"
UTTERANCE_S = 3.0
"""About what an utterance lasts, for what a dry run tells."""
MOST_WORDS = 40
"""Of an utterance: 25 s of long words by the slowest voice (15 s of letters), and the features stage takes no more than 30 s by
default (features.max_duration_s)."""
WHOSE = {
    State.other: "somebody's recordings",
    State.changed: "other words, or other voices",
    State.unreadable: "a cohort.yaml that is missing or cannot be read",
}
"""What a folder of the cohort's name holds that is not simply overwritten."""


@dataclass(frozen=True)
class Said:
    """What a cohort says."""

    texts: tuple[str, ...]  # in spoken form
    words: bool  # whether they are words to be dealt out, or sentences to be said whole


def read_said(path: Path, words: bool) -> Said:
    """A file with a word or a sentence on each line; empty lines and those that begin with # are passed over.

    Raises InputError where a line cannot be said, and names every such line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not readable ({error}). Give a text file in UTF-8 with one {_what(words)} a line."
        ) from None
    found, bad = list[str](), list[str]()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        spoken = "" if problems_of(line, "en") else normalise(line)
        if spoken:
            found.append(spoken)
            problem = _too_long(spoken)
        else:
            problem = problems_of(line, "en") or "nothing in it can be spoken"
        if problem:
            bad.append(f"line {number}: {line.strip()[:60]!r} ({problem})")
    if bad:
        raise InputError(f"{path}: {'; '.join(bad)}. Write what is said, in English, with one {_what(words)} a line.")
    return _said(found, words, str(path))


def said_words(words: Sequence[str]) -> Said:
    """Words that are given one by one. Raises InputError as ``read_said`` does."""
    from stages.word_list import spoken_form

    found = [spoken_form(word) for word in words]
    bad = [f"{one[:60]!r} ({problem})" for one in found if (problem := _too_long(one))]
    if bad:
        raise InputError(f"the words given: {'; '.join(bad)}. Give shorter ones.")
    return _said(found, True, "the words given")


def llm_words(project: Project, count: int) -> Said:
    """The first ``count`` words of the LLM's own table, common ones first. Raises InputError where the LLM is not here yet."""
    from stages.alignment.spelling import words_of_table
    from stages.models.llm import load_tokenizer

    if not project.llm.is_dir():
        raise InputError(
            f"{project.llm}: not there yet. Run `dvc repro models`, which prepares the LLM, and then this again."
        )
    return _said(list(islice(words_of_table(load_tokenizer(project.llm)), count)), True, "the LLM's table")


def _said(texts: Sequence[str], words: bool, source: str) -> Said:
    found = tuple(dict.fromkeys(texts))
    if not found:
        raise InputError(f"{source}: no {_what(words)} in it. Give at least one.")
    return Said(found, words)


def _too_long(spoken: str) -> str:
    """Why a text is too long to be said in one breath; empty where it is not."""
    count = len(spoken.split())
    return f"{count} words when spoken, at most {MOST_WORDS}" if count > MOST_WORDS else ""


def _what(words: bool) -> str:
    return "word" if words else "sentence"


def plan(said: Said, each: int | None, voices: Mapping[str, Voice]) -> list[DemoUser]:
    """Who says what. Words are dealt out, a handful to an utterance, ``each`` utterances a voice; sentences are all said by
    every voice in an order of its own, or ``each`` of them by turns."""
    if said.words:
        longest = max(len(text.split()) for text in said.texts)
        together = min(WORDS_EACH, max(2, len(said.texts)), max(1, MOST_WORDS // longest))
        utterances = each or max(4, -(-2 * len(said.texts) // (together * len(voices))))
        return lexicon_users(said.texts, utterances, together, voices)
    users, place = [], 0
    for name, voice in voices.items():
        mine = [
            said.texts[(place + at) % len(said.texts)] for at in range(min(each or len(said.texts), len(said.texts)))
        ]
        place += len(mine)
        random.Random(f"speak {name}").shuffle(mine)
        width = id_width(len(mine))
        speeches = tuple(
            Speech(f"{SPOKEN}{name}-{at:0{width}d}", Sentence(text, "speak", False), True)
            for at, text in enumerate(mine)
        )
        users.append(DemoUser(f"{SPOKEN}{name}", voice, speeches, BASE_NOISE_DB))
    return users


def speak(
    project: Project,
    name: str,
    said: Said,
    *,
    each: int | None = None,
    voices: int | None = None,
    replace: bool = False,
    dry_run: bool = False,
    tell: Callable[[str], Any] = print,
) -> bool:
    """Speak a cohort; whether anything was made. Raises InputError where a cohort of that name is another's.

    ``each``: utterances a voice; ``voices``: of the demo's base voices, the first so many.
    """
    if not COHORT_NAME.match(name):
        raise InputError(f"cohort {name!r}: use a-z, 0-9 and hyphens, at most 63 characters.")
    users = plan(said, each, dict(islice(base_voices().items(), voices)))
    total = sum(len(user.speeches) for user in users)
    state = state_of(project.cohort(name), recipe_hash(users), MADE_BY)
    told = (
        f"{name}: {len(said.texts)} {_what(said.words)}{'s' if len(said.texts) > 1 else ''}, {total} utterances of "
        f"{len(users)} synthetic voices, about {total * UTTERANCE_S / 60:.0f} min"
    )
    if state is State.there:
        tell(f"{name}: there already")
        return False
    if state in WHOSE and not replace:
        whose = WHOSE[state]
        raise InputError(
            f"{name}: a cohort of that name is there, with {whose}. Choose another name, or give --replace."
        )
    if dry_run:
        tell(f"would speak {told}")
        return False
    tell(told)
    make_spoken(project, name, users, MADE_BY, tell)
    return True
