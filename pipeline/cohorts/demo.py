"""The demo cohorts: what each speaker says, with which voice, and the shards made of it.

Everything follows from RECIPE: made again, on any number of processes and in any order, the shards have the same bytes.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

from pipeline.cohorts.acoustics import generator, record
from pipeline.cohorts.espeak import Speaker, Voice
from pipeline.cohorts.grammar import Grammar, Sentence, is_letter
from pipeline.cohorts.store import (
    CohortRecord,
    build,
    claim,
    is_intact,
    publish,
    read_cohort,
    track_with_dvc,
)
from pipeline.project import Project
from stages.atomic import sha256_bytes, sha256_json
from stages.audio import encode_flac
from stages.consent import make_consent
from stages.errors import EdgealignError, InputError
from stages.schema import SAMPLE_RATE_HZ
from stages.shards import ShardItem

RECIPE_VERSION = 1
"""Counts up whenever the code that makes samples changes what it makes."""

BASE_UTTERANCES = 42
"""Utterances of one base speaker."""

USER_UTTERANCES = 20
"""Utterances of one user of a personal cohort."""

BASE_RULES = {
    "spelled": 7,
    "letters": 6,
    "code": 7,
    "digits": 3,
    "date": 4,
    "number": 3,
    "house": 2,
    "named spelling": 1,
    "control": 1,
    "name": 1,
    "command": 4,
    "question": 3,
}
"""How many of a base speaker's utterances come from each rule: they add up to BASE_UTTERANCES."""

USER_RULES = {"command": 6, "question": 4, "name": 3, "digits": 2, "number": 2, "date": 2, "house": 1}
"""The same for users of the personal cohorts, who mostly talk to an assistant."""

BASE_NOISE_DB = (10.0, 35.0)
"""How far below the speech the noise is: the base has to learn bad places as well."""

USER_NOISE_DB = (20.0, 35.0)
"""Users of the personal cohorts are hard to understand for their voice, not for their room."""

BASE_VOICES = [
    *("en-us", "en-us+m1", "en-us+m2", "en-us+m3", "en-us+m4", "en-us+m7", "en-us+f1", "en-us+f2"),
    *("en-us+f3", "en-us+f4", "en-us+f5", "en-us+max", "en-us+linda", "en-us+ed", "en-us+steph", "en-us+belinda"),
    *("en-us-nyc+m3", "en+m1", "en+f2", "en+m5", "en-gb-scotland+m2", "en-gb-scotland+f4"),
    *("en-029+m8", "en-gb-x-rp+f1", "en-gb-x-rp+m4", "en-gb-x-gbclan+m7", "en-gb-x-gbcwmd+f5"),
]

USER_VOICES = {
    "quiet-voices": {
        "whisper": Voice("en-us+whisper", 150),
        "whisper-low": Voice("en+whisper", 170, 30),
        "whisper-high": Voice("en-us+whisperf", 140, 60),
        "klatt": Voice("en-us+klatt4", 155, 40),
    },
    "far-accents": {
        "german": Voice("de", 130),
        "grandma": Voice("en-gb-x-rp+grandma", 150),
        "caribbean-fast": Voice("en-029+f3", 215, 60),
        "scottish-fast": Voice("en-gb-scotland+grandma", 210),
    },
}

UNTOLD_SHARE = 3
"""In far-accents every third utterance has no transcript: pseudo-labelling has to find one."""

MADE_BY = "edgealign cohort demo"

CONSENT = make_consent(True) | {"by": "synthetic voice", "terms": "made by eSpeak NG for this demo; nobody's recording"}


BASE_COHORT = "base-synthetic"
SPOKEN = "x-"
"""Begins the names of base voices where they speak other cohorts than the demo's."""


@dataclass(frozen=True)
class Speech:
    """One utterance to be spoken."""

    utterance: str
    sentence: Sentence
    told: bool  # whether its text goes into the shard


@dataclass(frozen=True)
class DemoUser:
    """One speaker: a voice, and what it says, in order."""

    user: str
    voice: Voice
    speeches: tuple[Speech, ...]
    noise_below_db: tuple[float, float]


def plans() -> dict[str, list[DemoUser]]:
    """All demo cohorts, in the order in which their sentences are drawn: later ones avoid the earlier ones' sentences."""
    taken: set[str] = set()
    made = {BASE_COHORT: _plan_users(BASE_COHORT, base_voices(), BASE_RULES, taken)}
    known = frozenset(word for sentence in taken for word in sentence.split())
    for cohort, voices in USER_VOICES.items():
        untold = UNTOLD_SHARE if cohort == "far-accents" else 0
        made[cohort] = _plan_users(cohort, voices, USER_RULES, taken, known, untold)
    return made


def base_voices() -> dict[str, Voice]:
    """BASE_VOICES with rates from 145 to 235 words a minute and pitches spread evenly but not in step."""
    count = len(BASE_VOICES)
    voices = {}
    for index, name in enumerate(BASE_VOICES):
        rate_wpm = 145 + round(90 * (index * 7 % count) / (count - 1))
        pitch = 30 + round(40 * (index * 11 % count) / (count - 1))
        voices[f"v{index:02d}-{name.replace('+', '-')}"] = Voice(name, rate_wpm, pitch, 30 + 40 * (index % 2))
    return voices


def base_voice(user: str) -> str | None:
    """The base voice that a user of a synthetic cohort is, whichever cohort it speaks; None for anybody else."""
    name = user.removeprefix(SPOKEN)
    return name if name in base_voices() else None


def _plan_users(
    cohort: str,
    voices: dict[str, Voice],
    rules: dict[str, int],
    taken: set[str],
    known: frozenset[str] | None = None,
    untold: int = 0,
) -> list[DemoUser]:
    grammar = Grammar(f"edgealign {cohort} {RECIPE_VERSION}", taken, known)
    users = []
    for user, voice in voices.items():
        order = [rule for rule, count in rules.items() for _ in range(count)]
        random.Random(f"{cohort} {user}").shuffle(order)
        speeches = tuple(
            Speech(f"{user}-{index:03d}", grammar.sentence(rule), not untold or index % untold != untold - 1)
            for index, rule in enumerate(order)
        )
        users.append(DemoUser(user, voice, speeches, BASE_NOISE_DB if known is None else USER_NOISE_DB))
    return users


def recipe_hash(users: list[DemoUser]) -> str:
    """Identity of a cohort's content: who says what and how, and the version of the code that speaks it."""
    return sha256_json({"version": RECIPE_VERSION, "users": [asdict(user) for user in users], "consent": CONSENT})


def ssml(speech: Speech) -> str:
    """What eSpeak is given: letters by name, run together as a brisk speller does, or apart, with or without pauses."""
    choices = generator(f"pauses {speech.utterance}")
    joined_share = choices.choice([1.0, 1.0, 0.8, 0.5, 0.0])
    pause_ms = choices.choice([0, 0, 0, 80, 200]) if joined_share < 1.0 else 0
    parts: list[str] = []
    run = ""
    words = speech.sentence.text.split()
    for index, word in enumerate(words):
        if not is_letter(speech.sentence.text, index, speech.sentence.spelled):
            parts.append(word)
            continue
        run += word
        more = index + 1 < len(words) and is_letter(speech.sentence.text, index + 1, speech.sentence.spelled)
        if more and choices.random() < joined_share:
            continue
        parts.append(f'<say-as interpret-as="characters">{run}</say-as>')
        run = ""
        if more and pause_ms:
            parts.append(f'<break time="{round(pause_ms * choices.uniform(0.5, 1.5))}ms"/>')
    return f"<speak>{' '.join(parts)}</speak>"


def speak_user(user: DemoUser) -> list[ShardItem]:
    """Speak, record and encode one user's utterances. Run each user in a fresh process: eSpeak keeps state."""
    speaker = Speaker()
    speaker.use(user.voice)
    items = []
    for speech in user.speeches:
        spoken = speaker.speak(ssml(speech))
        if spoken.size == 0:
            raise InputError(f"{speech.utterance}: voice {user.voice.name} said nothing for {speech.sentence.text!r}.")
        samples = record(spoken, speaker.rate_hz, speech.utterance, user.noise_below_db)
        audio = encode_flac(samples)
        items.append(
            ShardItem(
                utterance=speech.utterance,
                user=user.user,
                text=speech.sentence.text if speech.told else None,
                language="en",
                consent=CONSENT,
                source_sha256=sha256_bytes(audio),
                duration_s=samples.size / SAMPLE_RATE_HZ,
                audio=audio,
                audio_sha256=sha256_bytes(audio),
            )
        )
    return items


def speak_cohort(
    users: list[DemoUser], workers: int = 2, advance: Callable[[int], None] | None = None
) -> Iterator[ShardItem]:
    """The items of all ``users`` in ascending order of their ids, each user spoken in a fresh process."""
    with ThreadPoolExecutor(workers) as threads:
        for items in threads.map(speak_in_fresh_process, sorted(users, key=lambda user: user.user)):
            yield from items
            if advance:
                advance(len(items))


def speak_in_fresh_process(user: DemoUser) -> list[ShardItem]:
    """``speak_user`` in a process of its own; once more where that process was killed.

    An executor of one worker a user, and not ``multiprocessing.Pool``: a Pool waits for ever for a worker that died.
    """
    context = multiprocessing.get_context("spawn")
    for _ in range(2):
        try:
            with ProcessPoolExecutor(1, mp_context=context) as process:
                return process.submit(speak_user, user).result()
        except BrokenProcessPool:
            continue
    raise EdgealignError(
        f"{user.user}: the process that speaks with voice {user.voice.name} was killed twice. "
        "Free some memory and run the same command again."
    )


def make_demo(project_root: Path, workers: int | None = None, say: Callable[[str], None] = print) -> list[str]:
    """Make the demo cohorts that are missing or not as the recipe says; returns the names of those that were made.

    A cohort of the same name that somebody added from recordings is left alone. ``workers`` changes the time, never a
    byte. Records data/ in data.dvc where something was made.
    """
    project = Project(Path(project_root))
    made, own = [], []
    for name, users in plans().items():
        state = state_of(project.cohort(name), recipe_hash(users), MADE_BY)
        if state is State.other:
            say(f"{name}: added from recordings under a demo cohort's name: left as it is")
            continue
        own.append(name)
        if state is State.there:
            say(f"{name}: there already")
        else:
            make_spoken(project, name, users, MADE_BY, say, workers)
            made.append(name)
    if made:
        track_with_dvc(project, say, own)  # all: a run that was stopped may have made some that DVC never heard of
    return made


def make_spoken(
    project: Project,
    name: str,
    users: list[DemoUser],
    made_by: str,
    say: Callable[[str], None],
    workers: int | None = None,
) -> CohortRecord:
    """Speak a cohort and put it into place, in that of an earlier one; nothing half-spoken is left where that fails."""
    from pipeline.progress import progress

    record = CohortRecord(name, "en", CONSENT, made_by, recipe_hash(users))
    total = sum(len(user.speeches) for user in users)
    with claim(project, name) as folder, progress(f"speak {name}", total, "utterances") as advance:
        shutil.rmtree(folder / "final", ignore_errors=True)  # what a kill left
        try:
            items = speak_cohort(users, workers or min(4, os.cpu_count() or 1), advance)
            full = build(folder / "final", record, items, {})
            publish(folder / "final", project.cohort(name))
        finally:
            shutil.rmtree(folder / "final", ignore_errors=True)
    say(f"{name}: {full.utterances} utterances of {len(full.users)} speakers, {full.seconds / 60:.1f} min")
    return full


class State(Enum):
    """Of a spoken cohort's folder."""

    missing = "missing"  # or damaged, but of the recipe
    unreadable = "unreadable"  # a folder that does not say whose it is
    there = "there"
    changed = "changed"  # spoken by the same command, from another recipe
    other = "other"  # somebody's recordings, or another command's


def state_of(folder: Path, digest: str, made_by: str) -> State:
    """What a cohort's folder holds, as seen by who would speak it by the recipe with ``digest``."""
    if not folder.exists():
        return State.missing
    try:
        record = read_cohort(folder)
    except InputError:
        return State.unreadable
    if record.made_by != made_by:
        return State.other
    if record.created_from != digest:
        return State.changed
    return State.there if is_intact(folder, record) else State.missing
