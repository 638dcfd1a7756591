"""Intents by the LLM's next token: on a tiny Llama, against scores computed the slow way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers_llm import tiny_llama, tiny_tokenizer

from stages.alignment.injection import build_prompt, embed_text, next_token_logits, place, reply_logits
from stages.alignment.intents import (
    NOTHING_SAID,
    first_tokens,
    instruction_of,
    intent_scores,
    named,
    preferred_anyway,
)

EXAMPLES = {"lamp": "turn on the light", "song": "play jazz", "alarm": "wake me at ten"}
REQUESTS = ["switch the light off", "some blues please", "wake me", "a", "go to the north and then to the south"]


@pytest.fixture(scope="module")
def llm() -> tuple[Any, Any]:
    return tiny_llama(), tiny_tokenizer()


def slow_scores(llm: tuple[Any, Any], text: str, order: Any) -> torch.Tensor:
    """One prompt at a time, no padding and no cache."""
    model, tokenizer = llm
    examples = [(said, intent) for intent, said in EXAMPLES.items()]
    parts = build_prompt(tokenizer, instruction_of(list(EXAMPLES)), examples, order)
    logits = reply_logits(model, place(model, parts, embed_text(model, tokenizer, text)), [0])[0]
    return logits[first_tokens(tokenizer, list(EXAMPLES))].log_softmax(dim=-1)


@pytest.mark.parametrize("order", ["instruction_first", "instruction_last"])
def test_the_intent_is_the_likeliest_name_less_what_the_llm_prefers_anyway(llm: tuple[Any, Any], order: Any) -> None:
    model, tokenizer = llm
    requests = [embed_text(model, tokenizer, text) for text in REQUESTS]
    scores = torch.stack([slow_scores(llm, text, order) for text in REQUESTS])
    preferred = torch.stack([slow_scores(llm, text, order) for text in NOTHING_SAID]).exp().mean(dim=0).log()
    assert torch.allclose(intent_scores(model, tokenizer, requests, EXAMPLES, order), scores, atol=1e-4)
    assert torch.allclose(preferred_anyway(model, tokenizer, EXAMPLES, order), preferred, atol=1e-4)
    if order == "instruction_first":  # where this LLM is not sure of everything, calibration is no empty word
        assert named(scores - preferred, EXAMPLES) != named(scores, EXAMPLES)


def test_the_best_score_names_the_intent() -> None:
    assert named(torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]]), EXAMPLES) == ["song", "lamp"]


def test_next_tokens_come_in_the_order_of_the_prompts_whatever_their_length(llm: tuple[Any, Any]) -> None:
    model, tokenizer = llm
    prompts = [embed_text(model, tokenizer, text) for text in ("long as a winter night", "b", "middling one", "cd")]
    found = next_token_logits(model, prompts, batch_size=2)
    for prompt, logits in zip(prompts, found, strict=True):
        assert torch.allclose(logits, reply_logits(model, prompt, [0])[0], atol=1e-4)


def test_names_that_begin_alike_are_refused(llm: tuple[Any, Any]) -> None:
    _, tokenizer = llm
    with pytest.raises(ValueError, match="'lamp' and 'light' begin with the same token"):
        first_tokens(tokenizer, ["lamp", "song", "light"])
