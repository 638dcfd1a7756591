"""Words that no training has said: what a read-out makes of them, and what helps.

A base learns from synthetic requests on the tokens of their texts, as the base stage does; a speller learns letters from the
same recordings and from words of the LLM's table that the same voices read. Unseen voices judge them on three sets: sentences
of known words (the control: whatever helps must not harm here), sentences in which every word is unseen, and requests with an
unseen name, without and with the names listed (`edgealign words add`).

    make bench AREA=words                            about half an hour
    EDGEALIGN_WORDS_ALL=1 make bench AREA=words      two bases that did not help beside it
    EDGEALIGN_WORDS_QUICK=1 make bench AREA=words    whether it runs: figures of no worth, kept out of docs
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks import assistant_requests, corpora, open_words, words_spelled
from benchmarks.alignment import QUICK, Bench
from benchmarks.assistant import encoded_requests
from benchmarks.record import FOLDER, Figure, plain, write_area
from benchmarks.taught import Taught, teach
from benchmarks.words_spelled import Sets
from stages.alignment.embedlink import EmbedLink
from stages.alignment.metrics import ErrorCounts, word_errors
from stages.alignment.pieces import cuts_of, listen_for, short_pieces, with_short_pieces
from stages.alignment.spotting import ListedWords
from stages.alignment.trainer import TrainConfig, read_out_all
from stages.alignment.vocabulary import Vocabulary
from stages.examples import LabelledUtterance
from stages.models.llm import embedding_rows

SAMPLED_ROWS = 512
CUT_SHARE = 0.3
BOOSTS = (0.5, 1.0, 2.0)
MORE = (("sampled", SAMPLED_ROWS, False), ("pieces", SAMPLED_ROWS, True))
"""Name, rows sampled, and whether words are cut."""
CONTROL_EVERY = 2  # requests of the assistant benchmark: one of two


@dataclass(frozen=True)
class Size:
    """How much is run."""

    training: int | None = None
    epochs: int = QUICK["epochs"]
    speller_epochs: int = 5
    lexicon_each: int = 30
    each: int = open_words.UTTERANCES_EACH
    folder: Path = FOLDER


def size_asked() -> Size:
    """By the environment; see the module."""
    if os.environ.get("EDGEALIGN_WORDS_QUICK"):
        return Size(60, 1, 1, 1, 1, corpora.quick_folder())
    return Size()


def run() -> Path:
    """Measure everything and write docs/benchmarks/words.json."""
    size, bench = size_asked(), Bench.open()
    training = [*corpora.synthetic(), *encoded_requests("assistant-training", assistant_requests.training())]
    taught = {word for item in training for word in item.text.split()}
    unseen, named = open_words.disjoint(size.each), open_words.with_names(size.each)
    open_words.unseen_only(unseen, taught)
    assert not taught & set(open_words.UNSEEN_NAMES)
    sets = Sets(
        encoded_requests("assistant-judging", assistant_requests.judging()[0])[::CONTROL_EVERY],
        encoded_requests("open-words", unseen),
        encoded_requests("open-names", named),
    )
    training = training[: size.training]
    config = replace(bench.train_config(0), **{**QUICK, "epochs": size.epochs})
    table = embedding_rows(bench.llm, None)
    figures: list[Figure] = []
    arms = MORE if os.environ.get("EDGEALIGN_WORDS_ALL") else ()
    for name, sampled, cut in (("tokens", 0, False), *arms):
        base = teach_words(bench, training, replace(config, sampled_rows=sampled), cut, table)
        figures += judged(bench, base, sets, name, table)
        if name == "tokens":
            speller = words_spelled.teach_speller(bench, training, size.speller_epochs, size.lexicon_each)
            figures += words_spelled.judged(bench, base, speller, sets)
    return write_area("words", figures, {}, size.folder)


def teach_words(
    bench: Bench, training: Sequence[LabelledUtterance], config: TrainConfig, cut: bool, table: torch.Tensor
) -> Taught:
    """A base; with ``cut``, its vocabulary has every short piece, and its words are cut into them now and then."""
    vocabulary = Vocabulary.of_texts(bench.tokenizer, [item.text for item in training])
    pieces = short_pieces(bench.tokenizer) if cut else {}
    vocabulary = with_short_pieces(vocabulary, pieces)
    examples = bench.examples(training, vocabulary)
    if cut:
        draw = np.random.default_rng(config.seed)
        examples = [
            replace(
                example,
                cuts=tuple(
                    torch.tensor(cut)
                    for cut in cuts_of(bench.tokenizer, vocabulary, example.text, pieces, CUT_SHARE, draw)
                ),
            )
            for example in examples
        ]
    return teach(bench, "words", examples, vocabulary, config, table=table)


def judged(bench: Bench, base: Taught, sets: Sets, name: str, table: torch.Tensor) -> list[Figure]:
    """One base's figures."""
    full = Vocabulary(tuple(range(len(table))))
    told = [plain(f"train_seconds_{name}", base.seconds, "s", note=f"{len(base.vocabulary)} rows")]
    for which, items in (("known", sets.known), ("unseen", sets.unseen)):
        for rows, vocabulary in (
            ("own_rows", base.vocabulary),
            ("rows_added", base.vocabulary.grown(bench.tokenizer, [item.text for item in items])),
            ("full_table", full),
        ):
            start = time.perf_counter()
            link = EmbedLink(table[list(vocabulary.ids)])
            prepared = time.perf_counter()
            errors, texts = _errors(bench, base, vocabulary, items, link)
            each = (time.perf_counter() - prepared) / len(items)
            note = (
                f"CER {errors.cer:.3f}; {errors.words} words; {1e3 * each:.1f} ms an utterance, "
                f"{prepared - start:.2f} s once for {len(vocabulary)} rows; "
            )
            note += f"such as “{texts[0]}” for “{items[0].text}”"
            told.append(plain(f"wer_{which}_words_{name}_{rows}", errors.wer, "", note=note))
    names = sorted({*open_words.UNSEEN_NAMES})
    for boost in (None, *BOOSTS):
        vocabulary, listed = listen_for(base.vocabulary, bench.tokenizer, names if boost else [], boost or 0.0)
        link = EmbedLink(table[list(vocabulary.ids)])
        errors, texts = _errors(bench, base, vocabulary, sets.names, link, listed)
        found = statistics.mean(
            bool(set(item.text.split()) & set(text.split()) & set(names))
            for item, text in zip(sets.names, texts, strict=True)
        )
        control, control_texts = _errors(bench, base, vocabulary, sets.known, link, listed)
        alarms = sum(bool(set(text.split()) & set(names)) for text in control_texts)
        key = f"boost_{boost:g}" if boost else "no_list"
        note = (
            f"{len(sets.names)} requests, {len(names)} names; WER of the whole request {errors.wer:.3f}; control: WER "
            f"{control.wer:.3f}, {alarms} of {len(sets.known)} sentences with a name that nobody said"
        )
        told.append(plain(f"names_found_{name}_{key}", found, "share", note=note))
    return told


def _errors(
    bench: Bench,
    base: Taught,
    vocabulary: Vocabulary,
    items: Sequence[LabelledUtterance],
    link: EmbedLink,
    words: ListedWords | None = None,
) -> tuple[ErrorCounts, list[str]]:
    frames = [torch.from_numpy(item.frames.astype(np.float32)) for item in items]
    outputs = read_out_all(base.bridge, link, frames, words=words)
    texts = [vocabulary.text_of(bench.tokenizer, output.rows) for output in outputs]
    return word_errors([item.text for item in items], texts), texts
