"""What evaluate keeps for the figures, against hand-made adapters and read-outs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stages import evaluate
from stages.examples import LabelledUtterance
from stages.insight import changed_weights, posteriors_over_time, utterance_rows
from stages.layers import densities, layer_name, mean_densities


def listener(posteriors: list[list[float]], words: list[str]) -> Any:
    tokens = dict(enumerate(words, start=100))
    return SimpleNamespace(
        posteriors=lambda frames: np.array(posteriors),
        vocabulary=SimpleNamespace(ids=tuple(tokens)),
        tokenizer=SimpleNamespace(decode=lambda ids: tokens[ids[0]]),
        bridge=SimpleNamespace(config=SimpleNamespace(stack=4)),
    )


def test_a_row_tells_what_was_said_and_read_and_how_many_errors_that_is() -> None:
    item = LabelledUtterance(
        "u1", "ann", "home", "turn on the light", "human", np.zeros((30, 2), np.float16), None, 0.61, "abc"
    )
    [row] = utterance_rows([item], ["turn off light"], ["turn on the light"])
    assert row == {
        "utterance": "u1",
        "reference": "turn on the light",
        "base": "turn off light",
        "personal": "turn on the light",
        "words": 4,
        "base_errors": 2,
        "personal_errors": 0,
        "duration_s": 0.61,
        "n_frames": 30,
        "audio_sha256": "abc",
    }


def test_blank_first_then_what_was_read_then_what_came_closest() -> None:
    #             blank  a    b    c    d
    posteriors = [
        [0.9, 0.02, 0.03, 0.04, 0.01],
        [0.1, 0.1, 0.2, 0.55, 0.05],
        [0.2, 0.44, 0.3, 0.05, 0.01],
        [0.2, 0.45, 0.3, 0.04, 0.01],
    ]
    found = posteriors_over_time(listener(posteriors, [" a", " b", " c", " d"]), np.zeros((16, 2)), shown=4)
    assert found["tokens"] == ["", " c", " a", " b"]
    assert found["values"] == [
        [0.9, 0.1, 0.2, 0.2],
        [0.04, 0.55, 0.05, 0.04],
        [0.02, 0.1, 0.44, 0.45],
        [0.03, 0.2, 0.3, 0.3],
    ]
    assert found["step_s"] == 0.08


BASE = {
    "enter.weight": np.ones((4, 5)),
    "leave.weight": np.ones((2, 4)),
    "blocks.1.attention.key.weight": np.ones((3, 3)),
    "blocks.0.contract.weight": np.ones((3, 3)),
    "blocks.0.attention.query.weight": np.ones((3, 3)),
    "blank.weight": np.ones((1, 4)),  # one output: no adapter may change it
    "norm.weight": np.ones(4),
}
ORDER = ["enter", "blocks.0.attention.query", "blocks.0.contract", "blocks.1.attention.key", "leave"]


def test_a_sparse_adapter_changes_what_it_holds_without_its_fillers() -> None:
    adapter = {
        "enter.values": np.array([0.5, 0.0, -1.0], np.float16),  # the nought bridges a long gap
        "enter.gaps": np.array([1, 65535, 3], np.uint16),
        "blocks.1.attention.key.values": np.array([0.1], np.float16),
        "frame_shift": np.ones(3),
    }
    found = changed_weights(BASE, adapter, "shira")
    assert [item["layer"] for item in found] == ORDER
    assert [(item["changed"], item["weights"]) for item in found] == [(2, 20), (0, 9), (0, 9), (1, 9), (0, 8)]


def test_a_low_rank_adapter_changes_whole_layers() -> None:
    adapter = {"enter.down": np.ones((2, 5)), "enter.up": np.ones((4, 2))}
    assert [item["changed"] for item in changed_weights(BASE, adapter, "lora")] == [20, 0, 0, 0, 0]


def test_a_full_adapter_changes_what_differs() -> None:
    adapter = {"enter.weight": np.eye(4, 5), "leave.weight": np.zeros((2, 4)), "norm.weight": np.ones(4)}
    assert [item["changed"] for item in changed_weights(BASE, adapter, "full")] == [4, 0, 0, 0, 0]


def test_densities_are_shares_of_a_layer_and_their_mean_is_over_users() -> None:
    def entry(changed: int) -> dict[str, Any]:
        return {"layers": [{"layer": "enter", "changed": changed, "weights": 20}]}

    assert densities(entry(5)) == {"enter": 0.25}
    assert densities({}) == {}
    cohorts = {"a": {"users": {"ann": entry(5), "old": {}}}, "b": {"users": {"bob": entry(15)}}}
    assert mean_densities(cohorts) == {"enter": pytest.approx(0.5)}
    assert mean_densities({}) == {}
    assert layer_name("blocks.0.attention.key") == "block 1 key"
    assert layer_name("enter") == "enter"


def test_a_listener_gives_posteriors_of_one_utterance_as_in_a_batch() -> None:
    """The heat map shows what was read: the same numbers as the read-out's, which come from a padded batch."""
    import torch

    from stages.alignment.bridgeformer import BridgeFormer
    from stages.alignment.embedlink import EmbedLink
    from stages.listener import Listener
    from tests.helpers_alignment import CONFIG

    torch.manual_seed(0)
    bridge, link = BridgeFormer(CONFIG), EmbedLink(torch.randn(6, CONFIG.llm_width))
    one = Listener(bridge, None, None, link, None)  # type: ignore[arg-type]
    frames = [np.random.default_rng(n).normal(size=(n, CONFIG.encoder_width)).astype(np.float16) for n in (9, 30)]
    for item, read in zip(frames, one.read(frames), strict=True):
        posteriors = one.posteriors(item)
        assert posteriors.shape == (-(-len(item) // CONFIG.stack), 7)
        assert posteriors.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
        path = posteriors.argmax(axis=1)
        merged = [int(c) for n, c in enumerate(path) if c and (n == 0 or path[n - 1] != c)]
        assert [column - 1 for column in merged] == read.rows


def test_each_utterance_is_judged_in_its_language(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.zeros((3, 2), np.float16)
    items = [
        LabelledUtterance("u1", "ann", "home", "fünfzehn uhr", "human", frames, "15 Uhr.", language="de"),
        LabelledUtterance("u2", "ann", "home", "включи пять ламп", "human", frames, "Включи 5 ламп.", language="ru"),
        LabelledUtterance("u3", "ann", "home", "five cafes", "human", frames, "5 cafés.", language="en"),
        LabelledUtterance("u4", "ann", "home", "stop", "human", frames, None),
    ]

    def reader(texts: list[str]) -> Any:
        return SimpleNamespace(read=lambda frames: texts, text_of=str)

    monkeypatch.setattr(evaluate, "_over_time", lambda *_: None)
    base = reader(["fünfzehn uhr", "закрой дверь", "five cafes", "stop"])
    found = evaluate.evaluate_user(base, None, items, None, evaluate.LlmSettings(0, 1, ""))
    assert (found["base"]["word_errors"], found["base"]["word_total"]) == (3, 8)
    assert (found["cascade"]["word_errors"], found["cascade"]["word_total"]) == (0, 7)
    assert [row["base_errors"] for row in found["read"]] == [0, 3, 0, 0]
    assert [one["cascade"] for one in found["examples"]] == ["fünfzehn uhr", "включи пять ламп", "five cafes", None]
