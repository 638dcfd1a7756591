"""Listed words in posteriors, against every spelling, stretch and path tried one by one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from stages.alignment.soft_tokens import read_out
from stages.alignment.spotting import ListedWords, WordGraph, listed_words, read_with_words, spot, spot_word, word_graph

PIECES = [" b", "o", "b", " bo", "ob", " a", "bob", " x", "s"]


def spellings(graph: WordGraph) -> Iterator[list[int]]:
    """Every sequence of rows that spells the word."""

    def onwards(node: int) -> Iterator[list[int]]:
        if node == graph.nodes - 1:
            yield []
        for row, start, end in zip(graph.edge_rows, graph.starts, graph.ends, strict=True):
            if start == node:
                yield from ([int(row), *rest] for rest in onwards(int(end)))

    return onwards(0)


def slow_score(losses: np.ndarray, graph: WordGraph) -> float:
    """The best over all spellings, stretches and CTC paths that begin and end on a piece."""
    best = -np.inf
    for rows in spellings(graph):
        for first, last in itertools.combinations(range(len(losses) + 1), 2):
            for path in itertools.product(range(losses.shape[1]), repeat=last - first):
                merged = [column - 1 for column, _ in itertools.groupby(path) if column]
                if merged == rows and path[0] and path[-1]:
                    best = max(best, sum(losses[first + step, column] for step, column in enumerate(path)))
    return float(best)


def random_losses(seed: int, steps: int, rows: int) -> np.ndarray:
    values = np.log(np.random.default_rng(seed).dirichlet(np.ones(rows + 1) * 0.3, size=steps) + 1e-9)
    return values - values.max(axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(12))
def test_the_score_is_the_best_over_every_spelling_stretch_and_path(seed: int) -> None:
    pieces = [" b", "o", "b", " bo", "ob"]
    graph = word_graph("bob", pieces, [0, 4])
    losses = random_losses(seed, 5, len(pieces))
    found = spot_word(losses, graph)
    assert found is not None
    assert found[0] == pytest.approx(slow_score(losses, graph))


def test_a_repeated_piece_needs_a_blank_between() -> None:
    graph = word_graph("oo", [" o", "o", " oo"], [0, 1])
    doubled = word_graph("ss", [" s", "s"], [0, 1])
    same = WordGraph("ss", (0, 0), np.array([0, 0]), np.array([0, 1]), np.array([1, 2]), 3)
    losses = np.array([[-9.0, 0.0, -9.0], [-9.0, 0.0, -9.0]])
    assert spot_word(losses, same) is None
    between = np.array([[-9.0, 0.0, -9.0], [0.0, -9.0, -9.0], [-9.0, 0.0, -9.0]])
    assert spot_word(between, same) == (0.0, 0, 3)
    assert len(list(spellings(graph))) == 2
    assert len(list(spellings(doubled))) == 1


def test_a_word_that_no_row_spells_is_refused() -> None:
    with pytest.raises(ValueError, match="'boz': no row of the vocabulary spells it"):
        word_graph("boz", PIECES, [])


def test_a_letter_that_the_tokenizer_cuts_into_bytes_is_spelled_by_the_words_own_rows() -> None:
    graph = word_graph("zoë", PIECES, [2, 1, 2, 2])
    assert list(spellings(graph)) == [[2, 1, 2, 2]]


def posteriors(columns: list[dict[int, float]]) -> torch.Tensor:
    """(S, 1 + V) log posteriors with the given probabilities; what is left goes to the other columns alike."""
    values = torch.zeros(len(columns), len(PIECES) + 1)
    for step, given in enumerate(columns):
        values[step] = (1 - sum(given.values())) / (len(PIECES) + 1 - len(given))
        for column, probability in given.items():
            values[step, column] = probability
    return values.log()


def heard_bob_nearly() -> torch.Tensor:
    """ "a", then "bos" where "bob" is nearly as likely."""
    return posteriors([{6: 0.9}, {0: 0.9}, {4: 0.9}, {9: 0.5, 3: 0.4}, {0: 0.9}])


def text_of(rows: list[int]) -> str:
    return "".join(PIECES[row] for row in rows)


def test_a_listed_word_takes_the_place_of_what_was_read_while_it_was_said() -> None:
    rows = torch.randn(len(PIECES), 4, generator=torch.Generator().manual_seed(0))
    words = listed_words({"bob": [0, 4]}, PIECES)
    assert words is not None
    plain, found = read_out(heard_bob_nearly(), rows), read_with_words(heard_bob_nearly(), rows, words)
    assert text_of(plain.rows) == " a bos"
    assert text_of(found.rows) == " a bob"
    assert torch.equal(found.soft_tokens[1:], rows[[0, 4]])
    assert torch.equal(found.soft_tokens[0], plain.soft_tokens[0])


def test_what_costs_more_than_the_list_is_worth_stays_as_it_was_read() -> None:
    rows = torch.randn(len(PIECES), 4)
    listed = listed_words({"bob": [0, 4]}, PIECES, boost=0.01)
    assert listed is not None
    assert text_of(read_with_words(heard_bob_nearly(), rows, listed).rows) == " a bos"
    assert spot(heard_bob_nearly(), listed) == []
    assert listed_words({}, PIECES) is None


def test_a_word_within_another_word_is_no_word() -> None:
    rows = torch.randn(len(PIECES), 4)
    log_posteriors = posteriors([{4: 0.9}, {3: 0.9}, {9: 0.9}])  # "bobs"
    words = listed_words({"bob": [0, 4]}, PIECES)
    assert words is not None
    assert spot(log_posteriors, words)
    assert read_with_words(log_posteriors, rows, words).rows == [
        3,
        2,
        8,
    ]  # as it was read; the list would have put " b", "ob"


def test_of_two_listed_words_at_the_same_time_the_likelier_is_heard() -> None:
    log_posteriors = heard_bob_nearly()
    graphs = (word_graph("bob", PIECES, [0, 4]), word_graph("bos", PIECES, [3, 8]))
    assert [one.graph.word for one in spot(log_posteriors, ListedWords(graphs, tuple(PIECES)))] == ["bos"]
