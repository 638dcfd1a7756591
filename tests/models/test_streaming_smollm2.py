"""Replies piece by piece are the replies that the LLM gives as a whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stages.alignment.injection import answer_prompt, embed_text, generate_replies
from stages.alignment.streaming import Responder
from stages.models.llm import load_llm

pytestmark = pytest.mark.models

INSTRUCTION = "Answer the user in one short sentence."
SAID = ("what is the capital of france", "say something in japanese", "write a smiling face", "count to ten")


@pytest.fixture(scope="module")
def llm(prepared_models: Any) -> tuple[Any, Any]:
    return load_llm(prepared_models.llm)


@pytest.mark.parametrize("most", [1, 5, 40])
def test_the_pieces_are_the_whole(llm: tuple[Any, Any], most: int) -> None:
    model, tokenizer = llm
    responder = Responder(model, tokenizer, INSTRUCTION)
    heard = [embed_text(model, tokenizer, text) for text in SAID]
    prompts = [answer_prompt(model, tokenizer, rows, INSTRUCTION) for rows in heard]
    whole = [generate_replies(model, tokenizer, [prompt], most)[0] for prompt in prompts]
    for rows, reply in zip(heard, whole, strict=True):
        pieces = list(responder.reply(rows, most))
        assert "".join(pieces) == reply
        assert all(pieces)


def test_replies_that_take_turns_do_not_disturb_each_other(llm: tuple[Any, Any]) -> None:
    model, tokenizer = llm
    responder = Responder(model, tokenizer, INSTRUCTION)
    heard = [embed_text(model, tokenizer, text) for text in SAID[:2]]
    alone = ["".join(responder.reply(rows, 20)) for rows in heard]
    streams = [responder.reply(rows, 20) for rows in heard]
    together = ["", ""]
    for _ in range(20):
        for place, stream in enumerate(streams):
            together[place] += next(stream, "")
    assert together == alone


def test_what_was_read_once_is_not_changed_by_a_reply(llm: tuple[Any, Any]) -> None:
    model, tokenizer = llm
    responder = Responder(model, tokenizer, INSTRUCTION)
    before = [layer.keys.clone() for layer in responder._cache.layers]
    list(responder.reply(embed_text(model, tokenizer, SAID[0]), 5))
    after = [layer.keys for layer in responder._cache.layers]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
