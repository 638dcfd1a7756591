"""What a cohort holds, as figures: sound, texts, users, duplicates, consent, and what was set aside. Tables in, figures out.

A figure that cannot be known is None: where it came in is not known of a cohort whose index was made from its shards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from stages.cohort_report_near import near_duplicates
from stages.cohort_report_texts import characters, spoken_sizes
from stages.consent import refusal
from stages.shards import Problem
from stages.text import normalise

NOISY_DB = 15.0
"""SNR below which the share of speech misses the faint half of it (see stages.quality)."""

LEAST_SPEECH = 0.5
"""Share of a noisy recording that is taken for speech at least, when its speech rate is computed."""

MAX_PAIRS = 10_000
"""Pairs of almost the same texts that are listed: numbered commands have more of them than anyone reads."""

QUANTILES = (0.05, 0.5, 0.95)
DIGITS = 4
OFF_COLUMNS = {"duration_s": "duration_s", "rate": "letters_per_second", "word_rate": "words_per_second"}


@dataclass(frozen=True)
class Cohort:
    """A cohort as the report sees it."""

    name: str
    language: str
    table: pa.Table
    """Schema stages.schema.INDEX."""
    called: Mapping[str, str] = field(default_factory=dict)
    """{user: what the source calls that user}."""
    quarantine: Sequence[Problem] = ()


@dataclass(frozen=True)
class Thresholds:
    """From where on an utterance counts as silent, clipped, or spoken too fast; from how many on a user has an adapter."""

    silent_below_dbfs: float = -55.0
    silent_speech_share: float = 0.05
    clipped_above: float = 0.001
    max_letters_per_second: float = 30.0
    min_words_per_second: float = 0.5
    min_utterances: int = 4


def examine(
    cohort: Cohort, others: Sequence[Cohort], thresholds: Thresholds, personal: bool = True
) -> tuple[dict[str, Any], pd.DataFrame]:
    """(figures, frame): the figures are plain numbers, strings, lists and dicts, ready for JSON; the frame has a row an
    utterance with the index's columns and ``usable, refusal, silent, clipped, spoken, letters, words, speech_s, rate,
    word_rate, off_rate`` for plots. ``personal``: whether the cohort's users get adapters.
    """
    frame = _frame(cohort, thresholds)
    texts = _texts(frame)
    return {
        "cohort": cohort.name,
        "language": cohort.language,
        "personal": personal,
        "min_utterances": thresholds.min_utterances,
        "amount": _amount(frame),
        "sound": _sound(frame),
        "sources": _sources(frame),
        "duplicates": {"within": _within(frame), "across": _across(frame, others)},
        "texts": texts,
        "speech_rate": _speech_rate(frame),
        "users": _users(frame, cohort, thresholds),
        "shared_users": _shared_users(cohort, frame, others),
        "consent": _consent(frame),
        "quarantine": _quarantine(cohort.quarantine, len(frame)),
    }, frame


def _frame(cohort: Cohort, thresholds: Thresholds) -> pd.DataFrame:
    """The index with what is computed an utterance."""
    frame = cohort.table.to_pandas()
    frame["language"] = frame["language"].fillna(cohort.language)
    frame["refusal"] = _refusals(frame)
    frame["usable"] = frame["refusal"] == ""
    level, speech = frame["level_dbfs"], frame["speech_share"]
    frame["silent"] = (level < thresholds.silent_below_dbfs) | (speech < thresholds.silent_speech_share)
    frame["clipped"] = frame["clipped_share"] > thresholds.clipped_above
    frame["labelled"] = frame["text"].notna() & (frame["text"] != "")
    spoken, letters, words = _spoken(frame)
    frame["spoken"], frame["letters"], frame["words"] = spoken, letters, words
    noisy = ~(frame["snr_db"] >= NOISY_DB)
    share = np.where(noisy, np.maximum(speech, LEAST_SPEECH), speech)
    frame["speech_s"] = frame["duration_s"] * np.where(np.isnan(share), 1.0, share)
    timed = frame["labelled"] & (frame["letters"] > 0) & (frame["speech_s"] > 0) & ~frame["silent"]
    frame["rate"] = (frame["letters"] / frame["speech_s"]).where(timed)
    frame["word_rate"] = (frame["words"] / frame["speech_s"]).where(timed)
    frame["off_rate"] = (frame["rate"] > thresholds.max_letters_per_second) | (
        frame["word_rate"] < thresholds.min_words_per_second
    )
    return frame


def _refusals(frame: pd.DataFrame) -> np.ndarray:
    """Why each utterance may not train its user's adapter, by stages.consent; empty where it may."""
    given = [
        frame[name].astype(object).where(frame[name].notna(), None) for name in ("granted", "scope", "consent_date")
    ]
    codes, kinds = pd.factorize(pd.Series(zip(*given, strict=True), dtype=object))
    reasons = [
        refusal({"granted": granted, "scope": scope, "date": date}, "personal") for granted, scope, date in kinds
    ]
    return np.array([*reasons, ""], dtype=object)[codes]


def _spoken(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(spoken form, letters, words) of each utterance; empty and 0 without a transcript. Once a distinct text."""
    spoken = np.full(len(frame), "", dtype=object)
    letters, words = np.zeros(len(frame), dtype=np.int64), np.zeros(len(frame), dtype=np.int64)
    for language, rows in _by_language(frame):
        codes, texts = pd.factorize(frame["text"].to_numpy(dtype=object)[rows])
        forms = [normalise(text, language) for text in texts]
        spoken[rows] = np.array(forms, dtype=object)[codes]
        sizes = spoken_sizes(forms, language)
        letters[rows], words[rows] = sizes[0][codes], sizes[1][codes]
    return spoken, letters, words


def _by_language(frame: pd.DataFrame) -> list[tuple[str, np.ndarray]]:
    """(language, places of its utterances that have a transcript)."""
    found = frame["language"].to_numpy(dtype=object)
    labelled = frame["labelled"].to_numpy(dtype=bool)
    return [(str(name), np.flatnonzero(labelled & (found == name))) for name in sorted(set(found[labelled]))]


def _amount(frame: pd.DataFrame) -> dict[str, Any]:
    a_user = frame.groupby("user").size()
    return {
        "utterances": len(frame),
        "users": len(a_user),
        "hours": float(frame["duration_s"].sum() / 3600),
        "shards": int(frame["shard"].nunique()),
        "with_transcript": int(frame["labelled"].sum()),
        "without_transcript_share": _share(~frame["labelled"]),
        "languages": _counts(frame["language"]),
        "duration_s": _spread(frame["duration_s"]),
        "utterances_a_user": _spread(a_user),
    }


def _sound(frame: pd.DataFrame) -> dict[str, Any]:
    known = frame[["level_dbfs", "speech_share"]].notna().all(axis=1)
    return {
        "level_dbfs": _spread(frame["level_dbfs"]),
        "snr_db": _spread(frame["snr_db"]),
        "snr_known_share": _share(frame["snr_db"].notna()),
        "speech_share": _spread(frame["speech_share"]),
        "silent_share": _share(frame["silent"][known]),
        "silent": frame.loc[frame["silent"], "utterance"].tolist(),
        "clipped_share": _share(frame["clipped"][frame["clipped_share"].notna()]),
        "clipped": frame.loc[frame["clipped"], "utterance"].tolist(),
    }


def _sources(frame: pd.DataFrame) -> dict[str, Any]:
    """The files that came in; ``known_share`` says of how many utterances they are known."""
    columns = ["source_format", "source_rate_hz", "source_channels"]
    known = frame[frame["source_rate_hz"].notna()]
    kinds = known.groupby(columns, dropna=False).size().sort_values(ascending=False, kind="stable")
    return {
        "known_share": _share(frame["source_rate_hz"].notna()),
        "min_rate_hz": int(known["source_rate_hz"].min()) if len(known) else None,
        "kinds": [
            {
                "format": None if pd.isna(kind[0]) else str(kind[0]),
                "rate_hz": int(kind[1]),
                "channels": None if pd.isna(kind[2]) else int(kind[2]),
                "utterances": int(count),
            }
            for kind, count in zip(kinds.index.tolist(), kinds.tolist(), strict=True)
        ],
    }


def _within(frame: pd.DataFrame) -> dict[str, Any]:
    """Utterances of this cohort with the same sound. Pieces of one recording share its source and are none of them."""
    known = frame[frame["audio_sha256"].notna()]
    twice = known[known.duplicated("audio_sha256", keep=False)]
    groups = twice.groupby("audio_sha256", sort=False)["utterance"].agg(list).tolist()
    return {
        "utterances": int(len(twice) - len(groups)),
        "share": (len(twice) - len(groups)) / len(frame) if len(frame) else None,
        "groups": sorted(groups),
    }


def _across(frame: pd.DataFrame, others: Sequence[Cohort]) -> dict[str, Any]:
    """Utterances whose recording another cohort has too: the same sound, or cut from the same file."""
    found = []
    for other in others:
        theirs = other.table.select(["utterance", "audio_sha256", "source_sha256"]).to_pandas()
        ours = pd.Series(None, index=frame.index, dtype=object)
        for column in ("audio_sha256", "source_sha256"):
            known = theirs[theirs[column].notna() & (theirs[column] != "")].drop_duplicates(column)
            match = frame[column].map(known.set_index(column)["utterance"])
            ours = ours.where(ours.notna(), match)
        same = ours.notna()
        found += [
            {"utterance": mine, "cohort": other.name, "other": yours}
            for mine, yours in zip(frame.loc[same, "utterance"], ours[same], strict=True)
        ]
    return {"utterances": len({row["utterance"] for row in found}), "pairs": found}


def _texts(frame: pd.DataFrame) -> dict[str, Any]:
    """Repeated and almost repeated texts, and characters that the language has not."""
    labelled = int(frame["labelled"].sum())
    near: list[dict[str, Any]] = []
    outside: list[dict[str, Any]] = []
    near_pairs = near_utterances = outside_utterances = distinct = 0
    for language, rows in _by_language(frame):
        written = frame["text"].to_numpy(dtype=object)[rows]
        codes, texts = pd.factorize(written)
        found, affected = characters(texts.tolist(), np.bincount(codes, minlength=len(texts)), language)
        outside += [{"language": language, **row} for row in found]
        outside_utterances += int(affected[codes].sum())

        codes, forms = pd.factorize(frame["spoken"].to_numpy(dtype=object)[rows])
        counts = np.bincount(codes, minlength=len(forms))
        pairs = near_duplicates(forms.tolist(), language)
        rarer = np.where(counts[pairs.first] <= counts[pairs.second], pairs.first, pairs.second)
        near_pairs += len(pairs)
        near_utterances += int(counts[np.unique(rarer)].sum())
        near += [
            {
                "texts": [str(forms[pairs.first[pair]]), str(forms[pairs.second[pair]])],
                "utterances": [int(counts[pairs.first[pair]]), int(counts[pairs.second[pair]])],
                "differs": pairs.differs(pair),
            }
            for pair in np.argsort(counts[rarer], kind="stable")[:MAX_PAIRS].tolist()
        ]
        distinct += len(forms)
    spoken = frame[frame["letters"] > 0]
    repeated = spoken.groupby("spoken").size().sort_values(ascending=False, kind="stable")
    return {
        "distinct": distinct,
        # the same text of the same user, once in training and once held out, makes the held-out figure too good
        "repeated_by_user_share": _share(spoken.duplicated(["user", "spoken"], keep=False)),
        "most_repeated": [{"text": str(text), "utterances": int(n)} for text, n in repeated.head(5).items() if n > 1],
        "near_duplicates": sorted(near, key=lambda row: (min(row["utterances"]), row["texts"]))[:MAX_PAIRS],
        "near_duplicate_pairs": near_pairs,
        "near_duplicate_share": near_utterances / labelled if labelled else None,
        "outside_characters": outside,
        "outside_characters_share": outside_utterances / labelled if labelled else None,
    }


def _speech_rate(frame: pd.DataFrame) -> dict[str, Any]:
    """How fast the transcript would have been spoken: letters and words a second of speech."""
    timed = frame[frame["rate"].notna()]
    off = timed[timed["off_rate"]].sort_values("rate", ascending=False, kind="stable")
    return {
        "letters_per_second": _spread(timed["rate"]),
        "words_per_second": _spread(timed["word_rate"]),
        "off_share": _share(timed["off_rate"]),
        "off": off.rename(columns=OFF_COLUMNS)[["utterance", "text", *OFF_COLUMNS.values()]].to_dict("records"),
    }


def _users(frame: pd.DataFrame, cohort: Cohort, thresholds: Thresholds) -> list[dict[str, Any]]:
    """A row a user; ``too_small`` says that not even pseudo-labels could give the user an adapter."""
    counted = frame.assign(ready=frame["usable"] & frame["labelled"], seconds=frame["duration_s"])
    table = counted.groupby("user").agg(
        utterances=("utterance", "size"),
        labelled=("labelled", "sum"),
        usable=("usable", "sum"),
        ready=("ready", "sum"),
        seconds=("seconds", "sum"),
        level_dbfs=("level_dbfs", "median"),
        snr_db=("snr_db", "median"),
        silent=("silent", "sum"),
        clipped=("clipped", "sum"),
        off_rate=("off_rate", "sum"),
        letters_per_second=("rate", "median"),
    )
    counts = ("utterances", "labelled", "usable", "ready", "silent", "clipped", "off_rate")
    rows = []
    for user, row in zip(table.index.tolist(), table.to_dict("records"), strict=True):
        rows.append(
            {
                "user": str(user),
                "called": str(cohort.called.get(user, user)),
                **{name: int(row[name]) if name in counts else _number(row[name]) for name in table.columns},
                "too_small": bool(row["usable"] < thresholds.min_utterances),
                "needs_labels": bool(row["ready"] < thresholds.min_utterances <= row["usable"]),
            }
        )
    return rows


def _shared_users(cohort: Cohort, frame: pd.DataFrame, others: Sequence[Cohort]) -> list[dict[str, Any]]:
    """Users of this cohort whom another one has under the same id, or calls the same."""
    rows = []
    mine = sorted(map(str, frame["user"].unique()))
    for other in others:
        theirs = sorted(map(str, other.table.column("user").unique().to_pylist()))
        known = {user: user for user in theirs}
        named = {_name(other.called.get(user, user)): user for user in reversed(theirs)}
        for user in mine:
            match = known.get(user) or named.get(_name(cohort.called.get(user, user)))
            if match is not None:
                rows.append({"user": user, "cohort": other.name, "other": match})
    return rows


def _name(name: str) -> str:
    return " ".join(name.casefold().split())


def _consent(frame: pd.DataFrame) -> dict[str, Any]:
    withheld = ~frame["usable"]
    scopes = frame.loc[frame["usable"], "scope"]
    return {
        "usable": int(frame["usable"].sum()),
        "withheld": int(withheld.sum()),
        "withheld_share": _share(withheld),
        "reasons": _counts(frame.loc[withheld, "refusal"]),
        "scopes": _counts(scopes),
        "without_date": int(frame["consent_date"].isna().sum()),
    }


QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
NAMED = re.compile(r"\S*[/_\\]\S*|\b\S+\.(?:wav|flac|mp3|ogg|opus|m4a|sph|tar|json|csv|tsv|txt)\b", re.IGNORECASE)
NUMBERED = re.compile(r"[^\s:(]*\d[^\s,:;)]*")


def _quarantine(problems: Sequence[Problem], kept: int) -> dict[str, Any]:
    """What was set aside, by reason: names and numbers in a reason do not tell reasons apart."""
    groups: dict[str, list[Problem]] = {}
    for problem in problems:
        groups.setdefault(_pattern(problem), []).append(problem)
    total = len(problems) + kept
    return {
        "items": len(problems),
        "share": len(problems) / total if total else None,
        "groups": [
            {"reason": pattern if len(found) > 1 else found[0].reason, "items": [problem.item for problem in found]}
            for pattern, found in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
        ],
    }


def _pattern(problem: Problem) -> str:
    """A reason with … for whatever belongs to the one item."""
    reason = problem.reason
    for part in sorted(problem.item.split(": "), key=len, reverse=True):
        for name in (part, part.rsplit("/", 1)[-1]):
            reason = reason.replace(name, "…") if len(name) > 2 else reason
    return NUMBERED.sub("…", NAMED.sub("…", QUOTED.sub("…", reason)))


def _counts(column: pd.Series) -> dict[str, int]:
    """{value: how often}, the most frequent first."""
    return {str(value): int(count) for value, count in column.value_counts().items()}


def _share(holds: pd.Series) -> float | None:
    """The share of rows that are true; None without rows."""
    return float(holds.mean()) if len(holds) else None


def _spread(column: pd.Series) -> dict[str, float | None]:
    """Least, 5 %, median, 95 %, largest; each None where nothing is known."""
    known = column.dropna().to_numpy(dtype=np.float64)
    if not known.size:
        return dict.fromkeys(("min", "p5", "median", "p95", "max"))
    values = [known.min(), *np.quantile(known, QUANTILES), known.max()]
    return dict(zip(("min", "p5", "median", "p95", "max"), map(_number, values), strict=True))


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else round(float(value), DIGITS)
