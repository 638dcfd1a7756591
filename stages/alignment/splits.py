"""Splits that never leak: speakers apart for a base, utterances apart for a user. Deterministic, whatever the order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stages.atomic import sha256_bytes, sha256_json


def _shuffled(names: Iterable[str], seed: int) -> list[str]:
    """Names in an order that depends on the names and the seed only, not on the order they came in."""
    return sorted(set(names), key=lambda name: sha256_bytes(f"{seed}/{name}".encode()))


def hold_out_users(users: Iterable[str], share: float, seed: int) -> set[str]:
    """Users held out: ``share`` of them, at least one where there are two or more and ``share`` is above 0."""
    order = _shuffled(users, seed)
    if share <= 0.0 or len(order) < 2:
        return set()
    return set(order[: min(len(order) - 1, max(1, round(share * len(order))))])


def split_utterances(
    utterances: Sequence[str], texts: dict[str, str], train: int, seed: int, judge: int | None = None
) -> tuple[list[str], list[str]]:
    """A user's utterances -> (train, held out).

    An utterance whose text also occurs among the training ones is not held out: the same sentence said twice would
    make the held-out figure look better than it is. At least one third of the utterances is held out, of these at most
    ``judge`` are told; None: all.
    """
    order = _shuffled(utterances, seed)
    count = min(train, len(order) - max(1, len(order) // 3))
    chosen = order[:count]
    known = {texts[name] for name in chosen}
    held_out = [name for name in order[count:] if texts[name] not in known]
    return sorted(chosen), sorted(held_out[:judge])


def held_out_digest(judged: Iterable[tuple[str, str]]) -> str:
    """SHA-256 of (utterance, reference) pairs in their order: figures with another one are of other utterances or texts."""
    return sha256_json([list(pair) for pair in judged])
