"""The speller's part of the open-vocabulary benchmark: letters learned, and one reading of words and letters."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks import open_words
from benchmarks.alignment import QUICK, Bench
from benchmarks.assistant import encoded_requests
from benchmarks.assistant_requests import MORE_VOICES, more_training
from benchmarks.record import Figure, plain
from benchmarks.taught import Taught, teach
from pipeline.cohorts.demo import base_voices
from pipeline.cohorts.espeak import Voice
from pipeline.cohorts.lexicon import WORDS, lexicon_users
from pipeline.runs.configs import SPELLER_TEMPO, speller_bridge_config
from stages.alignment.embedlink import EmbedLink
from stages.alignment.metrics import word_errors
from stages.alignment.spelling import Lexicon, SpellingRules, letter_tokens, one_reading, spelled_text, words_of_table
from stages.alignment.trainer import Example, read_out_all
from stages.alignment.vocabulary import Vocabulary
from stages.examples import LabelledUtterance
from stages.models.llm import embedding_rows


@dataclass(frozen=True)
class Sets:
    """What judges."""

    known: list[LabelledUtterance]
    unseen: list[LabelledUtterance]
    names: list[LabelledUtterance]


def teach_speller(bench: Bench, training: Sequence[LabelledUtterance], epochs: int, lexicon_each: int) -> Taught:
    """Letters from ``training``, from more voices' requests, and from words of the LLM's table, those apart that judge."""
    letters = letter_tokens(bench.tokenizer)
    vocabulary = Vocabulary(tuple(sorted(set(letters.values()))))
    judging = {word for user in open_words.disjoint() for one in user.speeches for word in one.sentence.text.split()}
    judging |= set(open_words.UNSEEN_NAMES)
    words = [word for word in words_of_table(bench.tokenizer) if word not in judging][:WORDS]
    voices = base_voices() | {f"u{place:02d}": Voice(name) for place, name in enumerate(MORE_VOICES)}
    spoken = encoded_requests("lexicon", lexicon_users(words, lexicon_each, voices=voices))
    items = [*training, *encoded_requests("assistant-more", more_training())[: len(training)], *spoken]
    taught = {word for item in items for word in item.text.split()}
    open_words.unseen_only(open_words.disjoint(), taught)
    assert not taught & set(open_words.UNSEEN_NAMES)
    examples = [
        Example(
            item.utterance,
            torch.from_numpy(item.frames.astype(np.float32)),
            torch.tensor([vocabulary.place_of(token) for token in spelled_text(item.text, letters)]),
            item.text,
        )
        for item in items
    ]
    config = replace(
        bench.train_config(0), **{**QUICK, "epochs": epochs, "embedding_weight": 0.0, "tempo": SPELLER_TEMPO}
    )
    return teach(bench, "speller", examples, vocabulary, config, speller_bridge_config(bench.bridge))


def _read(bench: Bench, base: Taught, items: Sequence[LabelledUtterance]) -> list[str]:
    link = EmbedLink(embedding_rows(bench.llm, base.vocabulary.ids))
    frames = [torch.from_numpy(item.frames.astype(np.float32)) for item in items]
    return [base.vocabulary.text_of(bench.tokenizer, one.rows) for one in read_out_all(base.bridge, link, frames)]


def judged(bench: Bench, base: Taught, speller: Taught, sets: Sets) -> list[Figure]:
    """Letters alone, and one reading of words and letters, with and without the names listed."""
    table = words_of_table(bench.tokenizer)
    names, rules = sorted({*open_words.UNSEEN_NAMES}), SpellingRules()
    plain_lexicon, with_names = Lexicon(table), Lexicon(table, names)
    told = [plain("train_seconds_speller", speller.seconds, "s", note=f"{len(speller.vocabulary)} rows, 25 Hz")]
    for which, items in (("known", sets.known), ("unseen", sets.unseen), ("named", sets.names)):
        said = [item.text for item in items]
        words, letters = _read(bench, base, items), _read(bench, speller, items)
        alone = word_errors(said, letters)
        note = f"WER {alone.wer:.3f} of the same letters; such as “{letters[0]}” for “{said[0]}”"
        told.append(plain(f"cer_{which}_words_spelled", alone.cer, "", note=note))
        joined = [one_reading(*pair, plain_lexicon, rules) for pair in zip(words, letters, strict=True)]
        errors = word_errors(said, joined)
        inside = statistics.mean(word in set(table) for text in said for word in text.split())
        note = (
            f"CER {errors.cer:.3f}; words and letters in one reading, spellings corrected to words of the LLM's table, which "
            f"has {inside:.2f} of these words; such as “{joined[0]}” for “{said[0]}”"
        )
        told.append(plain(f"wer_{which}_words_one_reading", errors.wer, "", note=note))
        if which == "unseen":
            continue
        joined = [one_reading(*pair, with_names, rules) for pair in zip(words, letters, strict=True)]
        errors = word_errors(said, joined)
        if which == "named":
            found = statistics.mean(
                bool(set(text.split()) & set(heard.split()) & set(names))
                for text, heard in zip(said, joined, strict=True)
            )
            note = f"{len(said)} requests, {len(names)} names listed; WER of the whole request {errors.wer:.3f}"
            told.append(plain("names_found_one_reading", found, "share", note=note))
        else:
            alarms = sum(bool(set(text.split()) & set(names)) for text in joined)
            note = f"{alarms} of {len(said)} sentences with a name that nobody said; WER {errors.wer:.3f} with the names listed"
            told.append(plain("names_imagined_one_reading", alarms / len(said), "share", note=note))
    return told
