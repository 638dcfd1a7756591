"""The packaged LLM knows a name by its letters, and leaves a code alone."""

from __future__ import annotations

import math
from typing import Any

import pytest

from stages.alignment.readings import Reading
from stages.alignment.rescoring import RescoringConfig, SpelledWords, rescore
from stages.alignment.vocabulary import Vocabulary
from stages.models.llm import load_llm

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def spelled(prepared_models: Any) -> tuple[SpelledWords, Any]:
    model, tokenizer = load_llm(prepared_models.llm)
    return SpelledWords(model, tokenizer), tokenizer


@pytest.mark.parametrize(
    ("heard", "meant"),
    [
        ("l i n d o", "l i n d a"),
        ("my name is s t e v e m", "my name is s t e v e n"),
        ("b i t s b u r g h", "p i t t s b u r g h"),
        ("rubout f m q n h three", "rubout s m q n h three"),
    ],
)
def test_of_what_is_nearly_as_likely_the_name_is_taken_and_a_code_stays(
    spelled: tuple[SpelledWords, Any], heard: str, meant: str
) -> None:
    words, tokenizer = spelled
    vocabulary = Vocabulary.of_texts(tokenizer, [heard, meant])
    rows = [tuple(vocabulary.rows_of(tokenizer, text).tolist()) for text in (heard, meant)]
    readings = [Reading(rows[0], math.log(0.6)), Reading(rows[1], math.log(0.4))]
    chosen = rescore(readings, vocabulary.ids, None, RescoringConfig(), words)
    assert vocabulary.text_of(tokenizer, chosen) == (heard if "rubout" in heard else meant)
