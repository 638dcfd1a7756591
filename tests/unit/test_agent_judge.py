"""When a version from the registry counts as worse on a device."""

from __future__ import annotations

from typing import Any

import pytest

from jetson_agent.home import Home
from jetson_agent.judge import verdict
from jetson_agent.registry import Found
from jetson_agent.rollout import Pull
from tests.helpers_rollout import correct


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


def test_what_is_in_use_is_judged_again_only_once_enough_judge_it(home: Home) -> None:
    version = Found("edgealign.home.ann", "3", {"adapter_sha256": "0" * 64}, "")
    home.shelf.note("taken", "nothing judges it", {"pulled": version.named, "judged": {"own": 0, "general": 20}})
    told: list[str] = []
    registry: Any = None
    pull = Pull(home, registry, home.rollout, told.append, False)
    for count in (1, 2):
        correct(home, count)
        assert pull._look_again(version, home.device.base)
        assert told == [f"version {version.version} is in use: nothing to do"] * count
    assert len(home.history()) == 1
