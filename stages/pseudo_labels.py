"""The pseudo_labels stage for one shard: transcripts (dear, kept a shard) and labels (cheap rules over them).

Transcripts come from faster-whisper on the padded 30 s window: Whisper's own decoder loops on shorter ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from stages.atomic import sha256_file, sha256_json
from stages.audio import load_audio
from stages.consent import refusal
from stages.errors import InputError
from stages.schema import LABELS, TEACHER, read_table
from stages.shards import Problem, ShardItem, iter_shard
from stages.text import TEXT_VERSION, from_transcriber, language_code, normalise, problems_of

TRANSCRIPTS_VERSION = 2
"""Raised whenever this code would write other transcripts from the same input."""

LABELS_VERSION = 2
"""Raised whenever this code would write other labels from the same transcripts."""

TRANSCRIPTS = pa.schema(
    [
        ("utterance", pa.string()),
        ("audio_sha256", pa.string()),
        ("teachers", pa.list_(TEACHER)),  # text as the teacher wrote it; score is the mean token probability
        ("no_speech", pa.float64()),  # probability that nobody speaks
        ("compression", pa.float64()),  # length over zlib-compressed length: high where a decoder loops
    ]
)
MAX_DURATION_S = 30.0
"""Whisper's window. A longer recording is no utterance: it is refused before it is decoded."""

UNSURE, REPETITION, TOO_FAST = "unsure", "repetition", "too fast"
"""Kinds of reasons, before the colon, that concern the transcriber's text alone: another teacher may know better."""

NO_TRANSCRIPT = "no transcript: the transcriber could not take the recording"
NOT_TRANSCRIBED = "not transcribed: the work on its shard failed"

MAX_COMPRESSION = 2.4  # faster-whisper's own threshold for a looping decoder


@dataclass(frozen=True)
class Transcript:
    """What one teacher heard."""

    text: str
    score: float  # mean token probability, 0 to 1
    no_speech: float
    compression: float


class Teacher(Protocol):
    """What this stage needs of a transcriber."""

    identity: str

    def speaks(self, language: str) -> bool:
        """Whether it knows the language."""

    def transcribe(self, samples: np.ndarray, language: str) -> Transcript:
        """(n,) float32 at 16 kHz -> what was heard."""


def transcriber_identity(folder: Path) -> str:
    """What labels and keys call a transcriber: by its weights, for a folder or a package may hold others tomorrow."""
    return f"faster-whisper@{sha256_file(folder / 'model.bin')[:16]}"


class Transcriber:
    """faster-whisper on the CPU or GPU that CTranslate2 finds; the same audio gives the same transcript."""

    def __init__(self, model: str, beam_size: int = 5, threads: int = 1, prompt: str = "") -> None:
        """``model``: a folder of CTranslate2 weights (``stages.models.prepare.prepare_transcriber`` gives one); ``prompt``:
        what the decoder is told to stand before each utterance, such as a few sentences of the kind."""
        import ctranslate2
        from faster_whisper import WhisperModel

        device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        # not "auto", which takes int8 where the CPU has it: faster, but it hears less
        precision = "float16" if device == "cuda" else "float32"
        self.model = WhisperModel(model, device=device, compute_type=precision, cpu_threads=threads)
        self.beam_size, self.prompt = beam_size, prompt
        self.identity = transcriber_identity(Path(model))

    def speaks(self, language: str) -> bool:
        """Whether the model knows the language, by its ISO 639-1 code with or without a region."""
        return language_code(language) in self.model.supported_languages

    def transcribe(self, samples: np.ndarray, language: str = "en") -> Transcript:
        """One utterance, without timestamps and without the text before it; a loop is decoded once more without repeats.

        Whisper's own way out of a loop, sampling, would write another text each time (CTranslate2 cannot be seeded again).
        """
        heard = self._decode(samples, language)
        if heard.compression > MAX_COMPRESSION:
            again = self._decode(samples, language, repetition_penalty=1.2, no_repeat_ngram_size=3)
            return min(heard, again, key=lambda one: one.compression)
        return heard

    def _decode(self, samples: np.ndarray, language: str, **options: Any) -> Transcript:
        segments, _ = self.model.transcribe(
            samples,
            language=language_code(language),
            beam_size=self.beam_size,
            initial_prompt=self.prompt or None,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
            no_speech_threshold=None,  # the rules judge that; dropping the text here would hide why
            **options,
        )
        found = list(segments)
        if not found:
            return Transcript("", 0.0, 1.0, 1.0)
        lengths = [max(1, len(segment.tokens)) for segment in found]
        mean = sum(s.avg_logprob * n for s, n in zip(found, lengths, strict=True)) / sum(lengths)
        return Transcript(
            " ".join("".join(segment.text for segment in found).split()),
            math.exp(min(0.0, mean)),
            max(segment.no_speech_prob for segment in found),
            max(segment.compression_ratio for segment in found),
        )


@dataclass(frozen=True)
class Rules:
    """When a pseudo-label is good enough to learn from."""

    min_confidence: float = 0.6
    max_no_speech: float = 0.6
    max_words_per_second: float = 6.0
    max_compression: float = MAX_COMPRESSION


def labels_key(transcripts_keys: Sequence[str], rules: Rules) -> str:
    """Hex SHA-256 of everything that changes a cohort's labels: its transcripts, the rules, the normaliser."""
    return sha256_json([LABELS_VERSION, TEXT_VERSION, list(transcripts_keys), asdict(rules)])


def transcripts_key(shard_sha256: str, transcriber: str, beam_size: int, told_too: bool, prompt: str = "") -> str:
    """Hex SHA-256 of everything that changes a shard's transcripts. ``transcriber``: its identity, not its name."""
    told = [TRANSCRIPTS_VERSION, shard_sha256, transcriber, beam_size, told_too]
    return sha256_json([*told, prompt] if prompt else told)


def transcribe_shard(
    shard: Path, teacher: Teacher, told_too: bool, advance: Callable[[int], None] | None = None
) -> tuple[pa.Table, list[Problem]]:
    """Transcripts of the good utterances of a shard (schema TRANSCRIPTS), and what was wrong with the others.

    With ``told_too``, utterances that have a human transcript are transcribed as well: that text is what a cascade would
    hand to the LLM. Without, they are passed over, which is most of the work for a cohort that only trains a base.
    """
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for item in iter_shard(shard):
        try:
            if item.problem:
                raise InputError(item.problem)
            if item.text is not None and not told_too:
                if advance:
                    advance(1)
                continue
            refusal = _cannot_be_heard(item, teacher)
            if refusal:
                raise InputError(refusal)
            heard = teacher.transcribe(load_audio(item.audio, f"{shard.name}/{item.utterance}"), item.language)
        except InputError as error:
            problems.append(Problem(f"{shard.name}/{item.utterance}", str(error)))
        else:
            rows.append(
                {
                    "utterance": item.utterance,
                    "audio_sha256": item.audio_sha256,
                    "teachers": [{"name": teacher.identity, "text": heard.text, "score": heard.score}],
                    "no_speech": heard.no_speech,
                    "compression": heard.compression,
                }
            )
        if advance:
            advance(1)
    return pa.Table.from_pylist(rows, schema=TRANSCRIPTS), problems


def _cannot_be_heard(item: ShardItem, teacher: Teacher) -> str:
    """Why an utterance is not given to the teacher; empty where it is."""
    if item.duration_s > MAX_DURATION_S:
        return f"lasts {item.duration_s:.1f} s, at most {MAX_DURATION_S:g} s are transcribed. Cut it into utterances."
    if not teacher.speaks(item.language):
        return (
            f"its language is {item.language!r}, which {teacher.identity} does not know. Give its transcript, or name a "
            "transcriber of several languages in params.yaml, models.transcriber."
        )
    return ""


def label_table(shard: Path, transcripts: Path | None, rules: Rules) -> pa.Table:
    """Labels of a shard's utterances (schema LABELS) from human transcripts, else from what the teachers heard.

    ``transcripts`` None: the shard could not be transcribed. People's transcripts need no teacher; the others are rejected.
    Raises InputError where a file cannot be read.
    """
    found = read_table(transcripts, TRANSCRIPTS).to_pylist() if transcripts else []
    heard, unheard = {row["utterance"]: row for row in found}, NO_TRANSCRIPT if transcripts else NOT_TRANSCRIBED
    rows = [_label(item, heard.get(item.utterance), rules, unheard) for item in iter_shard(shard) if not item.problem]
    return pa.Table.from_pylist(rows, schema=LABELS)


def _label(item: ShardItem, heard: dict[str, Any] | None, rules: Rules, unheard: str) -> dict[str, Any]:
    teachers = heard["teachers"] if heard else []
    row = {"utterance": item.utterance, "user": item.user, "teachers": teachers}
    human = item.text is not None
    if human:
        text, confidence, reason = item.text or "", 1.0, ""
    else:
        text = teachers[0]["text"] if teachers else ""
        confidence = teachers[0]["score"] if teachers else 0.0
        said = from_transcriber(text, item.language)
        reason = _rejection(said, confidence, heard, item.duration_s, rules) if heard else unheard
    reason = refusal(item.consent, "personal") or reason or problems_of(text, item.language) or ""
    spoken = normalise if human else from_transcriber
    return {
        **row,
        "text": None if reason else spoken(text, item.language),
        "source": "human" if human else "pseudo",
        "confidence": confidence,
        "accepted": not reason,
        "reason": reason,
        "scope": "all" if not refusal(item.consent, "base") else "personal",
    }


def _rejection(spoken: str, confidence: float, heard: dict[str, Any], duration_s: float, rules: Rules) -> str:
    """Why a pseudo-label, in spoken form, is not trusted; empty where it is."""
    if heard["no_speech"] > rules.max_no_speech:
        return f"no speech: probability {heard['no_speech']:.2f}, at most {rules.max_no_speech:g} is accepted"
    if confidence < rules.min_confidence:
        return f"{UNSURE}: mean token probability {confidence:.2f}, at least {rules.min_confidence:g} is needed"
    if heard["compression"] > rules.max_compression:
        return (
            f"{REPETITION}: compression ratio {heard['compression']:.1f}, at most {rules.max_compression:g} is accepted"
        )
    rate = len(spoken.split()) / max(duration_s, 0.1)
    if rate > rules.max_words_per_second:
        return f"{TOO_FAST}: {rate:.1f} words a second, at most {rules.max_words_per_second:g} are spoken"
    return ""
