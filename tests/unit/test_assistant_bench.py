"""What the assistant benchmark asks of whom: no voice, sentence or example that judges has taught."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks import assistant
from benchmarks import assistant_requests as wanted
from pipeline.cohorts.demo import plans
from stages.alignment.rescoring import CONTEXT


def test_voices_and_sentences_that_judge_have_taught_nothing() -> None:
    users, requests = wanted.judging()
    taught = [*plans()["base-synthetic"], *wanted.training()]
    said = {speech.sentence.text for user in taught for speech in user.speeches}
    assert not {user.voice.name for user in users} & {user.voice.name for user in taught}
    more = {speech.sentence.text for user in wanted.more_training() for speech in user.speeches}
    assert not {one.text for one in requests} & (said | more | set(wanted.EXAMPLES.values()) | set(CONTEXT))
    variants = {user.voice.name.split("+")[-1] for user in users}
    assert not variants & {user.voice.name.split("+")[-1] for user in wanted.more_training()}
    assert {word for one in requests for word in one.text.split()} <= {word for text in said for word in text.split()}
    assert len(requests) == len({one.text for one in requests}) >= 200


def test_every_intent_is_asked_about_alike_often_and_has_an_example() -> None:
    _, requests = wanted.judging()
    counts = Counter(one.intent for one in requests)
    assert set(counts) == set(wanted.TEMPLATES) == set(wanted.EXAMPLES)
    assert max(counts.values()) - min(counts.values()) <= 4
    assert set(wanted.DEVICE_COMMANDS) < set(counts)


def test_figures_compare_with_the_replies_to_the_text() -> None:
    requests = [
        wanted.Request("a-000", "turn on the lamp", "on"),
        wanted.Request("b-000", "close the door", "close"),
    ]
    texts = {"audio": ["turn on the lamp", "close a door"], "cascade": ["Turn on the lamp.", ""], "text": []}
    texts["text"] = [one.text for one in requests]

    def side(replies: list[str], intents: list[str], kl: float) -> dict[str, object]:
        return {"replies": replies, "intents": intents, "uncalibrated": ["on", "on"], "kl": kl}

    sides = {
        "audio": side(["yes i do", "no"], ["on", "close"], 0.5),
        "cascade": side(["yes i do", "what"], ["on", "on"], 2.0),
        "text": side(["yes i do", "of course"], ["on", "close"], 0.0),
    }
    texts[assistant.ALONE] = ["turn on a lamp", "close a door"]
    sides[assistant.ALONE] = side(["yes i do", "no"], ["on", "close"], 0.7)
    found = {one.name: one for one in assistant.figures(texts, {"instruction_first": sides}, requests)}
    assert found["wer_audio_alone"].value == pytest.approx(2 / 7, abs=1e-4)
    assert found["response_agreement"].value == 0.5
    assert found["response_agreement"].met is False
    assert found["wer_audio"].value == pytest.approx(1 / 7, abs=1e-4)
    assert found["wer_cascade"].value == pytest.approx(3 / 7, abs=1e-4)
    assert found["intent_accuracy_audio_instruction_first"].value == 1.0
    assert found["intent_accuracy_cascade_instruction_first"].value == 0.5
    assert found["response_kl_cascade_instruction_first"].value == 2.0
