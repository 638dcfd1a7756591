"""Somebody to forget, and what they said, for unit tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.cohorts.erasure.person import Matcher, Person
from stages.atomic import sha256_bytes
from stages.audio import encode_flac
from stages.consent import make_consent
from stages.shards import ShardItem


def person(slug: str = "may", **changes: Any) -> Person:
    return replace(Person(slug, slugs={"home": slug}, called={slug.title()}), **changes)


def matcher(slug: str = "may", **changes: Any) -> Matcher:
    return Matcher(person(slug, **changes), ["home", "far"])


def item(utterance: str, user: str, source: str = "") -> ShardItem:
    audio = encode_flac(np.random.default_rng(len(utterance)).normal(0, 0.1, 1600).astype(np.float32))
    consent = make_consent(True)
    digest = sha256_bytes(audio)
    return ShardItem(
        utterance, user, "hello", "en", consent, source or sha256_bytes(utterance.encode()), 0.1, audio, digest
    )
