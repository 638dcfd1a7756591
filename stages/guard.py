"""The guard: utterances of other people, by which a personal adapter must not get worse than the base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol, TypeVar

import numpy as np

from stages.alignment.metrics import word_errors
from stages.examples import LabelledUtterance

T = TypeVar("T")


class Reader(Protocol):
    """What the guard needs of a ``stages.listener.Listener``."""

    def read(self, frames: Sequence[np.ndarray]) -> Sequence[Any]: ...

    def text_of(self, output: Any) -> str: ...


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most ``most`` of ``items``, evenly over all of them, always the same ones."""
    if len(items) <= most:
        return list(items)
    return [items[index * len(items) // most] for index in range(most)]


class Guard:
    """Held-out utterances of the base cohorts. The base reads them once, each personal adapter once."""

    def __init__(self, base: Reader, utterances: Sequence[LabelledUtterance]) -> None:
        """``utterances``: those that the base never trained on, of any users."""
        self._utterances = utterances
        self._by_base = read_texts(base, utterances)

    def judge(self, personal: Reader | None, cohort: str, user: str) -> dict[str, Any]:
        """Figures of base and adapter on everybody's utterances but the user's own; None each where there are none.

        ``{"utterances": int, "base": {wer, cer, ...} | None, "personal": {wer, cer, ...} | None}``; ``personal`` None means
        that the base speaks for the user.
        """
        chosen = [index for index, item in enumerate(self._utterances) if (item.cohort, item.user) != (cohort, user)]
        if not chosen:
            return {"utterances": 0, "base": None, "personal": None}
        others = [self._utterances[index] for index in chosen]
        references = [item.text for item in others]
        by_base = [self._by_base[index] for index in chosen]
        heard = by_base if personal is None else read_texts(personal, others)
        return {
            "utterances": len(others),
            "base": asdict(word_errors(references, by_base)),
            "personal": asdict(word_errors(references, heard)),
        }


def read_texts(reader: Reader, utterances: Sequence[Any]) -> list[str]:
    """What ``reader`` reads in utterances, by their (T, F) ``frames``."""
    if not utterances:
        return []
    return [reader.text_of(output) for output in reader.read([item.frames for item in utterances])]
