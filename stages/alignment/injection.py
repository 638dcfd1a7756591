"""Instruction injection: soft tokens between the embedded tokens of an instruction, into a frozen LLM.

Text takes the very same way as audio: ``embed_text`` gives the rows that soft tokens stand for, and both go through the
same prompt, so that any difference between two replies comes from what was heard.

Dimensions: P prompt positions, N soft or reply tokens, B batch, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from stages.alignment.metrics import response_kl
from stages.alignment.vocabulary import token_ids
from stages.errors import ModelError

Order = Literal["instruction_first", "instruction_last"]

HERE = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands for the soft tokens while the chat template is filled in; no instruction may hold it."""

REPEAT = "Repeat the user's words exactly."
REPEAT_EXAMPLES = tuple(
    (said, said)
    for said in (
        "turn on the lights in the hall",
        "w i l l o o g g s",
        "two two four oh oh seven",
        "delete k k l f two thirty one",
        "third of may nineteen eighty four",
    )
)
"""A command, letters, digits, both, and a date. Letters and digits come twice in a row in them: without that, a small
LLM drops one of two like ones ("p o o b" becomes "p o b") or cannot stop repeating."""

BATCH_SIZE = 16
"""Prompts that are answered together; the sort by length keeps the padding small."""


REPEAT_TIMES = 2
"""How often the LLM reads what it is to repeat. A small one copies far better what it has read before: SmolLM2-135M's WER
on reference text fell from 0.052 to 0.006 (120 AN4 transcripts), where more examples did not help."""


@dataclass(frozen=True)
class PromptParts:
    """Token ids before, between and after the places of the soft tokens."""

    prefix_ids: list[int]
    suffix_ids: list[int]
    between_ids: tuple[list[int], ...] = ()  # one less than there are places


def build_prompt(
    tokenizer: Any,
    instruction: str,
    examples: Sequence[tuple[str, str]] = (),
    order: Order = "instruction_first",
    times: int = 1,
) -> PromptParts:
    """The LLM's chat template around the soft tokens, which it reads ``times`` times, a line each.

    ``examples`` are (said, reply) pairs that go before as finished turns. Soft tokens follow a line break and begin with
    a word's leading space, in the examples and in the question alike. Raises ModelError where the tokenizer has no chat
    template and ValueError where the instruction holds the place holder.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            "the LLM's tokenizer has no chat template: name an instruction-tuned LLM in params.yaml, models.llm."
        )
    if any(HERE in text for text in (instruction, *(text for pair in examples for text in pair))):
        raise ValueError("an instruction or example holds U+FFFC, which marks the place of the soft tokens")

    def question(said: str) -> str:
        lines = [f" {said}"] * times
        return "\n".join([instruction, *lines] if order == "instruction_first" else [*lines, instruction])

    messages = []
    for said, reply in examples:
        messages += [{"role": "user", "content": question(said)}, {"role": "assistant", "content": reply}]
    messages.append({"role": "user", "content": question(HERE)})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    # the soft tokens bring their own leading space; a template that strips the content has taken this one away already
    *before, after = text.split(HERE)
    pieces = [piece[:-1] if piece.endswith(" ") else piece for piece in before]
    prefix, *between, suffix = (tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in [*pieces, after])
    return PromptParts(prefix, suffix, tuple(between))


@torch.inference_mode()
def place(model: Any, parts: PromptParts, soft_tokens: Tensor) -> Tensor:
    """(N, D) soft tokens at their places among the embedded tokens: (P, D) in the model's type."""
    table = model.get_input_embeddings()
    rows = []
    for ids in (parts.prefix_ids, *parts.between_ids):
        rows += [table(torch.tensor(ids, dtype=torch.long, device=model.device)), soft_tokens.to(table.weight)]
    return torch.cat([*rows, table(torch.tensor(parts.suffix_ids, dtype=torch.long, device=model.device))])


@torch.inference_mode()
def embed_text(model: Any, tokenizer: Any, text: str) -> Tensor:
    """(N, D) rows of a normalised text: what soft tokens would be if every one of them were sure."""
    ids = torch.tensor(token_ids(tokenizer, text), dtype=torch.long, device=model.device)
    return model.get_input_embeddings()(ids)


def repeat_prompt(model: Any, tokenizer: Any, soft_tokens: Tensor) -> Tensor:
    """(P, D) prompt that asks the LLM to repeat what was said; the examples stand before."""
    return place(model, build_prompt(tokenizer, REPEAT, REPEAT_EXAMPLES, times=REPEAT_TIMES), soft_tokens)


def answer_prompt(
    model: Any, tokenizer: Any, soft_tokens: Tensor, instruction: str, order: Order = "instruction_first"
) -> Tensor:
    """(P, D) prompt that asks the LLM to do ``instruction`` with what was said."""
    return place(model, build_prompt(tokenizer, instruction, order=order), soft_tokens)


def stop_ids(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end a reply: those of the model's own settings and the one that ends a turn in the chat template."""
    ends = model.generation_config.eos_token_id
    found = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    turn = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": HERE}], tokenize=False
    )
    found.update(tokenizer(turn.split(HERE)[1].lstrip(), add_special_tokens=False)["input_ids"][:1])
    return {token for token in found if token is not None}


@torch.inference_mode()
def generate_replies(
    model: Any, tokenizer: Any, prompts: Sequence[Tensor], max_new_tokens: int, batch_size: int = BATCH_SIZE
) -> list[str]:
    """Greedy replies to (P, D) prompts, in their order. Batched with left padding; what prompts share is computed once."""
    stops = stop_ids(model, tokenizer)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    replies = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        tokens = _generate(model, [prompts[index] for index in chosen], max_new_tokens, stops)
        for index, reply in zip(chosen, tokens, strict=True):
            replies[index] = tokenizer.decode(reply, skip_special_tokens=True).strip()
    return replies


def _shared_rows(prompts: Sequence[Tensor]) -> int:
    """How many first positions all prompts have in common; the last one of the shortest is never counted."""
    shortest = min(len(prompt) for prompt in prompts) - 1
    same = torch.ones(shortest, dtype=torch.bool, device=prompts[0].device)
    for prompt in prompts[1:]:
        same &= (prompt[:shortest] == prompts[0][:shortest]).all(dim=1)
    return int(same.long().cumprod(0).sum())


@dataclass
class _Read:
    """A batch of prompts that the LLM has read."""

    logits: Tensor  # (B, V), of the first token after each
    cache: Any
    mask: Tensor  # (B, P), 0 on the padding
    positions: Tensor  # (B, 1), of each prompt's last one


def _read_prompts(model: Any, prompts: Sequence[Tensor]) -> _Read:
    """One pass over (P, D) prompts, padded on the left; what they share is computed once."""
    from transformers import DynamicCache

    size, device = len(prompts), model.device
    shared = _shared_rows(prompts) if size > 1 else 0
    cache = DynamicCache(config=model.config)
    if shared:
        model(inputs_embeds=prompts[0][None, :shared], past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(size)
    rest = [prompt[shared:] for prompt in prompts]
    width = max(len(part) for part in rest)
    inputs = torch.stack(
        [torch.nn.functional.pad(part, (0, 0, width - len(part), 0)) for part in rest]
    )  # (B, width, D)
    pads = torch.tensor([width - len(part) for part in rest], device=device)
    steps = torch.arange(width, device=device)
    real = steps[None] >= pads[:, None]  # (B, width)
    mask = torch.cat([real.new_ones(size, shared), real], dim=1).long()
    positions = (shared + steps[None] - pads[:, None]).clamp(min=0)
    logits = model(
        inputs_embeds=inputs,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    return _Read(logits, cache, mask, positions[:, -1:])


@torch.inference_mode()
def next_token_logits(model: Any, prompts: Sequence[Tensor], batch_size: int = BATCH_SIZE) -> Tensor:
    """(N, V) float32 logits of the first token after each of N (P, D) prompts, in their order."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    found: list[Tensor] = [torch.empty(0)] * len(prompts)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        logits = _read_prompts(model, [prompts[index] for index in chosen]).logits.float()
        for index, row in zip(chosen, logits, strict=True):
            found[index] = row
    return torch.stack(found)


def _generate(model: Any, prompts: Sequence[Tensor], max_new_tokens: int, stops: set[int]) -> list[list[int]]:
    """Token ids of the greedy replies of one batch, without the token that stopped each."""
    read = _read_prompts(model, prompts)
    table = model.get_input_embeddings()
    logits, mask, positions = read.logits, read.mask, read.positions
    replies: list[list[int]] = [[] for _ in prompts]
    open_rows = set(range(len(prompts)))
    for step in range(max_new_tokens):
        tokens = logits.argmax(dim=-1)
        for row, token in enumerate(tokens.tolist()):
            if row in open_rows:
                if token in stops:
                    open_rows.discard(row)
                else:
                    replies[row].append(token)
        if not open_rows or step == max_new_tokens - 1:
            break
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        positions = positions + 1
        logits = model(
            inputs_embeds=table(tokens)[:, None],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=read.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
    return replies


@torch.inference_mode()
def reply_logits(model: Any, prompt: Tensor, reply_ids: Sequence[int]) -> Tensor:
    """(N, V) float32 logits that predict each token of a given reply after a (P, D) prompt (teacher forcing)."""
    reply = torch.tensor(list(reply_ids), dtype=torch.long, device=model.device)
    inputs = torch.cat([prompt, model.get_input_embeddings()(reply[:-1]).to(prompt)])
    return model(inputs_embeds=inputs[None], logits_to_keep=len(reply)).logits[0].float()


def mean_response_kl(
    model: Any,
    tokenizer: Any,
    audio: Sequence[Tensor],
    text: Sequence[Tensor],
    text_replies: Sequence[str],
    instruction: str,
    order: Order = "instruction_first",
) -> float:
    """Mean KL(text || audio) in nats a token of the replies to the text, each with the end of its turn.

    ``audio`` and ``text`` are (N, D) soft tokens and embedded texts of the same utterances.
    Raises ValueError where there is none.
    """
    if not text_replies:
        raise ValueError("no reply to compare: give at least one utterance")
    parts = build_prompt(tokenizer, instruction, order=order)
    end = next(iter(sorted(stop_ids(model, tokenizer))))
    total, tokens = 0.0, 0
    for heard, written, reply in zip(audio, text, text_replies, strict=True):
        ids = [*tokenizer(reply, add_special_tokens=False)["input_ids"], end]
        sides = [reply_logits(model, place(model, parts, rows), ids) for rows in (written, heard)]
        total += response_kl(*sides) * len(ids)
        tokens += len(ids)
    return total / tokens
