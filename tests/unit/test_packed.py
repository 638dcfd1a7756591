"""Packed batches: the padding is left out, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stages.alignment import packed, personal
from stages.alignment.bridgeformer import BridgeFormer
from stages.alignment.embedlink import EmbedLink
from stages.alignment.packed import Packed
from stages.alignment.personal import PersonalConfig, attach_sparse, personalize, user_loss
from stages.alignment.trainer import collate
from tests.helpers_alignment import CONFIG, rows, spoken

TWO = replace(CONFIG, layers=2)
BATCH = spoken(5)  # of two to four words: 24 to 48 frames


def bridge() -> BridgeFormer:
    torch.manual_seed(0)
    made = BridgeFormer(TWO).eval()
    made.frame_shift.normal_()
    return made


def test_steps_that_are_spoken_come_out_as_they_do_padded() -> None:
    whole = bridge()
    frames, lengths, _ = collate(BATCH)
    lengths[0] -= 1  # an odd count: the last step is half padding
    vectors, blank, counts = whole(frames, lengths)
    found, found_blank, found_counts = Packed(whole)(frames, lengths)
    assert torch.equal(counts, found_counts)
    for place, count in enumerate(counts.tolist()):
        torch.testing.assert_close(found[place, :count], vectors[place, :count])
        torch.testing.assert_close(found_blank[place, :count], blank[place, :count])
        assert not found[place, count:].any()


def test_an_utterance_is_read_alone_as_it_is_beside_a_longer_one() -> None:
    """Also where its last step is half empty and frames are shifted: nothing may be put where nobody speaks."""
    whole = bridge()
    short, long = torch.randn(1, 21, CONFIG.encoder_width), torch.randn(1, 48, CONFIG.encoder_width)
    both = torch.cat([torch.nn.functional.pad(short, (0, 0, 0, 27)), long])
    for model in (whole, Packed(whole)):
        alone, blank, counts = model(short, torch.tensor([21]))
        vectors, blanks, _ = model(both, torch.tensor([21, 48]))
        count = int(counts[0])
        torch.testing.assert_close(vectors[0, :count], alone[0])
        torch.testing.assert_close(blanks[0, :count], blank[0])


def test_the_loss_has_the_same_gradients() -> None:
    plain, other, link = bridge(), bridge(), EmbedLink(rows())
    losses = [user_loss(model, link, BATCH, 0.1) for model in (plain, Packed(other))]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0])
    found = {name: weight.grad for name, weight in plain.named_parameters() if weight.grad is not None}
    assert len(found) == len(list(plain.parameters()))
    # they differ by rounding, by how much depends on the processor: three millionths of the largest at most on those seen
    rounding = 1e-5 * max(float(gradient.abs().max()) for gradient in found.values())
    for (name, gradient), twin in zip(found.items(), other.parameters(), strict=True):
        torch.testing.assert_close(twin.grad, gradient, msg=name, atol=rounding, rtol=0.0)


def test_utterances_do_not_hear_each_other() -> None:
    model = Packed(bridge())
    frames, lengths, _ = collate(BATCH)
    before = model(frames, lengths)[0][1]
    frames[0] += 1.0
    torch.testing.assert_close(model(frames, lengths)[0][1], before)


def test_layers_that_are_put_in_later_are_in_both_faces() -> None:
    whole = bridge()
    model = Packed(whole)
    attach_sparse(whole, {"enter": torch.arange(8)})
    assert model.enter is whole.enter


def test_the_padding_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bridge()
    seen: list[int] = []
    whole.enter.register_forward_hook(lambda layer, given, out: seen.append(given[0].shape[:-1].numel()))
    frames, lengths, _ = collate(BATCH)
    Packed(whole)(frames, lengths)
    assert seen == [int(((lengths + 1) // 2).sum())]
    monkeypatch.setattr(packed, "MOST_STEPS", 10)  # attention over so many together would cost more than the padding
    Packed(whole)(frames, lengths)
    assert seen[1] == len(BATCH) * ((frames.shape[1] + 1) // 2)


@pytest.mark.parametrize("method", ["shira", "full"])
def test_an_update_is_what_it_was_when_padded(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, link = bridge(), EmbedLink(rows())
    config = PersonalConfig(method=method, steps=4, batch_size=3, density=0.05)
    found = personalize(base, link, BATCH, config)
    monkeypatch.setattr(personal, "Packed", lambda model: model)
    padded = personalize(base, link, BATCH, config)
    # the sums are taken in another order: equal but for rounding
    assert [loss for _, loss in found.curve] == pytest.approx([loss for _, loss in padded.curve], rel=1e-5)


def test_who_watches_is_shown_every_step_and_takes_no_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(personal.time, "perf_counter", lambda: clock[0])
    shown: list[int] = []

    def watch(steps: int, model: BridgeFormer) -> None:
        clock[0] += 100.0
        shown.append(steps)

    result = personalize(bridge(), EmbedLink(rows()), BATCH, PersonalConfig(steps=3, density=0.05), watch=watch)
    assert (shown, result.seconds) == ([1, 2, 3], 0.0)
