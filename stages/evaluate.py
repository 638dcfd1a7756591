"""The evaluate stage for one user: what base, personal adapter, cascade and LLM make of held-out utterances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from stages.alignment import injection
from stages.alignment.metrics import response_agreement, word_errors
from stages.alignment.splits import held_out_digest
from stages.cascade import fair_cascade
from stages.examples import LabelledUtterance
from stages.insight import posteriors_over_time, utterance_rows
from stages.listener import Listener

EXAMPLES_KEPT = 6


@dataclass(frozen=True)
class LlmSettings:
    """How the LLM is asked."""

    utterances: int  # held-out utterances of a user that go through the LLM; 0 leaves it out
    max_new_tokens: int
    answer: str  # the instruction whose replies are compared (audio against reference text)


def evaluate_user(
    base: Listener,
    personal: Listener | None,
    held_out: Sequence[LabelledUtterance],
    llm: Any | None,
    settings: LlmSettings,
    advance: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """One user's figures by DESIGN's names; unknown ones are None. ``llm``: (model, tokenizer), or None to leave it out.

    ``personal`` None means that the user has no adapter: the base speaks for the user.
    """
    references, languages = [item.text for item in held_out], [item.language for item in held_out]
    frames = [item.frames for item in held_out]
    by_base = [base.text_of(output) for output in base.read(frames)]
    listener = personal or base
    outputs = listener.read(frames)
    heard = [listener.text_of(output) for output in outputs]
    cascade = [
        None if item.cascade_text is None else fair_cascade(item.text, item.cascade_text, item.language)
        for item in held_out
    ]
    known = [told for told in zip(references, cascade, languages, strict=True) if told[1] is not None]
    found: dict[str, Any] = {
        "base": asdict(word_errors(references, by_base, languages)),
        "personal": asdict(word_errors(references, heard, languages)),
        "cascade": asdict(word_errors(*zip(*known, strict=True))) if known else None,
        "test_utterances": len(held_out),
        "held_out_sha256": held_out_digest((item.utterance, item.text) for item in held_out),
    }
    found["cascade_wer"] = found["cascade"]["wer"] if known else None
    asked = list(range(min(settings.utterances, len(held_out)))) if llm is not None else []
    found["llm_utterances"] = len(asked)
    replies: dict[str, list[str]] = {}
    if asked:
        replies = _through_llm(llm, outputs, held_out, asked, settings, found)
    if advance:
        advance(len(held_out))
    found["examples"] = [
        {
            "utterance": held_out[index].utterance,
            "reference": references[index],
            "base": by_base[index],
            "personal": heard[index],
            "cascade": cascade[index],
            "reply": replies["audio_answer"][index] if index < len(asked) and replies else None,
        }
        for index in range(min(EXAMPLES_KEPT, len(held_out)))
    ]
    found["read"] = utterance_rows(held_out, by_base, heard)
    found["posteriors"] = _over_time(base, listener, held_out, by_base, heard)
    return found


def _over_time(
    base: Listener,
    listener: Listener,
    held_out: Sequence[LabelledUtterance],
    by_base: Sequence[str],
    heard: Sequence[str],
) -> dict[str, Any] | None:
    """One utterance in time, through both adapters: the first that they read differently, else the first."""
    if not held_out:
        return None
    index = next((place for place, texts in enumerate(zip(by_base, heard, strict=True)) if len(set(texts)) > 1), 0)
    item = held_out[index]
    return {
        "utterance": item.utterance,
        "reference": item.text,
        "sides": {
            "base": {"text": by_base[index], **posteriors_over_time(base, item.frames)},
            "personal": {"text": heard[index], **posteriors_over_time(listener, item.frames)},
        },
    }


@torch.inference_mode()
def _through_llm(
    llm: Any,
    outputs: Sequence[Any],
    held_out: Sequence[LabelledUtterance],
    asked: Sequence[int],
    settings: LlmSettings,
    found: dict[str, Any],
) -> dict[str, list[str]]:
    """Repeat and answer, from audio and from the reference text, with the very same prompts."""
    model, tokenizer = llm
    audio = [outputs[index].soft_tokens for index in asked]
    text = [injection.embed_text(model, tokenizer, held_out[index].text) for index in asked]
    replies = {}
    for side, tokens in (("audio", audio), ("text", text)):
        repeat = [injection.repeat_prompt(model, tokenizer, item) for item in tokens]
        answer = [injection.answer_prompt(model, tokenizer, item, settings.answer) for item in tokens]
        replies[f"{side}_repeat"] = injection.generate_replies(model, tokenizer, repeat, settings.max_new_tokens)
        replies[f"{side}_answer"] = injection.generate_replies(model, tokenizer, answer, settings.max_new_tokens)
    wanted, languages = [held_out[index].text for index in asked], [held_out[index].language for index in asked]
    found["llm"] = asdict(word_errors(wanted, replies["audio_repeat"], languages))
    found["reference_llm"] = asdict(word_errors(wanted, replies["text_repeat"], languages))
    found["llm_wer"] = found["llm"]["wer"]
    found["reference_llm_wer"] = found["reference_llm"]["wer"]
    found["llm_gap"] = found["llm_wer"] - found["reference_llm_wer"]
    found["response_agreement"] = response_agreement(replies["text_answer"], replies["audio_answer"])
    found["response_kl"] = injection.mean_response_kl(
        model, tokenizer, audio, text, replies["text_answer"], settings.answer
    )
    return replies


def pool(users: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Figures over all users: errors over words, so that every held-out word counts the same."""

    def pooled(key: str, name: str, side: str = "") -> float | None:
        sides = [user[side] if side else user for user in users.values() if not side or user.get(side)]
        counts = [found[key] for found in sides if found.get(key) and found[key].get(name + "_total")]
        total = sum(count[name + "_total"] for count in counts)
        return sum(count[name + "_errors"] for count in counts) / total if total else None

    together: dict[str, Any] = {
        "wer": pooled("personal", "word"),
        "cer": pooled("personal", "character"),
        "base_wer": pooled("base", "word"),
        "base_cer": pooled("base", "character"),
        "cascade_wer": pooled("cascade", "word"),
        "llm_wer": pooled("llm", "word"),
        "reference_llm_wer": pooled("reference_llm", "word"),
        "guard_wer": pooled("personal", "word", "guard"),
        "base_guard_wer": pooled("base", "word", "guard"),
    }
    if together["llm_wer"] is not None and together["reference_llm_wer"] is not None:
        together["llm_gap"] = together["llm_wer"] - together["reference_llm_wer"]
    for name in ("response_agreement", "response_kl"):
        # each is a mean over what the LLM was asked; an evaluation of before, which an erasure pools, does not tell that
        known = [
            (user[name], user.get("llm_utterances", user["test_utterances"]))
            for user in users.values()
            if user.get(name) is not None
        ]
        total = sum(weight for _, weight in known)
        together[name] = sum(value * weight for value, weight in known) / total if total else None
    return together
