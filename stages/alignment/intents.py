"""Which of a few intents a request has, by the frozen LLM: no head is trained, and soft tokens are asked as text is.

The LLM sees one finished turn for each intent, then the request, and its next token is compared at the intents' first tokens
alone. A small LLM prefers some names whatever is said; what it scores where nothing was said is taken off each name
(contextual calibration: Zhao et al., "Calibrate Before Use", ICML 2021).

Dimensions: N requests or tokens, D the LLM's hidden size, I intents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stages.alignment.injection import Order, build_prompt, embed_text, next_token_logits, place

NOTHING_SAID = ("something", "please", "thank you")
"""Requests without an intent; what the LLM answers to them is what it prefers on its own."""


def instruction_of(intents: Sequence[str]) -> str:
    """How the LLM is asked for one of ``intents``."""
    return f"What does the user want? Answer with one word of: {', '.join(intents)}."


def first_tokens(tokenizer: Any, intents: Sequence[str]) -> list[int]:
    """The token that each intent's name begins with; raises ValueError where two of them begin alike."""
    ids = [tokenizer(name, add_special_tokens=False)["input_ids"][0] for name in intents]
    for place_of, token in enumerate(ids):
        if token in ids[:place_of]:
            other = intents[ids.index(token)]
            raise ValueError(
                f"intents {other!r} and {intents[place_of]!r} begin with the same token: rename one of them"
            )
    return ids


@torch.inference_mode()
def intent_scores(
    model: Any,
    tokenizer: Any,
    requests: Sequence[Tensor],
    examples: Mapping[str, str],
    order: Order = "instruction_first",
) -> Tensor:
    """(N, I) log probabilities of each intent, in the order of ``examples``, among the intents alone.

    ``requests``: N of (N, D) soft tokens or embedded texts. ``examples``: an intent's name to a request that has it, in the
    order in which the LLM reads them; none of the requests that are judged may be among them.
    Raises ValueError where two names begin with the same token, ModelError where the tokenizer has no chat template.
    """
    tokens = first_tokens(tokenizer, list(examples))
    parts = build_prompt(
        tokenizer, instruction_of(list(examples)), [(said, intent) for intent, said in examples.items()], order
    )
    logits = next_token_logits(model, [place(model, parts, item) for item in requests])
    return logits[:, tokens].log_softmax(dim=-1)


def preferred_anyway(
    model: Any, tokenizer: Any, examples: Mapping[str, str], order: Order = "instruction_first"
) -> Tensor:
    """(I,) log probabilities of each intent where nothing was asked, as ``intent_scores`` has them."""
    empty = [embed_text(model, tokenizer, text) for text in NOTHING_SAID]
    return intent_scores(model, tokenizer, empty, examples, order).exp().mean(dim=0).log()


def named(scores: Tensor, examples: Mapping[str, str]) -> list[str]:
    """The best intent of each row of (N, I) scores; take ``preferred_anyway`` off them first."""
    intents = list(examples)
    return [intents[index] for index in scores.argmax(dim=-1).tolist()]
