"""``edgealign ask`` and ``edgealign transcribe``: one recording through an adapter, with the time each step took."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from pipeline.project import Project
from pipeline.settings import Settings, load_settings
from pipeline.words import words_for
from stages.errors import InputError

ANSWER = "Answer the user in one short sentence."


@dataclass(frozen=True)
class Chosen:
    """Which adapter answers."""

    name: str
    folder: Path | None  # None: the base


def choose_adapter(project: Project, settings: Settings, user: str) -> Chosen:
    """The adapter of USER or COHORT/USER, or the base for an empty name. Raises InputError that lists those there are."""
    if not user:
        return Chosen("base", None)
    there = {
        f"{cohort}/{path.parent.name}": path.parent
        for cohort in settings.personal_cohorts
        for path in sorted(project.adapters(cohort).glob("*/adapter.json"))
    }
    found = [name for name in there if name == user or name.split("/")[1] == user]
    if len(found) == 1:
        return Chosen(found[0], there[found[0]])
    listed = ", ".join(sorted(there)) or "none yet: run `dvc repro`"
    problem = f"is the name of several users ({', '.join(found)})" if found else "has no personal adapter"
    raise InputError(f"--user {user}: {problem}. Users with an adapter: {listed}.")


def _hear(file: Path, user: str) -> tuple[Project, Settings, Any, Any, dict[str, float]]:
    from stages.audio import load_audio
    from stages.listener import Listener
    from stages.models.encoder import SpeechEncoder

    project = Project.find()
    settings = load_settings(project.root)
    chosen = choose_adapter(project, settings, user)
    start = time.perf_counter()
    if not file.is_file():
        raise InputError(f"{file}: no such file. Give a recording, such as WAV, FLAC, MP3, OGG, Opus, M4A or WebM.")
    samples = load_audio(file, str(file))
    loaded = time.perf_counter()
    encoder = SpeechEncoder.load(project.encoder)
    words = words_for(project, chosen.name if chosen.folder else None)
    listener = Listener.load(project.base_adapter, project.llm, chosen.folder, words=words)
    ready = time.perf_counter()
    heard = listener.hear(samples, encoder, settings.features.padding_s)
    seconds = {"audio": loaded - start, "load adapter": ready - loaded, **heard.seconds}
    typer.echo(f"{chosen.name} heard: {heard.text or '(nothing)'}   (confidence {heard.read_out.confidence:.2f})")
    return project, settings, listener, heard, seconds


def _tell(seconds: dict[str, float]) -> None:
    typer.echo(
        "took: " + ", ".join(f"{name.replace('_', ' ')} {value:.2f} s" for name, value in seconds.items()), err=True
    )


def transcribe_file(file: Path, user: str) -> None:
    """Print the read-out of a recording."""
    *_, seconds = _hear(file, user)
    _tell(seconds)


def ask_file(file: Path, user: str, instruction: str, max_new_tokens: int) -> None:
    """Print the read-out of a recording and the LLM's reply to its soft tokens."""
    from stages.alignment.injection import answer_prompt, generate_replies
    from stages.models.llm import load_llm

    project, _, _, heard, seconds = _hear(file, user)
    if not heard.read_out.rows:
        raise InputError(f"{file}: the adapter heard no word in it, so there is nothing to ask. Is it silent?")
    start = time.perf_counter()
    model, tokenizer = load_llm(project.llm)
    ready = time.perf_counter()
    prompt = answer_prompt(model, tokenizer, heard.read_out.soft_tokens, instruction or ANSWER)
    reply = generate_replies(model, tokenizer, [prompt], max_new_tokens)[0]
    seconds |= {"load LLM": ready - start, "reply": time.perf_counter() - ready}
    typer.echo(f"reply: {reply}")
    _tell(seconds)
