"""The LLM in the loop against slow references: prompt, prefix kept, padding, KL; and the QFormer's windows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

from stages.alignment.injection import generate_replies, place, reply_logits
from stages.alignment.methods.frozen_llm import MAX_NEW_TOKENS, FrozenLlm
from stages.alignment.methods.projector import Projector, ProjectorKl, kl_loss
from stages.alignment.methods.qformer import QUERIES, WINDOW, QFormer
from stages.alignment.methods.registry import Material, make_method
from stages.alignment.vocabulary import token_ids
from tests.helpers_methods import ENCODER_WIDTH, LENGTHS, SCHEDULE, TEXTS, toy_material

IN_THE_LOOP = ("projector", "projector-lora", "qformer")


@pytest.fixture(scope="module")
def material() -> Material:
    return toy_material()


@pytest.fixture
def llm(material: Material) -> FrozenLlm:
    return FrozenLlm(material.llm(), material.tokenizer)


def some_speech(llm: FrozenLlm) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length // 5, llm.width, generator=generator) for length in LENGTHS]


def test_states_are_those_of_a_plain_forward_pass_of_each_utterance(llm: FrozenLlm) -> None:
    """One utterance at a time, without a kept prefix, without padding, all scores: the slow way."""
    speech, replies = some_speech(llm), [llm.reply_ids(text) for text in TEXTS]
    scores = llm.scores(llm.reply_states(speech, replies)).split([len(reply) for reply in replies])
    for heard, reply, found in zip(speech, replies, scores, strict=True):
        slow = reply_logits(llm.model, place(llm.model, llm.parts, heard), reply)
        torch.testing.assert_close(found, slow, atol=2e-4, rtol=1e-4)


def test_a_kept_prefix_changes_neither_loss_nor_gradient(material: Material, llm: FrozenLlm) -> None:
    anew = FrozenLlm(llm.model, material.tokenizer, keep_prefix=False)
    replies = [llm.reply_ids(text) for text in TEXTS]
    found = []
    for one in (llm, anew):
        for _ in range(2):  # what is kept must not grow or change with use
            speech = [heard.requires_grad_() for heard in some_speech(llm)]
            loss = one.reply_states(speech, replies).square().mean()
            found.append((loss, torch.autograd.grad(loss, speech)))
    for loss, gradients in found[1:]:
        torch.testing.assert_close(loss, found[0][0])
        for gradient, first in zip(gradients, found[0][1], strict=True):
            torch.testing.assert_close(gradient, first, atol=1e-6, rtol=1e-4)
    assert all(not keys.requires_grad and keys.shape[0] == 1 for keys, _ in llm.prefix())


def test_the_reply_is_the_transcript_and_the_end_of_the_turn(llm: FrozenLlm, material: Material) -> None:
    assert material.tokenizer.decode(llm.reply_ids("stop it")) == "stop it<|im_end|>"


@pytest.mark.parametrize("name", IN_THE_LOOP)
def test_the_loss_of_a_batch_is_the_token_mean_of_its_utterances(material: Material, name: str) -> None:
    method: Any = make_method(name, material, SCHEDULE)
    sizes = [len(method.llm.reply_ids(example.text)) for example in material.examples]
    alone = [method.loss([example]).item() for example in material.examples]
    expected = sum(loss * size for loss, size in zip(alone, sizes, strict=True)) / sum(sizes)
    assert method.loss(material.examples).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", IN_THE_LOOP)
def test_gradients_match_finite_differences(material: Material, name: str) -> None:
    method: Any = make_method(name, material, SCHEDULE)
    in_double(method.llm.model)
    method.llm.scores = method.llm.model.get_output_embeddings()
    batch = [replace(example, frames=example.frames.double()) for example in material.examples[:2]]
    generator = torch.Generator().manual_seed(0)
    for module in method.modules.values():
        module.double()
    for weight in method.parameters():  # LoRA's zeros would hide half of its gradients
        weight.data += 0.01 * torch.randn(weight.shape, generator=generator)
    method.loss(batch).backward()
    for weight in method.parameters()[::3]:
        largest = int(weight.grad.abs().argmax())
        flat = weight.data.view(-1)
        sides = []
        for change in (1e-5, -2e-5):
            flat[largest] += change
            sides.append(method.loss(batch).item())
        flat[largest] += 1e-5
        assert weight.grad.view(-1)[largest].item() == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-4, abs=1e-7)


def in_double(model: Any) -> None:
    """The LLM in float64, its norms as well, which compute in float32 whatever they are given."""
    model.double()
    for name, norm in list(model.named_modules()):
        if name.endswith("norm"):
            other = torch.nn.RMSNorm(len(norm.weight), norm.variance_epsilon, dtype=torch.float64)
            other.load_state_dict(norm.state_dict())
            model.set_submodule(name, other.requires_grad_(False))


@pytest.mark.parametrize("name", IN_THE_LOOP)
def test_loss_and_gradients_are_those_of_the_whole_sequence_after_some_learning(material: Material, name: str) -> None:
    """No prefix kept, no cache: a prefix that a LoRA has changed since must not be an old one, nor cut its gradients."""
    method: Any = make_method(name, material, SCHEDULE)
    for _ in range(3):
        method.step(material.examples)
    example = material.examples[1]
    reply = method.llm.reply_ids(example.text)
    pieces = [method.llm.rows(method.llm.parts.prefix_ids), *method.hear([example])]
    pieces += [method.llm.rows(method.llm.parts.suffix_ids), method.llm.rows(reply[:-1])]
    scores = method.llm.model(inputs_embeds=torch.cat(pieces)[None], use_cache=False).logits[0, -len(reply) :]
    slow = functional.cross_entropy(scores, torch.tensor(reply))
    fast = method.loss([example])
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    both = [torch.autograd.grad(loss, method.parameters()) for loss in (fast, slow)]
    for found, expected in zip(*both, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", IN_THE_LOOP)
def test_reading_is_the_greedy_reply_under_the_training_prompt(material: Material, name: str) -> None:
    method: Any = make_method(name, material, SCHEDULE)
    method.step(material.examples)
    expected = []
    for example in material.examples:
        with torch.no_grad():
            vectors, counts = method.bridge(example.frames[None], torch.tensor([len(example.frames)]))
        prompt = place(method.llm.model, method.llm.parts, vectors[0, : int(counts[0])])
        expected += generate_replies(method.llm.model, material.tokenizer, [prompt], MAX_NEW_TOKENS)
    assert method.read(material.examples) == expected


def test_kl_is_the_closed_form_for_two_tokens() -> None:
    """Logits log(p) of two tokens: KL is p log(p / q) + (1 - p) log((1 - p) / (1 - q)), here of 0.9, 0.5 and 0.6, 0.6."""

    def closed(p: float, q: float) -> float:
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    teacher, student = (torch.tensor([[p, 1 - p] for p in side]).log() for side in ((0.9, 0.6), (0.5, 0.6)))
    assert float(kl_loss(student, teacher, 1.0)) == pytest.approx((closed(0.9, 0.5) + closed(0.6, 0.6)) / 2, rel=1e-5)
    soft = [p**0.5 / (p**0.5 + (1 - p) ** 0.5) for p in (0.9, 0.5)]  # what a temperature of 2 makes of them
    assert float(kl_loss(student, teacher, 2.0)) == pytest.approx(closed(*soft) / 2, rel=1e-5)
    assert float(kl_loss(teacher, teacher)) == pytest.approx(0.0, abs=1e-7)


def test_the_kl_of_speech_that_is_the_text_itself_is_zero(material: Material) -> None:
    method = make_method("projector-kl", material, SCHEDULE)
    assert isinstance(method, ProjectorKl)
    written = [method.llm.rows(token_ids(material.tokenizer, example.text)) for example in material.examples]
    replies = [method.llm.reply_ids(example.text) for example in material.examples]
    loss = method.reply_loss(material.examples, method.llm.reply_states(written, replies), replies)
    assert float(loss) == pytest.approx(0.0, abs=1e-6)
    assert method.loss(material.examples).item() > 1e-3


def test_the_teacher_is_asked_once_an_utterance(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    method = make_method("projector-kl", material, SCHEDULE)
    assert isinstance(method, ProjectorKl)
    asked: list[int] = []
    run = method.llm.reply_states

    def counted(speech: Any, replies: Any) -> torch.Tensor:
        asked.append(len(speech))
        return run(speech, replies)

    monkeypatch.setattr(method.llm, "reply_states", counted)
    for batch in (material.examples[:3], material.examples, material.examples[::-1]):
        order = method.teacher_states(batch)
        slow = [method.teacher_states([example]) for example in batch]
        assert torch.equal(order, torch.cat(slow))
    assert asked == [3, 1]


def test_stacking_pads_the_last_vector_with_silence() -> None:
    projector = Projector(ENCODER_WIDTH, 8, stack=5, hidden=16)
    frames = torch.randn(1, 7, ENCODER_WIDTH)
    vectors, counts = projector(frames, torch.tensor([7]))
    padded = functional.pad(frames, (0, 0, 0, 3))
    slow = [projector(padded[:, start : start + 5], torch.tensor([5]))[0][0, 0] for start in (0, 5)]
    assert counts.tolist() == [2]
    torch.testing.assert_close(vectors[0], torch.stack(slow), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("length", "windows"), [(1, 1), (WINDOW - 1, 1), (WINDOW, 1), (WINDOW + 1, 2), (5 * WINDOW, 5)]
)
def test_a_qformer_gives_its_queries_for_each_window(length: int, windows: int) -> None:
    former = QFormer(ENCODER_WIDTH, 8, width=16, layers=1, heads=2)
    vectors, counts = former(torch.randn(1, length, ENCODER_WIDTH), torch.tensor([length]))
    assert counts.tolist() == [windows * QUERIES]
    assert vectors.shape == (1, windows * QUERIES, 8)


def test_a_window_of_a_qformer_does_not_see_the_others_nor_the_padding() -> None:
    torch.manual_seed(0)
    former = QFormer(ENCODER_WIDTH, 8, width=16, layers=2, heads=2)
    frames = torch.randn(2, 3 * WINDOW, ENCODER_WIDTH)
    frames[1, WINDOW + 4 :] = 0.0
    lengths = torch.tensor([3 * WINDOW, WINDOW + 4])
    before, counts = former(frames, lengths)
    frames[0, WINDOW : 2 * WINDOW] = torch.randn(WINDOW, ENCODER_WIDTH)  # the middle window of the first utterance
    frames[1, WINDOW + 4 :] = torch.randn(2 * WINDOW - 4, ENCODER_WIDTH)  # what no mask may let through
    after, _ = former(frames, lengths)
    changed = (before != after).flatten(2).any(dim=2)
    assert counts.tolist() == [3 * QUERIES, 2 * QUERIES]
    assert changed[0].tolist() == [False] * QUERIES + [True] * QUERIES + [False] * QUERIES
    assert not changed[1].any()
