"""Instruction injection on a tiny random Llama."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers_llm import tiny_llama, tiny_tokenizer

from stages.alignment.injection import (
    HERE,
    PromptParts,
    answer_prompt,
    build_prompt,
    embed_text,
    generate_replies,
    mean_response_kl,
    place,
    repeat_prompt,
    reply_logits,
    stop_ids,
)
from stages.alignment.metrics import response_kl
from stages.errors import ModelError

TEXTS = ["one", "turn it off", "a b c d e f", "", "play some music now"]


@pytest.fixture(scope="module")
def llm() -> tuple[Any, Any]:
    return tiny_llama(), tiny_tokenizer()


def prompts_of(llm: tuple[Any, Any], instruction: str = "Answer.") -> list[torch.Tensor]:
    model, tokenizer = llm
    return [answer_prompt(model, tokenizer, embed_text(model, tokenizer, text), instruction) for text in TEXTS]


def test_text_takes_the_place_that_the_template_gives_it(llm: tuple[Any, Any]) -> None:
    _, tokenizer = llm
    parts = build_prompt(tokenizer, "Say it.", [("hi", "ho")])
    text = tokenizer.decode([*parts.prefix_ids, *tokenizer(" go")["input_ids"], *parts.suffix_ids])
    assert text == (
        "<|im_start|>user\nSay it.\n hi<|im_end|>\n<|im_start|>assistant\nho<|im_end|>\n"
        "<|im_start|>user\nSay it.\n go<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_llm_may_read_it_twice_in_examples_and_question(llm: tuple[Any, Any]) -> None:
    model, tokenizer = llm
    prompt = place(
        model, build_prompt(tokenizer, "Say it.", [("hi", "ho")], times=2), embed_text(model, tokenizer, "go")
    )
    text = (
        "<|im_start|>user\nSay it.\n hi\n hi<|im_end|>\n<|im_start|>assistant\nho<|im_end|>\n"
        "<|im_start|>user\nSay it.\n go\n go<|im_end|>\n<|im_start|>assistant\n"
    )
    assert torch.equal(prompt, model.get_input_embeddings()(torch.tensor(tokenizer(text)["input_ids"])))


def test_instruction_may_come_last(llm: tuple[Any, Any]) -> None:
    _, tokenizer = llm
    parts = build_prompt(tokenizer, "Say it.", order="instruction_last")
    assert tokenizer.decode(parts.suffix_ids).startswith("\nSay it.<|im_end|>")


def test_a_tokenizer_without_a_chat_template_is_refused() -> None:
    with pytest.raises(ModelError, match="chat template"):
        build_prompt(tiny_tokenizer(None), "Say it.")


def test_the_place_holder_is_refused_in_an_instruction(llm: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="FFFC"):
        build_prompt(llm[1], f"Say {HERE}.")


def test_embedded_text_in_the_prompt_is_the_prompt_as_text(llm: tuple[Any, Any]) -> None:
    model, tokenizer = llm
    parts = build_prompt(tokenizer, "Say it.")
    ids = [*parts.prefix_ids, *tokenizer(" go on")["input_ids"], *parts.suffix_ids]
    rows = place(model, parts, embed_text(model, tokenizer, "go on"))
    assert torch.equal(rows, model.get_input_embeddings()(torch.tensor(ids)))


def test_replies_are_those_of_the_model_itself(llm: tuple[Any, Any]) -> None:
    model, tokenizer = llm
    parts = build_prompt(tokenizer, "Answer.")
    for text, prompt in zip(TEXTS[:3], prompts_of(llm), strict=False):
        ids = torch.tensor([[*parts.prefix_ids, *tokenizer(" " + text)["input_ids"], *parts.suffix_ids]])
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        expected = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True).strip()
        assert generate_replies(model, tokenizer, [prompt], 12) == [expected]
        assert expected


@pytest.mark.parametrize("batch_size", [2, 3, 5])
def test_a_batch_gives_what_each_prompt_gives_alone(llm: tuple[Any, Any], batch_size: int) -> None:
    model, tokenizer = llm
    prompts = prompts_of(llm)
    alone = [generate_replies(model, tokenizer, [prompt], 10)[0] for prompt in prompts]
    assert len(set(alone)) > 2
    assert generate_replies(model, tokenizer, prompts, 10, batch_size) == alone


def test_a_batch_without_anything_in_common_works_too(llm: tuple[Any, Any]) -> None:
    model, tokenizer = llm
    prompts = [*prompts_of(llm)[:2], embed_text(model, tokenizer, "something else")]
    alone = [generate_replies(model, tokenizer, [prompt], 8)[0] for prompt in prompts]
    assert generate_replies(model, tokenizer, prompts, 8) == alone


def test_the_same_prompt_twice_gets_the_same_reply_twice(llm: tuple[Any, Any]) -> None:
    prompt = prompts_of(llm)[1]
    first, second = generate_replies(*llm, [prompt, prompt], 8)
    assert first == second


def test_no_prompt_gets_no_reply(llm: tuple[Any, Any]) -> None:
    assert generate_replies(*llm, [], 8) == []


def test_a_reply_ends_at_the_end_of_the_turn(llm: tuple[Any, Any]) -> None:
    model, tokenizer = llm
    prompt = prompts_of(llm)[0]
    first = int(reply_logits(model, prompt, [0])[0].argmax())
    assert stop_ids(model, tokenizer) == {257}
    always = tiny_llama()
    always.generation_config.eos_token_id = [first, 257]
    assert generate_replies(always, tokenizer, [prompt], 8) == [""]


def test_a_reply_has_at_most_the_tokens_that_were_asked_for(llm: tuple[Any, Any]) -> None:
    model, tokenizer = llm
    long, short = (generate_replies(model, tokenizer, prompts_of(llm)[:1], count)[0] for count in (9, 3))
    assert long != short
    assert long.startswith(short)


def test_the_repeat_prompt_ends_like_any_other_and_holds_the_soft_tokens(llm: tuple[Any, Any]) -> None:
    model, tokenizer = llm
    soft = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    prompt = repeat_prompt(model, tokenizer, soft)
    tail = model.get_input_embeddings()(torch.tensor(build_prompt(tokenizer, "x").suffix_ids))
    assert torch.equal(prompt[-len(tail) :], tail)
    assert torch.equal(prompt[-len(tail) - 4 : -len(tail)], soft)


def test_nothing_heard_leaves_an_ordinary_prompt(llm: tuple[Any, Any]) -> None:
    model, tokenizer = llm
    assert embed_text(model, tokenizer, "").shape == (0, 32)
    assert len(place(model, PromptParts([1, 2], [3]), torch.zeros(0, 32))) == 3


def test_logits_of_a_reply_are_those_of_a_plain_forward_pass(llm: tuple[Any, Any]) -> None:
    model, tokenizer = llm
    parts = build_prompt(tokenizer, "Answer.")
    ids = [*parts.prefix_ids, *tokenizer(" one")["input_ids"], *parts.suffix_ids]
    reply = tokenizer("yes")["input_ids"]
    whole = model(torch.tensor([[*ids, *reply]])).logits[0]
    torch.testing.assert_close(
        reply_logits(model, prompts_of(llm)[0], reply), whole[len(ids) - 1 : -1], atol=1e-5, rtol=1e-5
    )


def test_divergence_is_zero_where_audio_is_heard_as_the_text(llm: tuple[Any, Any]) -> None:
    model, tokenizer = llm
    text = [embed_text(model, tokenizer, item) for item in TEXTS[:2]]
    other = [embed_text(model, tokenizer, item) for item in TEXTS[1:3]]
    assert mean_response_kl(model, tokenizer, text, text, ["yes", "no"], "Answer.") == pytest.approx(0.0, abs=1e-9)
    assert mean_response_kl(model, tokenizer, other, text, ["yes", "no"], "Answer.") > 0.01


def test_divergence_is_a_mean_over_tokens_that_counts_the_end(llm: tuple[Any, Any]) -> None:
    model, tokenizer = llm
    text, audio = prompts_of(llm)[:2]
    rows = [embed_text(model, tokenizer, item) for item in TEXTS[:2]]
    ids = [*tokenizer("yes")["input_ids"], 257]
    expected = response_kl(reply_logits(model, text, ids), reply_logits(model, audio, ids))
    assert mean_response_kl(model, tokenizer, [rows[1]], [rows[0]], ["yes"], "Answer.") == pytest.approx(expected)


def test_divergence_needs_a_reply(llm: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="no reply"):
        mean_response_kl(*llm, [], [], [], "Answer.")
