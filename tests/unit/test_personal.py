"""Training, sparse and other personal updates, and adapters on disk."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.alignment import sparse
from stages.alignment.adapter import AdapterRecord, apply_update, load_base, load_personal, read_record, save, save_base
from stages.alignment.bridgeformer import BridgeFormer
from stages.alignment.embedlink import EmbedLink
from stages.alignment.personal import PersonalConfig, PersonalResult, personalize
from stages.alignment.trainer import Example, Masking, Trainer, length_batches, mask_frames, read_out_all
from stages.alignment.vocabulary import Vocabulary
from stages.errors import InputError
from tests.helpers_alignment import CONFIG, WORDS, WordTokenizer, rows, spoken, train_config


@pytest.fixture(scope="module")
def trained() -> Trainer:
    torch.set_num_threads(1)
    trainer = Trainer(CONFIG, train_config(epochs=12), spoken(160), rows())
    for _ in range(12):
        trainer.run_epoch()
    trainer.bridge.eval()
    return trainer


def error_share(bridge: BridgeFormer, link: EmbedLink, examples: list[Example]) -> float:
    outputs = read_out_all(bridge, link, [example.frames for example in examples])
    wrong = [output.rows != example.target.tolist() for output, example in zip(outputs, examples, strict=True)]
    return float(np.mean(wrong))


def base_record() -> AdapterRecord:
    return AdapterRecord(
        "base", "embedlink", CONFIG.to_json(), "encoder@1", "llm@2", list(range(100, 100 + len(WORDS)))
    )


def saved(folder: Path, trained: Trainer, result: PersonalResult, method: str) -> tuple[Path, Path]:
    base = save_base(folder / "base", trained.bridge, base_record())
    record = dataclasses.replace(base_record(), kind="personal", method=method, base_sha256=base.weights_sha256)
    save(folder / "user", result.tensors, record)
    return folder / "base", folder / "user"


def test_training_learns_words_from_frames(trained: Trainer) -> None:
    assert error_share(trained.bridge, trained.link, spoken(40, seed=1)) < 0.1


def test_a_resumed_training_goes_on_exactly() -> None:
    straight = Trainer(CONFIG, train_config(epochs=3), spoken(24), rows())
    straight.run_epoch()
    state = {name: value.clone() for name, value in straight.state().items()}
    straight.run_epoch()
    resumed = Trainer(CONFIG, train_config(epochs=3), spoken(24), rows())
    resumed.load_state(state)
    resumed.run_epoch()
    for name, value in straight.bridge.state_dict().items():
        assert torch.equal(value, resumed.bridge.state_dict()[name]), name


@pytest.mark.parametrize("steps", [1, 2, 8, 9, 10, 30])
def test_very_short_runs_have_a_schedule(trained: Trainer, steps: int) -> None:
    result = personalize(trained.bridge, trained.link, spoken(2, seed=5), PersonalConfig(steps=steps))
    assert [step for step, _ in result.curve] == list(range(1, steps + 1))


def test_batches_hold_every_example_once() -> None:
    batches = length_batches(list(range(50)), 8, np.random.default_rng(0))
    assert sorted(index for batch in batches for index in batch) == list(range(50))
    assert max(len(batch) for batch in batches) == 8


@pytest.mark.parametrize("method", ["shira", "lora", "full"])
def test_a_personal_adapter_helps_its_user(trained: Trainer, method: str, tmp_path: Path) -> None:
    speaker = spoken(48, seed=2, turn=0.5)
    rate = 3e-3 if method == "full" else 1e-2
    config = PersonalConfig(
        method=method, density=0.05, steps=60, learning_rate=rate, lora_rank=4, masking=Masking(feature_mask_width=2)
    )
    result = personalize(trained.bridge, trained.link, speaker[:16], config)
    bridge, _, _ = load_personal(*reversed(saved(tmp_path, trained, result, method)))
    before = error_share(trained.bridge, trained.link, speaker[16:])
    after = error_share(bridge, trained.link, speaker[16:])
    assert before > 0.5
    assert after < 0.6 * before


def test_the_mean_of_a_speaker_is_shifted_to_the_bases(trained: Trainer, tmp_path: Path) -> None:
    """A constant added to every frame, as by another microphone, is undone without any training."""
    speaker = spoken(48, seed=2, shift=1.5)
    config = PersonalConfig(steps=1, learning_rate=1e-9)
    bridge, _, _ = load_personal(
        *reversed(saved(tmp_path, trained, personalize(trained.bridge, trained.link, speaker[:16], config), "shira"))
    )
    assert error_share(trained.bridge, trained.link, speaker[16:]) > 0.5
    assert error_share(bridge, trained.link, speaker[16:]) < 0.35


@pytest.mark.parametrize("method", ["shira", "lora", "full", "blocks"])
def test_strength_keeps_a_share_of_the_change_and_the_whole_shift(trained: Trainer, method: str) -> None:
    config = PersonalConfig(method=method, steps=4, learning_rate=1e-2)
    changed = {}
    for strength in (1.0, 0.25):
        result = personalize(
            trained.bridge, trained.link, spoken(4, seed=3), dataclasses.replace(config, strength=strength)
        )
        bridge = copy.deepcopy(trained.bridge)
        apply_update(bridge, result.tensors, method)
        changed[strength] = bridge.state_dict()
    before, moved = trained.bridge.state_dict(), 0.0
    for name, whole in changed[1.0].items():
        part = changed[0.25][name]
        if name == "frame_shift":
            assert torch.equal(part, whole) and whole.abs().max() > 0
            continue
        torch.testing.assert_close(part - before[name], 0.25 * (whole - before[name]), rtol=2e-3, atol=2e-5)
        moved = max(moved, float((whole - before[name]).abs().max()))
    assert moved > 1e-3


def test_the_base_is_left_as_it_is(trained: Trainer) -> None:
    before = {name: value.clone() for name, value in trained.bridge.state_dict().items()}
    personalize(trained.bridge, trained.link, spoken(4, seed=3), PersonalConfig(steps=2))
    for name, value in trained.bridge.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_sparse_update_changes_just_its_share_of_weights(trained: Trainer, tmp_path: Path) -> None:
    result = personalize(trained.bridge, trained.link, spoken(8, seed=3), PersonalConfig(steps=3, density=0.02))
    bridge, _, _ = load_personal(*reversed(saved(tmp_path, trained, result, "shira")))
    base = dict(trained.bridge.named_parameters())
    changed = sum(int((value != base[name]).sum()) for name, value in bridge.named_parameters())
    total = sum(value.numel() for value in bridge.parameters())
    assert 0.9 * 0.02 * total < changed <= result.trainable_parameters == round(0.02 * total)


def test_masks_set_stretches_and_bands_to_zero_and_nothing_else() -> None:
    frames, lengths = torch.ones(2, 40, 12), torch.tensor([40, 20])
    masked = mask_frames(frames, lengths, Masking(3, 8, 3, 4), np.random.default_rng(3))
    assert torch.equal(frames, torch.ones(2, 40, 12))
    zero = masked[0] == 0
    rows, columns = zero.all(dim=1), zero.all(dim=0)
    assert 0 < int(rows.sum()) <= 24
    assert 0 < int(columns.sum()) < 12
    assert torch.equal(zero, rows[:, None] | columns[None, :])


def test_scores_of_masks_match_their_definitions(trained: Trainer) -> None:
    weights = sparse.linear_weights(trained.bridge)
    probe = {name: torch.full_like(weight, 2.0) for name, weight in weights.items()}

    def loss() -> torch.Tensor:  # its gradient is `probe` everywhere
        return torch.stack([(probe[name] * weight).sum() for name, weight in weights.items()]).sum()

    for mask, expected in {
        "gradient": lambda weight: torch.full_like(weight, 2.0),
        "magnitude": torch.abs,
        "snip": lambda weight: (2.0 * weight).abs(),
    }.items():
        scores = sparse.weight_scores(trained.bridge, mask, lambda: [0.25 * loss(), 0.75 * loss()], seed=0)
        for name, weight in weights.items():
            torch.testing.assert_close(scores[name], expected(weight.detach()))


def test_the_largest_scores_over_all_layers_are_chosen() -> None:
    chosen = sparse.choose_weights({"a": torch.tensor([[1.0, 9.0]]), "b": torch.tensor([[8.0], [0.0], [7.0]])}, 3)
    assert {name: indices.tolist() for name, indices in chosen.items()} == {"a": [1], "b": [0, 2]}


@given(st.sets(st.integers(0, 400_000), max_size=40), st.integers(0, 2**32 - 1))
def test_the_compact_form_gives_back_what_went_in(places: set[int], seed: int) -> None:
    indices = torch.tensor(sorted(places), dtype=torch.long)
    values = torch.tensor(np.random.default_rng(seed).normal(size=len(places)).astype(np.float16).astype(np.float32))
    found, kept = sparse.decode(*sparse.encode(indices, values))
    dense = torch.zeros(400_001).index_add_(0, found, kept)
    assert torch.equal(dense[indices], values)
    assert int((dense != 0).sum()) == int((values != 0).sum())


def test_another_base_is_refused(trained: Trainer, tmp_path: Path) -> None:
    result = personalize(trained.bridge, trained.link, spoken(4, seed=3), PersonalConfig(steps=1))
    base, user = saved(tmp_path, trained, result, "shira")
    save_base(base, BridgeFormer(CONFIG), base_record())
    with pytest.raises(InputError, match="made for the base"):
        load_personal(user, base)


def test_a_changed_file_is_refused(trained: Trainer, tmp_path: Path) -> None:
    save_base(tmp_path / "base", trained.bridge, base_record())
    weights = tmp_path / "base" / "adapter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InputError, match="changed or cut off"):
        load_base(tmp_path / "base")


def test_newer_keys_are_told_and_ignored(trained: Trainer, tmp_path: Path) -> None:
    save_base(tmp_path / "base", trained.bridge, base_record())
    path = tmp_path / "base" / "adapter.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "from_the_future": 1}))
    with pytest.warns(UserWarning, match="from_the_future"):
        assert read_record(tmp_path / "base").method == "embedlink"


def test_a_vocabulary_grows_without_moving_words() -> None:
    tokenizer = WordTokenizer()
    small = Vocabulary.of_texts(tokenizer, ["echo bravo"])
    grown = small.grown(tokenizer, ["alpha"])
    assert grown.text_of(tokenizer, grown.rows_of(tokenizer, "bravo alpha echo").tolist()) == "bravo alpha echo"
    with pytest.raises(KeyError):
        small.rows_of(tokenizer, "alpha")
