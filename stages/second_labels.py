"""The second_labels stage: a second teacher reads what nobody transcribed, and what both heard becomes a label.

The first teacher is the transcriber (``stages.pseudo_labels``), the second the base adapter, on the stored frames: neither
encoder nor LLM is loaded. What was read is kept a shard; the labels are made from it anew each time, for rules may be turned.
A human transcript is never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from stages.agreement import ADAPTER, WHISPER, AgreementRules, Heard, agreed, unknown_words
from stages.alignment.bridgeformer import BridgeFormer, BridgeFormerConfig
from stages.alignment.embedlink import EmbedLink
from stages.alignment.memory_plan import READ_BATCH
from stages.alignment.trainer import read_out_all
from stages.alignment.vocabulary import Vocabulary
from stages.atomic import sha256_json
from stages.base import spell
from stages.errors import InputError
from stages.features import frames_of
from stages.pseudo_labels import REPETITION, TOO_FAST, UNSURE
from stages.schema import FEATURES, LABELS, READ_OUTS, read_table
from stages.shards import Problem
from stages.text import from_transcriber, normalise, problems_of

READ_OUTS_VERSION = 1
"""Raised whenever this code would read other texts from the same frames with the same adapter."""

REJECTED_TEXT = (REPETITION, TOO_FAST)
"""Kinds of reasons for which the transcriber's text counts for nothing, but the adapter alone may still be believed."""

MENDABLE = (UNSURE, *REJECTED_TEXT)
"""Kinds of reasons that a second teacher may overrule. Any other (no consent, no speech, another script) stands."""


@dataclass(frozen=True)
class AdapterTeacher:
    """An adapter as plain data that may travel to any node."""

    name: str
    bridge: BridgeFormerConfig
    weights: Mapping[str, np.ndarray]  # BridgeFormer's whole state
    rows: np.ndarray  # (V, D) float32 rows of the embedding table
    tokens: Sequence[str]  # the string of each row, with its leading space where it has one

    @classmethod
    def load(cls, base_folder: Path, llm_folder: Path) -> AdapterTeacher:
        """The base adapter, with the rows of the LLM that it was made for. Raises InputError where that is another LLM."""
        from stages.alignment.adapter import load_base
        from stages.models.llm import embedding_rows, llm_identity, load_tokenizer

        bridge, vocabulary, record = load_base(base_folder)
        found = llm_identity(llm_folder)
        if record.llm != found:
            raise InputError(
                f"{base_folder}: made for the LLM {record.llm}, but {llm_folder} holds {found}. Run `dvc repro base` to train "
                "it for this LLM."
            )
        return cls(
            f"{record.method}@{record.weights_sha256[:16]}",
            bridge.config,
            {name: value.detach().numpy() for name, value in bridge.state_dict().items()},
            embedding_rows(llm_folder, vocabulary.ids).numpy(),
            vocabulary.strings(load_tokenizer(llm_folder)),
        )


class Reader:
    """A teacher that is ready to read frames."""

    def __init__(self, teacher: AdapterTeacher, threads: int | None = None) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.tokens = teacher.tokens
        self.bridge = BridgeFormer(teacher.bridge)
        self.bridge.load_state_dict(
            {name: torch.from_numpy(np.array(value)) for name, value in teacher.weights.items()}
        )
        self.bridge.eval()
        self.link = EmbedLink(torch.from_numpy(np.array(teacher.rows)))

    def read(self, frames: Sequence[np.ndarray], batch: int = READ_BATCH) -> list[tuple[str, float]]:
        """(text in spoken form, confidence) of each utterance's (T, F) frames."""
        tensors = [torch.from_numpy(np.asarray(item, dtype=np.float32)) for item in frames]
        outputs = read_out_all(self.bridge, self.link, tensors, batch)
        return [(spell(self.tokens, output.rows), output.confidence) for output in outputs]


def read_frames(
    teacher: AdapterTeacher, frames: Sequence[np.ndarray], batch: int = READ_BATCH, threads: int | None = None
) -> list[tuple[str, float]]:
    """What a teacher reads in utterances' (T, F) frames: as a plain function, so that it may run on any node."""
    return Reader(teacher, threads).read(frames, batch)


def read_outs_key(teacher: str, features_key: str, asked: Collection[str]) -> str:
    """Hex SHA-256 of everything that changes what an adapter, named by its weights' hash, reads in a shard's features.

    ``asked``: the shard's utterances that it is asked about. Each of them has a row, so that a table tells them itself.
    """
    return sha256_json([READ_OUTS_VERSION, teacher, features_key, sorted(asked)])


def asked_of(labels: pa.Table) -> set[str]:
    """Utterances that a second teacher is asked about: no human transcript, and no consent withheld.

    Follows from the recordings alone, not from rules: turning those makes nothing to be read again.
    """
    rows = labels.select(["utterance", "source", "reason"]).to_pylist()
    return {row["utterance"] for row in rows if row["source"] != "human" and kind_of(row["reason"]) != "no consent"}


def kind_of(reason: str) -> str:
    """The kind of a reason, which stands before its first colon; empty for none."""
    return reason.partition(":")[0]


def read_shard(
    features: Path, asked: Collection[str], reader: Reader, advance: Callable[[int], None] | None = None
) -> tuple[pa.Table, list[Problem]]:
    """What the teacher reads in those of a shard's utterances that it is asked about (schema READ_OUTS); never a problem.

    Raises InputError where the features cannot be read.
    """
    table = read_table(features, FEATURES, ["utterance", "audio_sha256", "n_frames", "width", "frames"])
    wanted = pa.array([name in asked for name in table.column("utterance").to_pylist()], pa.bool_())
    rows = table.filter(wanted).to_pylist()
    made: list[dict[str, Any]] = []
    for start in range(0, len(rows), READ_BATCH):
        batch = rows[start : start + READ_BATCH]
        for row, (text, score) in zip(batch, reader.read([frames_of(row) for row in batch]), strict=True):
            told = {"utterance": row["utterance"], "audio_sha256": row["audio_sha256"]}
            made.append({**told, "text": text, "score": score})
        if advance:
            advance(len(batch))
    return pa.Table.from_pylist(made, schema=READ_OUTS), []


@dataclass(frozen=True)
class SecondLabels:
    """Labels after the second teacher, and how often the two agreed."""

    table: pa.Table
    """Schema LABELS, a row for each of the labels that came in, in their order."""
    compared: int
    """Utterances in which both teachers heard words and both texts count."""
    alike: int
    """Those of them in which they agree."""
    unknown: frozenset[str]
    """Words that the adapter cannot spell and that were taken from the transcriber."""


def can_spell(tokens: Sequence[str], tokenizer: Any) -> Callable[[str], bool]:
    """Whether an adapter whose rows are ``tokens``, as strings, can write a word at all."""
    known = frozenset(tokens)
    return lambda word: known.issuperset(Vocabulary.of_texts(tokenizer, [word]).strings(tokenizer))


def second_labels(
    labels: pa.Table,
    read: Mapping[str, tuple[str, float]],
    teacher: str,
    languages: Mapping[str, str],
    rules: AgreementRules,
    spells: Callable[[str], bool] | None = None,
    unknown_users: int | None = None,
) -> SecondLabels:
    """Labels by what both teachers heard; rows with a human transcript pass as they are.

    ``read``: (text, confidence) of what ``teacher`` read, by utterance. ``languages``: by utterance, to bring the
    transcriber's text to spoken form. A label that only the transcriber gave and the adapter could not read is rejected.
    ``spells``: whether the adapter can spell a word; those that it cannot and that the transcriber heard from at least
    ``unknown_users`` users are taken from the transcriber (None: never).
    """
    if spells is not None and unknown_users is not None:
        # a transcript that its own rules did not believe teaches no word
        both = [(row["user"], *_heard(row, read, languages)) for row in labels.to_pylist() if _believed(row, read)]
        rules = replace(rules, unknown=unknown_words(both, spells, unknown_users))
    rows, compared, alike = [], 0, 0
    for row in labels.select(LABELS.names).to_pylist():
        kind = kind_of(row["reason"])
        if row["source"] == "human" or not row["teachers"] or (kind and kind not in MENDABLE):
            rows.append(row)
        elif row["utterance"] not in read:
            rows.append(row if kind else _rejected(row, "no features: the adapter could not read the recording"))
        else:
            language = languages.get(row["utterance"], "en")
            text, score = read[row["utterance"]]
            heard = _heard(row, read, languages)
            if all(one.text for one in heard):
                compared += 1
                alike += agreed(heard, replace(rules, alone={}, unknown=frozenset()))[0] is not None
            told = {**row, "teachers": [*row["teachers"], {"name": teacher, "text": text, "score": score}]}
            by = replace(rules, unknown=frozenset()) if kind else rules
            rows.append(_judged(told, heard, by, language, kind not in REJECTED_TEXT))
    return SecondLabels(pa.Table.from_pylist(rows, schema=LABELS), compared, alike, frozenset(rules.unknown))


def _believed(row: Mapping[str, Any], read: Mapping[str, Any]) -> bool:
    """Whether both teachers have a say in a row, and no rule has rejected the transcript."""
    return row["source"] != "human" and bool(row["teachers"]) and not row["reason"] and row["utterance"] in read


def _heard(
    row: Mapping[str, Any], read: Mapping[str, tuple[str, float]], languages: Mapping[str, str]
) -> tuple[Heard, Heard]:
    """What the transcriber and the adapter heard; a text that counts for nothing is empty."""
    first, language = row["teachers"][0], languages.get(row["utterance"], "en")
    text, score = read[row["utterance"]]
    written = first["text"] if kind_of(row["reason"]) not in REJECTED_TEXT else ""
    spoken = from_transcriber(written, language)
    return (
        Heard(WHISPER, spoken, first["score"], written, language),
        Heard(ADAPTER, normalise(text, language), score, language=language),
    )


def _judged(
    row: dict[str, Any], heard: Sequence[Heard], rules: AgreementRules, language: str, counts: bool
) -> dict[str, Any]:
    label, why = agreed(heard, rules)
    if label is None and not counts:
        alone = rules.alone.get(ADAPTER)
        needed = "never believed alone" if alone is None else f"believed alone from {alone:g} on"
        why = f"{row['reason']}; the adapter ({heard[-1].score:.2f}) is {needed}"
    why = why or problems_of(label or "", language) or ""
    if label is None or why:
        return _rejected(row, why)
    whole = [one.score for one in heard if one.text == label]
    # a label that both had a part in is as sure as the one that is less so
    confidence = max(whole) if whole else min(one.score for one in heard)
    return {**row, "text": label, "confidence": confidence, "accepted": True, "reason": ""}


def _rejected(row: dict[str, Any], why: str) -> dict[str, Any]:
    return {**row, "text": None, "accepted": False, "reason": why}
