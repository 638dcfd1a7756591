"""A reply token by token: what every prompt begins with is read once, and each reply goes on from there.

Dimensions: N soft tokens, D the LLM's hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from stages.alignment.injection import build_prompt, stop_ids

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""How a tokenizer writes the first bytes of a character whose others are in the next token."""


class Responder:
    """A frozen LLM under one instruction."""

    def __init__(self, model: Any, tokenizer: Any, instruction: str) -> None:
        """Reads the prompt up to the place of the soft tokens. Raises ModelError where the LLM has no chat template."""
        from transformers import DynamicCache

        self._model, self._tokenizer = model, tokenizer
        self._stops = stop_ids(model, tokenizer)
        parts = build_prompt(tokenizer, instruction)
        with torch.inference_mode():
            self._cache = DynamicCache(config=model.config)
            prefix = torch.tensor([parts.prefix_ids], device=model.device)
            model(input_ids=prefix, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
            self._suffix = model.get_input_embeddings()(torch.tensor(parts.suffix_ids, device=model.device))

    def reply(self, soft_tokens: Tensor, max_new_tokens: int) -> Iterator[str]:
        """The greedy reply to (N, D) soft tokens in pieces of text; together they are what ``generate_replies`` gives.

        Each ``next`` computes one or more tokens; the first reads the soft tokens.
        """
        cache = copy.deepcopy(self._cache)  # about a megabyte
        inputs = torch.cat([soft_tokens.to(self._suffix), self._suffix])[None]
        ids: list[int] = []
        told = ""
        table = self._model.get_input_embeddings()
        for _ in range(max_new_tokens):
            with torch.inference_mode():
                logits = self._model(
                    inputs_embeds=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1
                ).logits
                token = logits[0, -1].argmax()
                inputs = table(token)[None, None]
            if int(token) in self._stops:
                break
            ids.append(int(token))
            text = self._tokenizer.decode(ids, skip_special_tokens=True).lstrip()
            # a blank may be the reply's last; it is told once something follows
            whole = text.rstrip() if not text.endswith(UNFINISHED) else told
            if len(whole) > len(told) and whole.startswith(told):
                yield whole[len(told) :]
                told = whole
        rest = self._tokenizer.decode(ids, skip_special_tokens=True).strip()
        if rest.startswith(told) and len(rest) > len(told):
            yield rest[len(told) :]
