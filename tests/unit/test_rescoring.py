"""Readings and what the LLM makes of them, against slow references."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch

from jetson_agent.serve.settings import ServeSettings
from stages.alignment.bridgeformer import BridgeFormer
from stages.alignment.embedlink import EmbedLink
from stages.alignment.readings import Reading, best_readings, log_probabilities
from stages.alignment.rescoring import (
    NAMES,
    Chooser,
    Rescorer,
    RescoringConfig,
    SpelledWords,
    heard_again,
    likelier_word,
    rescore,
    spelled_words,
)
from stages.alignment.soft_tokens import ReadOut, read_out
from stages.alignment.spotting import listed_words
from stages.alignment.trainer import read_out_all
from tests.helpers_alignment import CONFIG, WORDS, rows, spoken
from tests.helpers_llm import tiny_llama, tiny_tokenizer


def all_readings(log_posteriors: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Every reading with the summed probability of its paths."""
    steps, columns = log_posteriors.shape
    found: dict[tuple[int, ...], float] = {}
    for path in product(range(columns), repeat=steps):
        rows = tuple(
            column - 1 for place, column in enumerate(path) if column and (place == 0 or path[place - 1] != column)
        )
        score = sum(float(log_posteriors[step, column]) for step, column in enumerate(path))
        found[rows] = found.get(rows, 0.0) + math.exp(score)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_readings_are_scored_by_the_sum_over_all_their_paths(seed: int) -> None:
    posteriors = (2 * torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))).log_softmax(dim=-1)
    slow = all_readings(posteriors)
    found = best_readings(posteriors, beam=10_000, candidates=3)
    assert {reading.rows for reading in found} == set(slow)
    for reading in found:
        assert math.exp(reading.score) == pytest.approx(slow[reading.rows], rel=1e-5)
    assert found[0].rows == max(slow, key=slow.__getitem__)
    assert [reading.rows for reading in best_readings(posteriors, beam=5, candidates=3)][:1] == [found[0].rows]


def test_the_exact_score_of_a_reading_is_the_sum_over_all_its_paths() -> None:
    posteriors = (2 * torch.randn(5, 4, generator=torch.Generator().manual_seed(3))).log_softmax(dim=-1)
    slow = all_readings(posteriors)
    readings = [*slow, (0, 1, 2, 0, 1, 2), (1, 1, 1, 1)]  # the last two need more than five steps
    found = log_probabilities(posteriors, readings)
    assert [math.exp(score) for score in found[:-2]] == pytest.approx(list(slow.values()), rel=1e-4)
    assert found[-2:] == [-math.inf, -math.inf]


def test_what_is_heard_again_counts_by_its_mean_and_not_where_it_is_too_short() -> None:
    readings = [Reading((0, 1), math.log(0.5)), Reading((0,), math.log(0.4))]
    other = torch.tensor([[0.1, 0.8, 0.1], [0.7, 0.2, 0.1]]).log()
    first, second = heard_again(readings, [other])
    assert (first.rows, second.rows) == ((0,), (0, 1))
    slow = all_readings(other)
    assert first.score == pytest.approx((math.log(0.4) + math.log(slow[0,])) / 2)
    assert second.score == pytest.approx((math.log(0.5) + math.log(slow[0, 1])) / 2)
    assert heard_again(readings, [other[:1]]) == readings  # one step has no room for two tokens


def test_a_chooser_hears_again_only_what_it_is_unsure_of() -> None:
    rows = torch.eye(3)
    asked: list[float] = []

    def again(tempo: float) -> torch.Tensor:
        asked.append(tempo)
        return torch.tensor([[0.04, 0.01, 0.94, 0.01]] * 2).log()  # row 1 throughout

    chooser = Chooser(None, [10, 11, 12], RescoringConfig(tempos=(0.9, 1.1)))
    sure = torch.tensor([[0.001, 0.997, 0.001, 0.001]]).log()
    assert chooser(sure, rows, read_out(sure, rows), again).rows == [0] and not asked
    unsure = torch.tensor([[0.02, 0.5, 0.46, 0.02]]).log()
    assert chooser(unsure, rows, read_out(unsure, rows), again).rows == [1] and asked == [0.9, 1.1]
    assert chooser(unsure, rows, read_out(unsure, rows)).rows == [0]


def test_scores_are_those_of_the_whole_text_read_at_once() -> None:
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    readings = [tokenizer(text)["input_ids"] for text in (" turn it on", " turn", "", " a much longer one")]
    found = Rescorer(model, tokenizer, ["open the door", "go"]).scores(readings)
    before, end = tokenizer(" open the door\n go\n")["input_ids"], tokenizer("\n")["input_ids"]
    for reading, score in zip(readings, found, strict=True):
        ids = torch.tensor([[*before, *reading, *end]])
        known = model(ids).logits[0].log_softmax(dim=-1)
        slow = sum(float(known[place - 1, ids[0, place]]) for place in range(len(before), ids.shape[1]))
        assert score == pytest.approx(slow, rel=1e-4)


class Likes:
    """An LLM that likes one reading."""

    def __init__(self, liked: list[int]) -> None:
        self.liked, self.asked = liked, 0

    def scores(self, readings: list[list[int]]) -> list[float]:
        self.asked += 1
        return [-1.0 if reading == self.liked else -50.0 for reading in readings]


def test_what_both_read_keeps_its_soft_tokens_and_what_the_llm_chose_is_its_row() -> None:
    rows = torch.eye(4)
    posteriors = torch.full((3, 5), 0.01)
    posteriors[0, 1] = posteriors[2, 3] = 0.96  # rows 0 and 2
    posteriors[1, 2], posteriors[1, 4] = 0.5, 0.47  # row 1 or row 3
    log_posteriors = (posteriors / posteriors.sum(dim=1, keepdim=True)).log()
    plain = read_out(log_posteriors, rows)
    assert plain.rows == [0, 1, 2]
    again = Chooser(Likes([10, 13, 12]), [10, 11, 12, 13])(log_posteriors, rows, plain)  # type: ignore[arg-type]  # a stand-in
    assert again.rows == [0, 3, 2]
    assert torch.equal(again.soft_tokens[[0, 2]], plain.soft_tokens[[0, 2]])
    assert torch.equal(again.soft_tokens[1], rows[3])
    same = Chooser(Likes([10, 11, 12]), [10, 11, 12, 13])(log_posteriors, rows, plain)  # type: ignore[arg-type]
    assert same is plain


def test_what_the_llm_talked_the_adapter_into_is_not_what_it_heard_for_certain() -> None:
    """Ten tokens heard for certain, one that is the LLM's choice: the mean would still be that of a confident reading."""
    posteriors = torch.full((11, 13), 1e-4)
    posteriors[range(10), range(1, 11)] = 0.999  # rows 0 to 9
    posteriors[10, 11], posteriors[10, 12] = 0.55, 0.45  # row 10 or row 11
    log_posteriors = (posteriors / posteriors.sum(dim=1, keepdim=True)).log()
    plain = read_out(log_posteriors, torch.eye(12))
    ids = list(range(20, 32))
    assert plain.rows == list(range(11)) and plain.confidence > 0.95
    chosen = Chooser(Likes([*ids[:10], ids[11]]), ids)(log_posteriors, torch.eye(12), plain)  # type: ignore[arg-type]
    assert chosen.rows == [*range(10), 11] and chosen.confidence == pytest.approx(0.45, abs=0.01)


def test_the_llm_decides_between_what_is_close_and_is_not_asked_where_nothing_is() -> None:
    likes = Likes([11])
    close = [Reading((0,), math.log(0.6)), Reading((1,), math.log(0.4))]
    assert rescore(close, [10, 11], likes, RescoringConfig(weight=0.3)) == (1,)  # type: ignore[arg-type]  # a stand-in
    assert rescore(close, [10, 11], likes, RescoringConfig(weight=0.0)) == (0,)  # type: ignore[arg-type]
    asked = likes.asked
    sure = [Reading((0,), math.log(0.995)), Reading((1,), math.log(0.001))]
    assert rescore(sure, [10, 11], likes, RescoringConfig()) == (0,)  # type: ignore[arg-type]
    assert likes.asked == asked


def test_each_token_is_paid_for_so_that_the_llm_does_not_prefer_what_is_short() -> None:
    class LikesShort:
        def scores(self, readings: list[list[int]]) -> list[float]:
            return [-2.5 * len(reading) for reading in readings]

    close = [Reading((0, 1), math.log(0.5)), Reading((0,), math.log(0.49))]
    likes: Rescorer = LikesShort()  # type: ignore[assignment]  # a stand-in
    assert rescore(close, [10, 11], likes, RescoringConfig()) == (0, 1)
    assert rescore(close, [10, 11], likes, RescoringConfig(bonus=0.0)) == (0,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("call a n n a", ["anna"]),
        ("rubout f m q n h three seventy o k", ["fmqnh"]),
        ("b o b and e v e", ["bob", "eve"]),
        ("a b", []),
        ("turn it on", []),
        ("", []),
    ],
)
def test_spelled_words_are_runs_of_letters(text: str, words: list[str]) -> None:
    assert spelled_words(text) == words


def test_letters_spell_a_word_or_are_a_code() -> None:
    for probability, letters, share in ((1e-4, 5, 0.5), (1e-12, 4, 0.2), (0.3, 3, 0.9)):
        either = share * probability + (1 - share) * 26.0**-letters
        slow = math.log(either / 26.0**-letters)
        assert likelier_word(math.log(probability), letters, share) == pytest.approx(slow)
    assert likelier_word(-1e4, 5, 0.5) == pytest.approx(
        math.log(0.5)
    )  # an unknown one is a code: nothing more is taken off
    assert likelier_word(-3.0, 5, 0.0) == 0.0
    assert likelier_word(-3.0, 5, 1.0) == pytest.approx(-3.0 + 5 * math.log(26))


def test_a_spelled_word_is_scored_as_it_is_written_behind_names() -> None:
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    spelled = SpelledWords(model, tokenizer)
    texts = [" call a n n a", " call a n n o", " call", " o n n a b e t"]
    readings = [tokenizer(text)["input_ids"] for text in texts]
    found = spelled.scores(readings, word_share=1.0)
    words = ["Anna", "Anno", "", "Onnabet"]
    known = Rescorer(model, tokenizer, NAMES).scores([tokenizer(f" {word}")["input_ids"] for word in words])
    for word, one, score in zip(words, known, found, strict=True):
        assert score == pytest.approx(likelier_word(one, len(word), 1.0) if word else 0.0, rel=1e-4)
    assert found[0] != found[1]
    # a model with random weights knows no name: all are codes
    assert spelled.scores(readings, 0.3) == pytest.approx([math.log(0.7), math.log(0.7), 0.0, math.log(0.7)], abs=1e-4)


def test_the_llm_is_not_asked_where_every_reading_spells_the_same() -> None:
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    spelled = SpelledWords(model, tokenizer)
    spelled._rescorer = None  # type: ignore[assignment]  # whoever asks it fails
    readings = [tokenizer(text)["input_ids"] for text in (" call a n n a", " tell a n n a")]
    assert spelled.scores(readings, 0.5) == [0.0, 0.0]


def test_what_is_spelled_weighs_beside_the_sentence_and_alone() -> None:
    class Spells:
        def scores(self, readings: list[list[int]], word_share: float) -> list[float]:
            return [0.0 if reading == [10] else 2.0 for reading in readings]

    close = [Reading((0,), math.log(0.7)), Reading((1,), math.log(0.3))]
    spells: SpelledWords = Spells()  # type: ignore[assignment]  # a stand-in
    assert rescore(close, [10, 11], None, RescoringConfig()) == (0,)
    assert rescore(close, [10, 11], None, RescoringConfig(), spells) == (1,)
    assert rescore(close, [10, 11], None, RescoringConfig(spelled_weight=0.1), spells) == (0,)
    against: Rescorer = Likes([10])  # type: ignore[assignment]  # a stand-in
    assert rescore(close, [10, 11], against, RescoringConfig(), spells) == (0,)


def test_a_device_says_how_unsure_utterances_are_read_again() -> None:
    told = ServeSettings.model_validate_json(
        '{"rescore": true, "sentence_weight": 0, "readings": 16, "tempos": [0.9, 1.1]}'
    )
    assert told.rescoring() == RescoringConfig(weight=0.0, beam=16, tempos=(0.9, 1.1))
    assert ServeSettings().rescoring() == RescoringConfig()
    with pytest.raises(ValueError, match="less than or equal to 2"):
        ServeSettings.model_validate_json('{"tempos": [3]}')


def test_a_listener_with_a_chooser_reads_again_but_not_where_a_listed_word_was_found() -> None:
    bridge = BridgeFormer(CONFIG).eval()
    link = EmbedLink(rows())
    frames = [example.frames for example in spoken(3)]
    asked: list[ReadOut] = []

    def choose(log_posteriors: torch.Tensor, table: torch.Tensor, heard: ReadOut, again: Any) -> ReadOut:
        asked.append(heard)
        torch.testing.assert_close(again(1.0), log_posteriors, rtol=1e-4, atol=1e-4)  # alone instead of in a batch
        assert len(again(2.0)) == pytest.approx(2 * len(log_posteriors), abs=1)
        return ReadOut([5], table[[5]], heard.confidence)

    plain = read_out_all(bridge, link, frames)
    again = read_out_all(bridge, link, frames, chooser=choose)  # type: ignore[arg-type]  # a stand-in
    assert [one.rows for one in again] == [[5]] * 3
    assert sorted(one.rows for one in asked) == sorted(one.rows for one in plain)
    listed = listed_words({"bravo": [1]}, [f" {word}" for word in WORDS], boost=100.0)
    assert listed is not None
    found = read_out_all(bridge, link, frames, words=listed, chooser=choose)  # type: ignore[arg-type]
    assert all(1 in one.rows for one in found)
