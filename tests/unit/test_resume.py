"""A training that was cut off goes on where it was and ends as if it had not been; a wrong checkpoint is left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.alignment.bridgeformer import BridgeFormer
from stages.alignment.embedlink import EmbedLink
from stages.alignment.personal import PersonalConfig, PersonalResult, personalize
from stages.alignment.resume import Checkpoint
from stages.yielding import gated
from tests.helpers_alignment import CONFIG, rows, spoken

CONFIGS = {
    "shira": PersonalConfig(method="shira", steps=9, batch_size=3, density=0.05, replay=2),
    "ewc": PersonalConfig(method="shira", steps=9, batch_size=3, density=0.05, ewc_weight=10.0),
    "lora": PersonalConfig(method="lora", steps=9, batch_size=3),
    "full": PersonalConfig(method="full", steps=9, batch_size=3, micro_batch=2),
}


class PowerCut(Exception):
    """What stands in for a process that ends between two steps."""


def train(config: PersonalConfig, checkpoint: Checkpoint | None = None) -> PersonalResult:
    torch.manual_seed(0)
    base, link = BridgeFormer(CONFIG).eval(), EmbedLink(rows())
    return personalize(base, link, spoken(7, seed=3), config, spoken(5, seed=9), checkpoint)


def cut_after(steps: int, config: PersonalConfig, checkpoint: Checkpoint) -> None:
    """Train until ``steps`` steps are done in this process."""
    left = [steps]

    def gate() -> None:
        if not left[0]:
            raise PowerCut
        left[0] -= 1

    with pytest.raises(PowerCut), gated(gate):
        train(config, checkpoint)


@pytest.mark.parametrize("name", CONFIGS)
def test_cut_off_twice_it_ends_bit_for_bit_as_if_it_had_not_been(name: str, tmp_path: Path) -> None:
    config, whole = CONFIGS[name], train(CONFIGS[name])
    checkpoint = Checkpoint(tmp_path / "update.safetensors", "this")
    for _ in range(2):
        cut_after(3, config, checkpoint)
    assert oct(checkpoint.path.stat().st_mode)[-3:] == "600"  # it was learned from somebody's voice
    resumed = train(config, checkpoint)
    assert (whole.resumed_at, resumed.resumed_at) == (0, 6)
    assert resumed.curve == whole.curve
    for tensor, value in whole.tensors.items():
        np.testing.assert_array_equal(resumed.tensors[tensor], value)
    assert train(config, checkpoint).resumed_at == config.steps  # what is left after a cut in the judging


def test_without_a_gate_it_is_written_when_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("stages.alignment.resume.time.monotonic", lambda: now[0])
    checkpoint = Checkpoint(tmp_path / "c", "this", every_s=2.5)
    written = []
    monkeypatch.setattr(checkpoint, "load", lambda: None)
    save = checkpoint.save
    monkeypatch.setattr(
        checkpoint, "save", lambda tensors, told: (written.append(len(told["curve"])), save(tensors, told))
    )

    def tick() -> None:
        now[0] += 1.0

    with gated(tick):
        train(CONFIGS["shira"], checkpoint)
    assert written == [2, 5, 8, 9]


def test_a_checkpoint_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "c"
    cut_after(3, CONFIGS["shira"], Checkpoint(path, "this"))
    assert train(CONFIGS["shira"], Checkpoint(path, "that")).resumed_at == 0


@pytest.mark.parametrize("damage", [b"", b"\x00" * 40, None])
def test_a_damaged_one_is_told_and_the_training_begins_anew(
    damage: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c"
    cut_after(3, CONFIGS["shira"], Checkpoint(path, "this"))
    path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    assert train(CONFIGS["shira"], Checkpoint(path, "this")).resumed_at == 0
    assert "begins anew" in caplog.text


def test_a_disk_that_does_not_take_it_costs_the_checkpoint_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    result = train(CONFIGS["shira"], Checkpoint(tmp_path / "file" / "c", "this", every_s=0.0))
    assert len(result.curve) == CONFIGS["shira"].steps
    assert "the training goes on" in caplog.text
