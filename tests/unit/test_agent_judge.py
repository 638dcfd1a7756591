"""When a version from the registry counts as worse on a device."""

from __future__ import annotations

import pytest

from jetson_agent.judge import verdict


def figures(
    own: tuple[float, float] | None, general: tuple[float, float] | None, words: int = 1000
) -> dict[str, object]:
    def wers(at: int) -> dict[str, float | None]:
        return {"own": own[at] if own else None, "general": general[at] if general else None}

    base = {"own": 0.9, "general": 0.3}
    return {"wer": {"base": base, "before": wers(0), "after": wers(1)}, "words": {"own": words, "general": words}}


@pytest.mark.parametrize(
    ("own", "general", "words", "said"),
    [
        ((0.5, 0.4), (0.3, 0.3), 1000, "passed"),
        ((0.5, 0.51), (0.3, 0.3), 1000, "passed"),
        ((0.5, 0.52), (0.3, 0.3), 1000, "failed"),
        ((0.5, 0.52), (0.3, 0.3), 50, "passed"),  # one word of fifty
        ((0.5, 0.4), (0.3, 0.4), 1000, "passed"),  # as the rule of promotion
        ((0.5, 0.4), (0.3, 0.41), 1000, "failed"),
        ((0.5, 0.4), (0.6, 0.6), 1000, "passed"),  # what is in use is no better
        ((0.5, 0.4), (0.6, 0.62), 1000, "failed"),
        (None, (0.3, 0.3), 1000, "passed"),
        ((0.5, 0.6), None, 1000, "failed"),
        (None, None, 0, "unjudged"),
    ],
)
def test_worse(own: tuple[float, float] | None, general: tuple[float, float] | None, words: int, said: str) -> None:
    found, why = verdict(figures(own, general, words), 0.01, 0.1)
    assert found == said
    assert ("may be" in why) == (said == "failed")
