"""Words in short pieces, rows drawn from the whole table, and listening for words that no training has said."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers_llm import tiny_tokenizer

from stages.alignment.bridgeformer import BridgeFormerConfig
from stages.alignment.pieces import cut_text, cut_word, listen_for, rows_of, short_pieces, with_short_pieces
from stages.alignment.trainer import Example, TrainConfig, Trainer
from stages.alignment.vocabulary import Vocabulary, token_ids

PIECES = {" l": 1, " la": 2, "a": 3, "am": 4, "p": 5, "mp": 6, "m": 7}
TEXT = {token: piece for piece, token in PIECES.items()}


def test_every_cut_spells_the_word_and_all_of_them_come() -> None:
    draw = np.random.default_rng(0)
    cuts = {tuple(cut_word("lamp", PIECES, draw) or ()) for _ in range(300)}
    assert {"".join(TEXT[token] for token in cut) for cut in cuts} == {" lamp"}
    assert cuts == {(1, 3, 7, 5), (1, 3, 6), (1, 4, 5), (2, 7, 5), (2, 6)}
    assert cut_word("lamps", PIECES, draw) is None


def test_letters_that_somebody_names_are_not_cut_and_the_share_is_kept() -> None:
    tokenizer = tiny_tokenizer()
    pieces = {" l": 300, "a": 301, "m": 302, "p": 303}
    draw = np.random.default_rng(0)
    assert cut_text(tokenizer, "l lamp", pieces, 1.0, draw) == [*token_ids(tokenizer, "l"), 300, 301, 302, 303]
    assert cut_text(tokenizer, "l lamp", pieces, 0.0, draw) == token_ids(tokenizer, "l lamp")
    cut = sum(cut_text(tokenizer, "lamp", pieces, 0.3, draw)[0] == 300 for _ in range(1000))
    assert 230 < cut < 370


def test_short_pieces_are_small_letters_alone() -> None:
    found = short_pieces(tiny_tokenizer())
    assert set(found) == {chr(code) for code in range(ord("a"), ord("z") + 1)}  # a token a byte: no leading spaces
    grown = with_short_pieces(Vocabulary((5,)), found)
    assert set(grown.ids) == {5, *found.values()}
    assert rows_of(grown, grown.ids) == list(range(len(grown)))
    with pytest.raises(KeyError):
        rows_of(grown, [255_000])


def test_listening_grows_the_vocabulary_by_rows_and_never_else() -> None:
    tokenizer = tiny_tokenizer()
    vocabulary = Vocabulary.of_texts(tokenizer, ["go"])
    same, nothing = listen_for(vocabulary, tokenizer, [])
    assert (same, nothing) == (vocabulary, None)
    grown, words = listen_for(vocabulary, tokenizer, ["tuuli"])
    assert set(vocabulary.ids) < set(grown.ids)
    assert words is not None
    assert grown.text_of(tokenizer, words.graphs[0].rows) == "tuuli"


def trainer(config: TrainConfig, cuts: tuple[torch.Tensor, ...] = (), table: torch.Tensor | None = None) -> Trainer:
    torch.manual_seed(0)
    frames = torch.randn(24, 8)
    bridge = BridgeFormerConfig(8, 6, stack=2, width=8, layers=1, heads=2, dropout=0.0)
    examples = [Example("u", frames, torch.tensor([0, 1]), "a b", cuts)]
    return Trainer(bridge, config, examples, torch.eye(6)[:4], table)


def weights(one: Trainer) -> list[torch.Tensor]:
    return [copy.deepcopy(value) for value in one.bridge.state_dict().values()]


CONFIG = TrainConfig(epochs=2, batch_size=1, learning_rate=1e-2)


def test_an_example_with_one_cut_learns_what_that_cut_says() -> None:
    plain, cut = trainer(CONFIG), trainer(CONFIG, (torch.tensor([2, 3, 2]),))
    told = trainer(CONFIG)
    told.examples = [Example("u", told.examples[0].frames, torch.tensor([2, 3, 2]), "a b")]
    batches = [one.step(one.examples, np.random.default_rng(0)) for one in (plain, cut, told)]
    assert batches[1] != batches[0]
    # the choice of the cut draws a number, so masks differ; without masks both are the same
    config = TrainConfig(epochs=1, batch_size=1, learning_rate=1e-2, masking=type(CONFIG.masking)(0, 0, 0, 0))
    one, other = trainer(config, (torch.tensor([2, 3, 2]),)), trainer(config)
    other.examples = told.examples
    assert one.step(one.examples, np.random.default_rng(0)) == other.step(other.examples, np.random.default_rng(0))


def test_rows_drawn_from_the_table_compete_and_follow_from_the_seed() -> None:
    table = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    config = TrainConfig(epochs=1, batch_size=1, learning_rate=1e-2, sampled_rows=20)
    first, second, plain = trainer(config, table=table), trainer(config, table=table), trainer(CONFIG)
    losses = [one.run_epoch() for one in (first, second, plain)]
    assert losses[0] == losses[1] > losses[2]
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
    assert len(first.link.rows) == 4
    with pytest.raises(ValueError, match="sampled_rows=20 are drawn from the LLM's table"):
        trainer(config)


def test_a_base_learns_cuts_of_its_texts_and_keeps_them_where_people_are_parted() -> None:
    from pipeline.runs.base_setup import with_cuts
    from stages.base import Corpus, examples_of
    from stages.base_parallel import _part

    tokenizer = tiny_tokenizer()
    pieces = short_pieces(tokenizer)
    texts = ["go home", "stop"]
    vocabulary = with_short_pieces(Vocabulary.of_texts(tokenizer, texts), pieces)
    frames = [np.zeros((40, 4), dtype=np.float16)] * 2
    targets = [vocabulary.rows_of(tokenizer, text).numpy() for text in texts]
    corpus = with_cuts(
        Corpus(["a", "b"], texts, frames, targets, ["ann", "bob"]), vocabulary, tokenizer, pieces, 1.0, 0
    )
    for example, text in zip(examples_of(corpus), texts, strict=True):
        assert len(example.cuts) == 4
        for cut in example.cuts:
            spelled = "".join(vocabulary.strings(tokenizer)[row] for row in cut)
            assert spelled.replace(" ", "") == text.replace(" ", "")
    [bobs] = examples_of(_part(corpus, {"bob"}))
    assert [cut.tolist() for cut in bobs.cuts] == [cut.tolist() for cut in corpus.cuts[1]]
    assert examples_of(Corpus(["a"], ["stop"], frames[:1], targets[1:]))[0].cuts == ()
