"""The frozen LLM in the loop: a reply's scores, whose gradients go back through all of its layers to the speech.

Dimensions: B utterances, N speech vectors of an utterance, R tokens of its reply, P prefix positions, D the LLM's hidden
size, V its vocabulary.

An utterance's sequence is [prefix | speech | suffix | reply], the chat template around the speech. Three things make
the baselines as fast as they can be made on the same machine, and none changes a loss (the tests compare):

- the prefix is the same for all, so where the LLM is frozen its keys and values are computed once for a whole training;
- the rest is padded on the right: under a causal mask no position sees the padding behind it, so none is masked;
- scores over V are computed at the reply's positions only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from stages.alignment.injection import build_prompt, generate_replies, place, stop_ids

INSTRUCTION = "Repeat the user's words exactly."
"""Before the speech, so that its keys and values can be kept."""

MAX_NEW_TOKENS = 32
"""Of a read-out. The longest AN4 sentence has 15 tokens."""

PrefixCache = list[tuple[Tensor, Tensor]]
"""(1, heads, P, head size) keys and values of each layer."""


class FrozenLlm:
    """An LLM that runs but does not learn, with its prompt."""

    def __init__(self, model: Any, tokenizer: Any, instruction: str = INSTRUCTION, keep_prefix: bool = True) -> None:
        """``keep_prefix`` False computes the prefix in each call, with gradients: for LLMs that hold trainable layers."""
        self.model = model
        self.tokenizer = tokenizer
        self.parts = build_prompt(tokenizer, instruction)
        self.keep_prefix = keep_prefix
        self.width: int = model.config.hidden_size
        self.end = min(stop_ids(model, tokenizer))
        self._kept: PrefixCache | None = None

    def reply_ids(self, text: str) -> list[int]:
        """(R,) tokens of a reply and the one that ends the turn."""
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.end]

    def rows(self, ids: Sequence[int]) -> Tensor:
        """(n, D) embedded tokens."""
        return self.model.get_input_embeddings()(torch.tensor(list(ids), dtype=torch.long, device=self.model.device))

    def prefix(self) -> PrefixCache:
        """Keys and values of the prompt's prefix."""
        if not self.keep_prefix:
            return self._run_prefix()
        if self._kept is None:
            with torch.no_grad():
                self._kept = self._run_prefix()
        return self._kept

    def _run_prefix(self) -> PrefixCache:
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config)
        self.model.get_decoder()(inputs_embeds=self.rows(self.parts.prefix_ids)[None], past_key_values=cache)
        return [(layer.keys, layer.values) for layer in cache.layers]

    def reply_states(self, speech: Sequence[Tensor], replies: Sequence[Sequence[int]]) -> Tensor:
        """The last hidden states that predict each reply's tokens after its speech, utterance by utterance.

        ``speech``: B tensors (N, D); ``replies``: B lists of R token ids -> (sum of R, D).
        """
        from transformers import DynamicCache

        suffix = self.rows(self.parts.suffix_ids)
        rest = [
            torch.cat([heard.to(suffix), suffix, self.rows(reply[:-1])])
            for heard, reply in zip(speech, replies, strict=True)
        ]
        size = len(rest)
        kept = [(keys.expand(size, -1, -1, -1), values.expand(size, -1, -1, -1)) for keys, values in self.prefix()]
        states = self.model.get_decoder()(
            inputs_embeds=pad_sequence(rest, batch_first=True),
            past_key_values=DynamicCache(kept),
            use_cache=True,
        ).last_hidden_state  # (B, longest rest, D)
        found = []
        for index, (heard, reply) in enumerate(zip(speech, replies, strict=True)):
            first = len(heard) + len(suffix) - 1  # the position before a token predicts it
            found.append(states[index, first : first + len(reply)])
        return torch.cat(found)

    def scores(self, states: Tensor) -> Tensor:
        """(n, D) last hidden states -> (n, V) float32 logits."""
        return self.model.get_output_embeddings()(states).float()

    def read(self, speech: Sequence[Tensor]) -> list[str]:
        """Greedy replies to B tensors (N, D) of speech, under the prompt that was trained with."""
        prompts = [place(self.model, self.parts, heard) for heard in speech]
        return generate_replies(self.model, self.tokenizer, prompts, MAX_NEW_TOKENS)
