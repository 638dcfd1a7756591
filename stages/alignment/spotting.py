"""Words that somebody listed, found in CTC posteriors where the best path has read something else.

A listed word is a small graph: its letters are nodes, every row of the vocabulary that spells a stretch of them is an edge, so
that all spellings compete at once. A Viterbi pass finds the stretch of time in which the word loses least against the best
path; ``boost`` nats a letter are what the list is worth. After Andrusenko et al., "Fast Context-Biasing for CTC and
Transducer ASR models with CTC-based Word Spotter", Interspeech 2024, which spots fixed token sequences.

Dimensions: S steps, V rows, E edges and K nodes of a word. Column 0 of the posteriors is the blank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.alignment.embedlink import BLANK
from stages.alignment.soft_tokens import ReadOut, collapse, read_out

BOOST = 0.5
"""Nats a letter: the largest at which no listed name was heard where nobody said one. At 1, names no training has said were
heard in one of fifteen sentences without them, and found in one of seventeen with them: see docs/notes.md."""


@dataclass(frozen=True)
class WordGraph:
    """The spellings of one word by rows of a vocabulary."""

    word: str
    rows: tuple[int, ...]  # the LLM's own tokens of it: what is read out where the word is found
    edge_rows: np.ndarray  # (E,)
    starts: np.ndarray  # (E,) node where each edge begins; nodes are numbered by letters behind them
    ends: np.ndarray  # (E,)
    nodes: int  # K

    @property
    def letters(self) -> int:
        return len(self.word)


@dataclass(frozen=True)
class Spotted:
    """A listed word that was heard."""

    graph: WordGraph
    first: int  # step
    last: int  # one past the last step
    gain: float  # nats by which it beats the best path, its boost included


@dataclass(frozen=True)
class ListedWords:
    """Everything that spotting needs."""

    graphs: tuple[WordGraph, ...]
    pieces: tuple[str, ...]  # the string of each row
    boost: float = BOOST


def word_graph(word: str, pieces: Sequence[str], rows: Sequence[int]) -> WordGraph:
    """The graph of a word over rows whose strings are ``pieces``; ``rows`` are those that spell it in the LLM's own way.

    Where no sequence of pieces spells the word (a tokenizer that cuts a letter into bytes), its own rows are the one spelling.
    Raises ValueError where it has none either.
    """
    text = f" {word}"
    by_text: dict[str, int] = {}
    for row, piece in enumerate(pieces):
        by_text.setdefault(piece, row)
    edges = [
        (by_text[text[start:end]], start, end)
        for start in range(len(text))
        for end in range(start + 1, len(text) + 1)
        if text[start:end] in by_text
    ]
    reached = {0}
    for _, start, end in sorted(edges, key=lambda edge: edge[1]):
        if start in reached:
            reached.add(end)
    if len(text) in reached:
        # an edge out of a node that nothing leads to cannot be part of a spelling
        return _graph(word, rows, [edge for edge in edges if edge[1] in reached], len(text) + 1)
    if not rows:
        raise ValueError(f"{word!r}: no row of the vocabulary spells it; grow the vocabulary by its tokens first")
    return _graph(word, rows, [(row, place, place + 1) for place, row in enumerate(rows)], len(rows) + 1)


def _graph(word: str, rows: Sequence[int], edges: Sequence[tuple[int, int, int]], nodes: int) -> WordGraph:
    edge_rows, starts, ends = (np.array(column) for column in zip(*edges, strict=True))
    return WordGraph(word, tuple(rows), edge_rows, starts, ends, nodes)


def spot_word(losses: np.ndarray, graph: WordGraph) -> tuple[float, int, int] | None:
    """(score, first step, one past the last) of the best stretch in which the word was said; None in too few steps.

    ``losses``: (S, 1 + V) log posteriors less those of the best column of each step, so that a score is what is lost
    against the best path: 0 at most.
    """
    steps, edges, nodes = len(losses), len(graph.edge_rows), graph.nodes
    never = -np.inf
    edge = np.full(edges, never)  # the best path that is on an edge now
    edge_first = np.zeros(edges, dtype=int)  # and the step where it began
    rest = np.full(nodes, never)  # the best path that is on the blank behind a node
    rest_first = np.zeros(nodes, dtype=int)
    same = graph.edge_rows[:, None] == graph.edge_rows[None]  # a repeated row needs a blank between
    follows = (graph.ends[:, None] == graph.starts[None]) & ~same  # (from, to)
    final = graph.ends == nodes - 1
    best: tuple[float, int, int] | None = None
    for step in range(steps):
        entering = np.where(graph.starts == 0, 0.0, never)
        ways = np.concatenate(
            [edge[None], entering[None], rest[graph.starts][None], np.where(follows, edge[:, None], never)]
        )
        begun = np.concatenate(
            [
                edge_first[None],
                np.full((1, edges), step),
                rest_first[graph.starts][None],
                np.broadcast_to(edge_first[:, None], (edges, edges)),
            ]
        )
        chosen = ways.argmax(axis=0)
        columns = np.arange(edges)
        new_edge = ways[chosen, columns] + losses[step, graph.edge_rows + 1]
        new_first = begun[chosen, columns]
        for node in range(1, nodes):  # the blank behind a node: from itself, or from an edge that ends there
            into = np.flatnonzero(graph.ends == node)
            candidate = into[edge[into].argmax()] if len(into) else -1
            if candidate >= 0 and edge[candidate] > rest[node]:
                rest[node], rest_first[node] = edge[candidate], edge_first[candidate]
            rest[node] += losses[step, BLANK]
        edge, edge_first = new_edge, new_first
        place = int(np.where(final, edge, never).argmax())
        if final[place] and edge[place] > never and (best is None or edge[place] > best[0]):
            best = (float(edge[place]), int(edge_first[place]), step + 1)
    return best


def spot(log_posteriors: Tensor, words: ListedWords) -> list[Spotted]:
    """Listed words in one utterance's (S, 1 + V) log posteriors, best first, no two at the same time, each once at most."""
    values = log_posteriors.double().numpy()
    losses = values - values.max(axis=1, keepdims=True)
    found = []
    for graph in words.graphs:
        heard = spot_word(losses, graph)
        if heard is not None and (gain := heard[0] + words.boost * graph.letters) > 0:
            found.append(Spotted(graph, heard[1], heard[2], gain))
    taken: list[Spotted] = []
    for one in sorted(found, key=lambda item: -item.gain):
        if all(one.last <= other.first or other.last <= one.first for other in taken):
            taken.append(one)
    return taken


def read_with_words(
    log_posteriors: Tensor, rows: Tensor, words: ListedWords, found: Sequence[Spotted] | None = None
) -> ReadOut:
    """One utterance's read-out in which a listed word takes the place of what was read while it was said.

    Shapes as in ``read_out``; ``found``: what ``spot`` gave, where that is known. The word's soft tokens are its own rows: the
    LLM sees the name as it would read it. A listed word is left out where it would end within another word (the next piece
    has no leading space).
    """
    plain = read_out(log_posteriors, rows)
    spans = collapse(log_posteriors.argmax(dim=-1))
    parts: list[tuple[int, list[int], Tensor]] = [
        (first, [row], plain.soft_tokens[place : place + 1]) for place, (row, first, _) in enumerate(spans)
    ]
    replaced: set[int] = set()
    for one in spot(log_posteriors, words) if found is None else found:
        inside = {
            place for place, (_, first, last) in enumerate(spans) if one.first <= (first + last - 1) / 2 < one.last
        }
        after = [words.pieces[row] for place, (row, first, _) in enumerate(spans) if first >= one.last][:1]
        if inside & replaced or (after and not after[0].startswith(" ")):
            continue
        replaced |= inside
        own = list(one.graph.rows)
        parts.append((one.first, own, rows[own]))
    kept = [part for place, part in enumerate(parts) if place not in replaced]
    kept.sort(key=lambda part: part[0])
    chosen = [row for _, several, _ in kept for row in several]
    soft = torch.cat([tokens for _, _, tokens in kept]) if kept else plain.soft_tokens
    return ReadOut(chosen, soft, plain.confidence)


def listed_words(
    spoken: Mapping[str, Sequence[int]], pieces: Sequence[str], boost: float = BOOST
) -> ListedWords | None:
    """Words by the rows of their own tokens, ready for ``read_with_words``; None where there is none."""
    graphs = tuple(word_graph(word, pieces, rows) for word, rows in spoken.items())
    return ListedWords(graphs, tuple(pieces), boost) if graphs else None
