"""EmbedLink and CTC against slow references and closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional

from stages.alignment.bridgeformer import BridgeFormer, step_counts
from stages.alignment.embedlink import EmbedLink, ctc_loss, embedding_loss, segments
from stages.alignment.soft_tokens import SHARPNESS, collapse, read_out
from tests.helpers_alignment import CONFIG, rows


def collapse_path(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(key - 1 for key, _ in itertools.groupby(path) if key != 0)


def test_ctc_is_the_sum_over_all_paths() -> None:
    torch.manual_seed(0)
    log_posteriors = torch.randn(1, 5, 4).log_softmax(-1)
    target = torch.tensor([1, 1])  # a repeat: a blank must stand between
    total = sum(
        math.exp(sum(float(log_posteriors[0, step, column]) for step, column in enumerate(path)))
        for path in itertools.product(range(4), repeat=5)
        if collapse_path(path) == (1, 1)
    )
    loss = ctc_loss(log_posteriors, torch.tensor([5]), [target])
    assert float(loss) == pytest.approx(-math.log(total) / 2, rel=1e-5)


def test_ctc_with_too_few_steps_counts_as_zero() -> None:
    log_posteriors = torch.randn(1, 2, 4, requires_grad=True)
    loss = ctc_loss(log_posteriors.log_softmax(-1), torch.tensor([2]), [torch.tensor([0, 1, 2])])
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert torch.isfinite(log_posteriors.grad).all()


def test_scores_are_scaled_cosines_with_the_blank_first() -> None:
    bridge, link = BridgeFormer(CONFIG).eval(), EmbedLink(rows())
    frames = torch.randn(1, 10, CONFIG.encoder_width)
    log_posteriors, vectors, counts = link.log_posteriors(bridge, frames, torch.tensor([10]))
    _, blank, _ = bridge(frames, torch.tensor([10]))
    cosine = functional.cosine_similarity(vectors[0, 2], rows(), dim=-1)
    expected = torch.cat([blank[0, 2:3], 10.0 * cosine]).log_softmax(-1)
    assert counts.tolist() == [5]
    torch.testing.assert_close(log_posteriors[0, 2], expected)


def test_gradients_match_finite_differences() -> None:
    bridge, link = BridgeFormer(CONFIG).double().eval(), EmbedLink(rows().double())
    frames, lengths = torch.randn(1, 16, CONFIG.encoder_width).double(), torch.tensor([16])
    target = [torch.tensor([0, 3])]

    def loss() -> torch.Tensor:
        log_posteriors, _, counts = link.log_posteriors(bridge, frames, lengths)
        return ctc_loss(log_posteriors, counts, target)

    loss().backward()
    weight = bridge.leave.weight
    for place in [(0, 0), (7, 13)]:
        with torch.no_grad():
            before = float(weight[place])
            weight[place] = before + 1e-5
            above = float(loss())
            weight[place] = before - 1e-5
            below = float(loss())
            weight[place] = before
        assert float(weight.grad[place]) == pytest.approx((above - below) / 2e-5, rel=1e-3, abs=1e-8)


def test_padding_changes_nothing() -> None:
    bridge = BridgeFormer(CONFIG).eval()
    short, long = torch.randn(7, CONFIG.encoder_width), torch.randn(20, CONFIG.encoder_width)
    alone, _, count = bridge(short[None], torch.tensor([7]))
    padded = torch.zeros(2, 20, CONFIG.encoder_width)
    padded[0, :7], padded[1] = short, long
    together, _, counts = bridge(padded, torch.tensor([7, 20]))
    assert counts.tolist() == [4, 10] == [int(count), int(step_counts(torch.tensor(20), 2))]
    torch.testing.assert_close(together[0, :4], alone[0], atol=1e-5, rtol=1e-4)


def test_order_of_steps_is_not_encoded() -> None:
    """Without positional encoding, permuted steps give permuted vectors."""
    bridge = BridgeFormer(CONFIG).eval()
    frames = torch.randn(1, 6, 2, CONFIG.encoder_width)  # six steps of two frames
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    plain, _, _ = bridge(frames.reshape(1, 12, -1), torch.tensor([12]))
    mixed, _, _ = bridge(frames[:, order].reshape(1, 12, -1), torch.tensor([12]))
    torch.testing.assert_close(mixed, plain[:, order], atol=1e-5, rtol=1e-4)


def test_segments_follow_the_best_path() -> None:
    scores = torch.full((6, 3), -10.0)
    for step, column in enumerate([0, 1, 1, 0, 2, 2]):
        scores[step, column] = 0.0
    weights = segments(scores.log_softmax(-1), torch.tensor([0, 1]))
    assert weights is not None
    expected = [[0, 0.5, 0.5, 0, 0, 0], [0, 0, 0, 0, 0.5, 0.5]]
    torch.testing.assert_close(weights, torch.tensor(expected))


def test_segments_of_a_repeated_token_stay_apart() -> None:
    scores = torch.full((5, 2), -10.0)
    for step, column in enumerate([1, 0, 0, 1, 1]):
        scores[step, column] = 0.0
    weights = segments(scores.log_softmax(-1), torch.tensor([0, 0]))
    assert weights is not None
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 0, 0.5, 0.5]]))


def test_segments_that_cannot_fit_are_none() -> None:
    assert segments(torch.zeros(2, 3), torch.tensor([1, 1])) is None


def test_embedding_term_is_one_minus_cosine_on_the_segment() -> None:
    scores = torch.full((1, 2, 3), -10.0)
    scores[0, :, 1] = 0.0
    vectors = functional.normalize(torch.randn(1, 2, 16), dim=-1)
    unit = functional.normalize(rows(), dim=-1)
    loss = embedding_loss(vectors, scores.log_softmax(-1), torch.tensor([2]), [torch.tensor([0])], unit[:2])
    expected = 1 - functional.cosine_similarity(vectors[0].mean(0), unit[0], dim=-1)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_collapse_merges_repeats_and_drops_blanks() -> None:
    assert collapse(torch.tensor([0, 2, 2, 0, 2, 1, 1, 0])) == [(1, 1, 3), (1, 4, 5), (0, 5, 7)]


def test_soft_token_is_the_mean_by_sharpened_posterior_without_the_blank() -> None:
    posteriors = torch.tensor([[0.2, 0.6, 0.2], [0.1, 0.5, 0.4]])
    heard = read_out(posteriors.log(), torch.eye(2))
    assert heard.rows == [0]
    sharpened = torch.tensor([[1.1, 0.6]]) ** SHARPNESS
    torch.testing.assert_close(heard.soft_tokens, sharpened / sharpened.sum())
    assert heard.confidence == pytest.approx(0.55)


def test_silence_reads_out_as_nothing() -> None:
    heard = read_out(torch.tensor([[0.9, 0.05, 0.05]]).log(), torch.eye(2))
    assert (heard.rows, heard.soft_tokens.shape, heard.confidence) == ([], (0, 2), 0.0)
