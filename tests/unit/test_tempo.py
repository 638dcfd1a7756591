"""Frames stretched and squeezed while a base learns: the same speech, slower or faster."""

from __future__ import annotations

import numpy as np
import torch

from stages.alignment.trainer import Trainer, stretch
from tests.helpers_alignment import CONFIG, rows, spoken, train_config


def test_frames_are_interpolated_in_a_line() -> None:
    frames = torch.arange(8.0)[:, None].repeat(1, 3)
    slower = stretch(frames, 2.0)
    assert slower.shape == (16, 3)
    inner = slower[1:-1, 0]
    assert torch.allclose(inner[1:] - inner[:-1], torch.full((13,), 0.5))
    assert torch.equal(stretch(frames, 1.0), frames)
    assert stretch(frames, 0.01).shape == (1, 3)


def test_each_utterance_is_paced_anew_within_the_share_and_the_stored_frames_stay() -> None:
    examples = spoken(6)
    before = [example.frames.clone() for example in examples]
    lengths: list[int] = []
    torch.manual_seed(0)
    trainer = Trainer(CONFIG, train_config(tempo=0.25, epochs=40), examples, rows())
    trainer.bridge.register_forward_pre_hook(lambda _, told: lengths.extend(told[1].tolist()))
    generator = np.random.default_rng(0)
    for _ in range(20):
        trainer.step(examples[:1], generator)
    own = len(examples[0].frames)
    assert len(set(lengths)) > 3
    assert all(round(0.75 * own) <= length <= round(1.25 * own) for length in lengths)
    assert min(lengths) < own < max(lengths)
    assert all(torch.equal(example.frames, kept) for example, kept in zip(examples, before, strict=True))


def test_without_a_share_nothing_changes() -> None:
    seen: list[torch.Tensor] = []
    examples = spoken(2)
    trainer = Trainer(CONFIG, train_config(tempo=0.0), examples, rows())
    trainer.bridge.register_forward_pre_hook(lambda _, told: seen.append(told[1]))
    trainer.step(examples, np.random.default_rng(0))
    assert seen[0].tolist() == [len(example.frames) for example in examples]
