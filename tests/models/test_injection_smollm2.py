"""The packaged SmolLM2 asked through embedded text: the same way that soft tokens take."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stages.alignment.injection import (
    answer_prompt,
    build_prompt,
    embed_text,
    generate_replies,
    repeat_prompt,
    stop_ids,
)
from stages.alignment.metrics import word_errors
from stages.models.llm import load_llm

pytestmark = pytest.mark.models

TEXTS = [
    "m o r e w o o d",
    "two six eight three eight zero two",
    "enter seven two one six",
    "what is the weather like tomorrow",
    "set an alarm for seven thirty",
]


@pytest.fixture(scope="module")
def llm(prepared_models: Any) -> tuple[Any, Any]:
    return load_llm(prepared_models.llm)


def test_it_repeats_what_it_reads(llm: tuple[Any, Any]) -> None:
    prompts = [repeat_prompt(*llm, embed_text(*llm, text)) for text in TEXTS]
    assert word_errors(TEXTS, generate_replies(*llm, prompts, 24)).wer <= 0.05


def test_it_still_repeats_rows_that_are_a_little_off(llm: tuple[Any, Any]) -> None:
    rows = [embed_text(*llm, text) for text in TEXTS]
    noise = torch.Generator().manual_seed(0)
    heard = [item + 0.1 * item.std() * torch.randn(item.shape, generator=noise) for item in rows]
    replies = generate_replies(*llm, [repeat_prompt(*llm, item) for item in heard], 24)
    assert word_errors(TEXTS, replies).wer <= 0.1


def test_its_reply_is_its_own_generate(llm: tuple[Any, Any]) -> None:
    model, tokenizer = llm
    instruction = "Answer in one short sentence."
    parts = build_prompt(tokenizer, instruction)
    ids = [*parts.prefix_ids, *tokenizer(" what is the capital of france")["input_ids"], *parts.suffix_ids]
    tokens = torch.tensor([ids])
    made = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=16, do_sample=False)
    prompt = answer_prompt(model, tokenizer, embed_text(model, tokenizer, "what is the capital of france"), instruction)
    expected = tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True).strip()
    assert generate_replies(model, tokenizer, [prompt], 16) == [expected]
    assert "Paris" in expected


def test_it_stops_at_the_end_of_its_turn(llm: tuple[Any, Any]) -> None:
    assert llm[1].convert_ids_to_tokens(sorted(stop_ids(*llm))) == ["<|im_end|>"]
