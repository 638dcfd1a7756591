"""Error rates, agreement and divergence."""

from __future__ import annotations

import math

import pytest
import torch

from stages.alignment.metrics import response_agreement, response_kl, word_errors


def test_errors_are_pooled_over_words_not_averaged_over_utterances() -> None:
    counts = word_errors(
        ["yes", "one two three four five six seven eight nine"], ["no", "one two three four five six seven eight nine"]
    )
    assert (counts.errors, counts.words, counts.wer) == (1, 10, 0.1)


def test_substitutions_deletions_and_insertions_count() -> None:
    assert word_errors(["a b c"], ["a x c d"]).errors == 2
    assert word_errors(["a b c"], [""]).errors == 3


def test_characters_are_counted_with_their_spaces() -> None:
    assert word_errors(["ab cd"], ["ab ce"]).cer == pytest.approx(1 / 5)


def test_words_for_an_empty_reference_are_insertions() -> None:
    counts = word_errors(["", "go"], ["uh huh", "go"])
    assert (counts.errors, counts.words, counts.wer) == (2, 1, 2.0)


def test_rates_stay_finite_without_any_reference_word() -> None:
    assert word_errors([""], [""]).wer == 0.0
    assert math.isfinite(word_errors([""], ["uh"]).cer)


def test_both_sides_are_compared_in_spoken_form() -> None:
    assert word_errors(["J-O-H-N, 5!"], ["j o h n five"]).errors == 0


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="1 hypotheses for 2 references"):
        word_errors(["a", "b"], ["a"])


def test_agreement_is_one_for_the_same_reply_and_zero_for_another() -> None:
    assert response_agreement(["turn left", "", "да"], ["Turn left.", "", "да"]) == 1.0
    assert response_agreement(["turn left"], ["no idea"]) == 0.0


def test_agreement_is_the_longest_common_subsequence_as_f_measure() -> None:
    assert response_agreement(["a b c d"], ["a c"]) == pytest.approx(2 * 1.0 * 0.5 / 1.5)


def test_agreement_needs_replies() -> None:
    with pytest.raises(ValueError, match="at least one"):
        response_agreement([], [])


def test_divergence_is_zero_only_between_equal_distributions() -> None:
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    assert response_kl(logits, logits + 3.0) == pytest.approx(0.0, abs=1e-9)
    assert response_kl(logits, -logits) > 0.01


def test_divergence_is_kl_from_text_to_audio_a_token() -> None:
    text, audio = torch.tensor([[0.8, 0.2], [0.5, 0.5]]), torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    expected = (0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)) / 2
    assert response_kl(text.log(), audio.log()) == pytest.approx(expected, rel=1e-5)


def test_divergence_refuses_replies_of_unequal_length() -> None:
    with pytest.raises(ValueError, match="needed"):
        response_kl(torch.zeros(2, 3), torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("said", "heard", "errors", "words"),
    [
        ("включи свет на кухне", "закрой дверь", 4, 4),
        ("включи свет", "включи цвет", 1, 2),
        ("включи usb", "закрой usb", 1, 2),  # the letters that English has are not all that counts
        ("mach das licht schön", "mach das licht schon", 1, 4),
        ("schon acht", "schön acht", 1, 2),
        ("रोशनी जलाओ", "रोशनी जलाओ", 0, 2),
        ("", "да да", 2, 0),
    ],
)
def test_every_script_counts_without_its_language(said: str, heard: str, errors: int, words: int) -> None:
    counts = word_errors([said], [heard])
    assert (counts.errors, counts.words) == (errors, words)


def test_the_language_tells_how_what_was_written_is_said() -> None:
    said, written = ["fünfzehn uhr", "fifteen cafes"], ["15 Uhr.", "15 cafés!"]
    assert word_errors(said, written, ["de", "en"]).errors == 0
    assert word_errors(said, written, "en").errors == 1  # "fifteen uhr"
    assert (
        word_errors(["включи свет"], ["закрой дверь"], "en").errors == 2
    )  # told wrongly: still not nothing against nothing
    with pytest.raises(ValueError, match="zip"):
        word_errors(said, written, ["de"])
