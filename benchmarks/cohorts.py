"""Cohorts: how fast recordings come in, are checked and appended to, and whether that stays so as a cohort grows.

The clips are slices of eSpeak's speech, each with noise of its own: 0.6 to 1.4 s, 16 kHz WAV, 1,000 users at most. Commands
run as a user runs them, as processes, in a project without DVC; what DVC adds is measured beside them.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import wave
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil

from benchmarks.record import Figure, at_least, at_most, plain, write_area
from pipeline.cohorts.espeak import Speaker, Voice
from pipeline.cohorts.grammar import Grammar
from pipeline.cohorts.workers import default_workers
from stages.schema import SAMPLE_RATE_HZ

SIZES = (1_000, 10_000, 100_000)
APPENDED = 100
ROOT = Path(__file__).resolve().parents[1]
TEXTS = 3_000


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    seconds: float
    peak_bytes: int  # of the process and its children together, sampled; shared pages count once a process
    output: str


def run() -> Path:
    """Measure and write docs/benchmarks/cohorts.json."""
    folder = Path(tempfile.mkdtemp(prefix="edgealign-bench-"))
    try:
        return write_area("cohorts", _figures(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _figures(folder: Path) -> list[Figure]:
    speech = _speech()
    adds: dict[int, Cost] = {}
    figures: list[Figure] = []
    for size in SIZES:
        corpus, project = folder / f"corpus-{size}", folder / f"project-{size}"
        make_corpus(corpus, speech, 0, size)
        make_project(project)
        adds[size] = command(project, "cohort", "add", "big", "--audio", str(corpus))
        figures += [
            plain(f"add_utterances_per_second_{size}", size / adds[size].seconds, "1/s", note="whole command"),
            plain(f"add_peak_bytes_{size}", adds[size].peak_bytes, "bytes"),
        ]
        if size != SIZES[-1]:
            shutil.rmtree(project)
        shutil.rmtree(corpus)
    largest = SIZES[-1]
    rate = largest / adds[largest].seconds
    each = [adds[size].seconds / size for size in SIZES]
    figures += [
        at_least("add_utterances_per_second", rate, 300, "1/s", note=f"{largest} clips, {default_workers()} processes"),
        at_most("add_peak_bytes", adds[largest].peak_bytes, 1.5e9, "bytes", note="all processes together"),
        at_most(
            "add_growth",
            max(each) / min(each) - 1,
            0.2,
            "",
            note="spread of the whole command's time an utterance over "
            + ", ".join(f"{size}: {1000 * value:.2f} ms" for size, value in zip(SIZES, each, strict=True)),
        ),
    ]
    steps = [(size - less) / (adds[size].seconds - adds[less].seconds) for less, size in pairwise(SIZES)]
    figures.append(
        plain(
            "add_growth_without_start",
            max(steps) / min(steps) - 1,
            "",
            note="the same between the sizes, so that the command's start does not count: "
            + ", ".join(f"{step:.0f}/s" for step in steps),
        )
    )
    return figures + _on_the_largest(folder, speech)


def _on_the_largest(folder: Path, speech: np.ndarray) -> list[Figure]:
    """``check``, ``append`` and DVC on the largest cohort, which is there already."""
    project = folder / f"project-{SIZES[-1]}"
    cohort = project / "data" / "cohorts" / "big"
    check = command(project, "cohort", "check", "big", status=(0, 1))
    more = folder / "more"
    make_corpus(more, speech, SIZES[-1], APPENDED)
    before = {path.name: path.stat().st_mtime_ns for path in cohort.glob("shard-*.tar")}
    append = command(project, "cohort", "append", "big", "--audio", str(more))
    after = {path.name: path.stat().st_mtime_ns for path in cohort.glob("shard-*.tar")}
    rewritten = sum(after[name] != when for name, when in before.items())
    written = len(after) - len(before)
    for words in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(words, cwd=project, check=True)
    first = _timed(project, "dvc", "add", "--quiet", "data")
    shutil.rmtree(more)
    make_corpus(more, speech, SIZES[-1] + APPENDED, APPENDED)
    tracked = command(project, "cohort", "append", "big", "--audio", str(more))
    nothing = _timed(project, "dvc", "status", "data.dvc")
    return [
        at_most("check_seconds", check.seconds, 60, "s", note=f"{SIZES[-1]} utterances, HTML with plots included"),
        plain("check_peak_bytes", check.peak_bytes, "bytes"),
        at_most(
            "append_seconds", tracked.seconds, 15, "s", note=f"{APPENDED} utterances to {SIZES[-1]}, `dvc add` included"
        ),
        plain("append_seconds_without_dvc", append.seconds, "s"),
        at_most("append_shards_rewritten", rewritten, 0, "", note=f"{written} new shard(s) written"),
        plain(
            "dvc_add_seconds", first, "s", note="the whole cohort for the first time: hashed and copied to the cache"
        ),
        plain("dvc_status_seconds", nothing, "s"),
    ]


def make_project(folder: Path) -> None:
    """A project without cohorts."""
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copy(ROOT / "dvc.yaml", folder)


def _speech() -> np.ndarray:
    """Some minutes of eSpeak's speech, float64 (n_samples,) at SAMPLE_RATE_HZ."""
    from stages.audio import resample

    speaker = Speaker()
    speaker.use(Voice("en-us+f2", 160))
    grammar = Grammar("edgealign benchmark", set())
    spoken = [speaker.speak(f"<speak>{grammar.sentence('command').text}</speak>") for _ in range(150)]
    return resample(np.concatenate(spoken).astype(np.float64), speaker.rate_hz)


def make_corpus(folder: Path, speech: np.ndarray, first: int, count: int) -> None:
    """``count`` clips and their CSV in ``folder``; clip n is the same wherever it is made."""
    folder.mkdir(parents=True)
    shares = [range(start, min(start + 1000, first + count)) for start in range(first, first + count, 1000)]
    with ProcessPoolExecutor(default_workers()) as pool:
        list(pool.map(partial(_write_clips, folder, speech), shares))
    texts = Grammar("edgealign benchmark texts", set())
    sentences = [texts.sentence("command").text for _ in range(min(TEXTS, count))]
    with (folder / "transcripts.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "user", "text"))
        for number in range(first, first + count):
            table.writerow((_file(number), _user(number), sentences[number % len(sentences)]))


def _user(number: int) -> str:
    return f"user{number % 1000:04d}"


def _file(number: int) -> str:
    return f"{_user(number)}/{_user(number)}-{number:06d}.wav"


def _write_clips(folder: Path, speech: np.ndarray, numbers: range) -> None:
    for number in numbers:
        rng = np.random.default_rng(number)
        length = int(rng.uniform(0.6, 1.4) * SAMPLE_RATE_HZ)
        start = int(rng.integers(0, speech.size - length))
        samples = speech[start : start + length] * rng.uniform(0.3, 0.9) + rng.normal(0, 1e-3, length)
        path = folder / _file(number)
        path.parent.mkdir(exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE_HZ, length, "NONE", ""))
            file.writeframes((np.clip(samples, -1, 0.999) * 32767).astype("<i2").tobytes())


def command(project: Path, *words: str, status: tuple[int, ...] = (0,)) -> Cost:
    """Run an edgealign command in ``project``. Raises CalledProcessError where it ends with another status."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process.pid, peak), daemon=True)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - start
    if process.returncode not in status:
        raise subprocess.CalledProcessError(process.returncode, words, output)
    return Cost(seconds, peak[0], output)


def _watch(pid: int, peak: list[int]) -> None:
    while psutil.pid_exists(pid):
        try:
            root = psutil.Process(pid)
            family = [root, *root.children(recursive=True)]
            peak[0] = max(peak[0], sum(process.memory_info().rss for process in family))
        except psutil.Error:
            pass  # one of them has just ended
        time.sleep(0.1)


def _timed(project: Path, *words: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", *words], cwd=project, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start
