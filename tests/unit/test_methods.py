"""Every alignment method learns, and learns with nothing but what it says it trains."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from stages.alignment.methods.in_the_loop import InTheLoop
from stages.alignment.methods.names import IN_THE_LOOP, NAMES, STAGE_METHODS
from stages.alignment.methods.protocol import Schedule, epoch_batches
from stages.alignment.methods.registry import Material, make_method
from stages.alignment.trainer import TrainConfig, Trainer, length_batches
from stages.errors import SettingsError
from tests.helpers_methods import SCHEDULE, TEXTS, toy_material

LEARNING = tuple(name for name in NAMES if name != "cascade")


@pytest.fixture(scope="module")
def material() -> Material:
    return toy_material()


@pytest.mark.parametrize("name", LEARNING)
def test_the_loss_on_four_utterances_falls(material: Material, name: str) -> None:
    method = make_method(name, material, SCHEDULE)
    losses = [method.step(material.examples) for _ in range(SCHEDULE.epochs)]
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])
    assert method.seconds > 0.0


@pytest.mark.parametrize("name", ["ctc-only", "projector-lora"])
def test_what_was_learned_is_read_back(material: Material, name: str) -> None:
    """Not ``projector``: a frozen LLM of random weights cannot be brought to say just anything, a changed one can."""
    schedule = replace(SCHEDULE, epochs=100, learning_rate=5e-3)
    method = make_method(name, material, schedule)
    for _ in range(schedule.epochs):
        method.step(material.examples)
    assert method.read(material.examples) == list(TEXTS)


@pytest.mark.parametrize("name", IN_THE_LOOP)
def test_the_llms_own_weights_stay_as_they_are(material: Material, name: str) -> None:
    method = make_method(name, material, SCHEDULE)
    assert isinstance(method, InTheLoop)
    own = {key: value.clone() for key, value in method.llm.model.state_dict().items() if "lora_" not in key}
    for _ in range(3):
        method.step(material.examples)
    method.read(material.examples)
    after = method.llm.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in own.items())
    assert len(own) == len(material.llm().state_dict())


@pytest.mark.parametrize("name", IN_THE_LOOP)
def test_gradients_reach_what_learns_and_nothing_else(material: Material, name: str) -> None:
    method = make_method(name, material, SCHEDULE)
    assert isinstance(method, InTheLoop)
    for _ in range(2):  # a LoRA's first matrix learns from the second step on: until then the second one is zero
        method.step(material.examples)
    learning = {id(weight) for weight in method.parameters()}
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in method.parameters())
    everything = itertools.chain(method.bridge.parameters(), method.llm.model.parameters())
    assert all(weight.grad is None for weight in everything if id(weight) not in learning)
    assert sum(weight.numel() for weight in method.parameters()) == method.trainable_parameters()


def test_lora_adds_its_rank_to_two_projections_of_each_layer(material: Material) -> None:
    plain, lora = (make_method(name, material, SCHEDULE) for name in ("projector", "projector-lora"))
    # 2 layers, hidden 32: q gives 32, v gives 16 (2 of 4 heads), rank 8
    assert lora.trainable_parameters() - plain.trainable_parameters() == 2 * 8 * ((32 + 32) + (32 + 16))


@pytest.mark.parametrize("name", LEARNING)
def test_the_llm_runs_in_the_loop_where_a_method_says_so(material: Material, name: str) -> None:
    loaded = []

    def llm() -> Any:
        loaded.append(name)
        return material.llm()

    method = make_method(name, replace(material, llm=llm), SCHEDULE)
    assert bool(loaded) == method.needs_llm == (name in IN_THE_LOOP)
    assert method.name == name


@pytest.mark.parametrize("name", LEARNING)
def test_texts_and_targets_are_not_looked_at_when_reading(material: Material, name: str) -> None:
    method = make_method(name, material, SCHEDULE)
    method.step(material.examples)
    untold = [replace(example, text="", target=torch.empty(0, dtype=torch.long)) for example in material.examples]
    assert method.read(untold) == method.read(material.examples)


@pytest.mark.parametrize("name", LEARNING)
def test_an_utterance_is_read_alike_alone_and_among_others(material: Material, name: str) -> None:
    method = make_method(name, material, SCHEDULE)
    for _ in range(5):
        method.step(material.examples)
    together = method.read(material.examples)
    assert together == [method.read([example])[0] for example in material.examples]


def test_the_same_seed_gives_the_same_weights(material: Material) -> None:
    losses = [
        [make_method("projector", material, replace(SCHEDULE, seed=seed)).step(material.examples)] for seed in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_the_cascade_hears_the_utterances_own_audio_and_learns_nothing(material: Material) -> None:
    cascade = make_method("cascade", material, SCHEDULE)
    assert cascade.read(material.examples) == ["1 samples", "2 samples", "3 samples", "4 samples"]
    assert cascade.trainable_parameters() == 0
    with pytest.raises(ValueError, match="does not learn"):
        cascade.step(material.examples)


def test_an_unknown_method_is_told_the_known_ones(material: Material) -> None:
    with pytest.raises(SettingsError) as caught:
        make_method("magic", material, SCHEDULE)
    assert all(name in str(caught.value) for name in (*NAMES, "magic"))
    assert set(STAGE_METHODS) <= set(NAMES)


def test_embedlink_steps_are_the_trainers_own(material: Material) -> None:
    """The weights after one dealt step are those of a ``Trainer`` that takes the same step."""
    schedule = Schedule(epochs=2, batch_size=4, learning_rate=1e-3)
    method: Any = make_method("embedlink", material, schedule)
    config = TrainConfig(epochs=2, batch_size=4, learning_rate=1e-3, seed=0)
    trainer = Trainer(material.bridge, config, material.examples, material.rows)
    trainer.bridge.train()
    torch.manual_seed(5)
    expected = trainer.step(material.examples, np.random.default_rng([0, 1]))
    torch.manual_seed(5)
    assert method.step(material.examples) == expected
    for mine, its in zip(method.trainer.bridge.parameters(), trainer.bridge.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_an_epoch_deals_every_utterance_once_and_anew_each_time(material: Material) -> None:
    many = [replace(material.examples[index % 4], utterance=f"u{index}") for index in range(10)]
    schedule = Schedule(epochs=2, batch_size=4, learning_rate=1e-3, seed=3)
    dealt = [
        [[example.utterance for example in batch] for batch in epoch_batches(many, schedule, epoch)]
        for epoch in (0, 0, 1)
    ]
    assert dealt[0] == dealt[1] != dealt[2]
    assert sorted(itertools.chain(*dealt[2])) == sorted(example.utterance for example in many)
    assert schedule.steps(len(many)) == 2 * len(dealt[0]) == 6
    assert len(length_batches([1] * 10, 4, np.random.default_rng(0))) == 3


def test_frames_of_others_in_the_batch_do_not_change_a_vector(material: Material) -> None:
    for name in ("projector", "qformer"):
        method: Any = make_method(name, material, SCHEDULE)
        together = method.hear(material.examples)
        alone = [method.hear([example])[0] for example in material.examples]
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
