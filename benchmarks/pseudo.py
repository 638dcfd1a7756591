"""Pseudo-labels: how right they are, how many there are, and how good a base is that saw no human transcript.

Real people (AN4), split by speaker. The training speakers' transcripts are hidden; two teachers write them anew:
faster-whisper, and an adapter that learned from synthetic speech alone ("the current adapter"). What they agree on trains a
student; each further round's teacher is the current adapter taught the labels of the round before, and believed alone from a
lower confidence on. Every student begins at random weights and takes as many steps as the one that people teach; all are judged
on the unseen speakers.

Texts are compared as the cascade's are (``stages.text.fair_cascade``): who learned to write "rub out" from faster-whisper has
not misheard "rubout". WERs without that are told as well.

    make bench AREA=pseudo                              three seeds, about thirty minutes
    EDGEALIGN_PSEUDO_QUICK=1 make bench AREA=pseudo     whether it runs: figures of no worth, kept out of docs
"""

from __future__ import annotations

import logging
import os
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import corpora
from benchmarks.alignment import QUICK, Bench, Trained, speakers, train
from benchmarks.record import FOLDER, Figure, at_most, plain, write_area
from benchmarks.transcripts import Recording, spoken, transcripts
from stages.agreement import AgreementRules, Heard, agreed, unknown_words
from stages.alignment.metrics import word_errors
from stages.alignment.rescoring import Chooser
from stages.alignment.trainer import TrainConfig, read_out_all
from stages.atomic import sha256_file
from stages.audio import load_audio
from stages.examples import LabelledUtterance
from stages.second_labels import can_spell
from stages.text import fair_cascade, normalise

log = logging.getLogger("edgealign")

SEEDS = (0, 1, 2)
WHISPER, ADAPTER = "whisper", "adapter"
FIRST = AgreementRules()
"""Both must have heard the same."""
UNKNOWN_USERS = 3
"""As in params.yaml: users who must have said a word that the adapter cannot spell."""
ROUNDS = (
    ("second round", 5, AgreementRules(alone={ADAPTER: 0.95})),
    ("third round", 5, AgreementRules(alone={ADAPTER: 0.8})),
)
"""Name, epochs of its teacher, and rules. From the second round on the adapter has heard these speakers: where it is sure it is
believed alone. The third round's has heard their hard utterances as well, and what the rules before left out is what a student
lacks: nearly everything is taken then. Labels stay open to change: each round hears everything anew. Chosen by the labels of
the first seed's training speakers, never by a student; seven of ten judges of each other seed are among those speakers."""
TEMPO = 0.12
"""By how much what a round's teacher learns from is stretched and squeezed; students are as people's student is."""
LAST = ROUNDS[-1][0]

Labels = dict[str, str]
"""Texts by utterance."""


@dataclass(frozen=True)
class Size:
    """How much is run."""

    seeds: tuple[int, ...] = SEEDS
    train: int | None = None
    epochs: int = QUICK["epochs"]
    folder: Path = FOLDER


def size_asked() -> Size:
    """By the environment; see the module."""
    if not os.environ.get("EDGEALIGN_PSEUDO_QUICK"):
        return Size()
    return Size(SEEDS[:1], 40, 1, corpora.quick_folder())


def run() -> Path:
    """Measure everything and write docs/benchmarks/pseudo.json."""
    size, bench = size_asked(), Bench.open()
    items = corpora.an4()
    whisper = whisper_heard(bench)
    synthetic = corpora.synthetic()[: 10 * size.train if size.train else None]
    config = replace(bench.train_config(0), **{**QUICK, "epochs": size.epochs})
    current = train(bench, synthetic, items[: size.train], config)
    rounds = []
    for seed in size.seeds:
        training, unseen = speakers(items, seed)
        rounds.append(one_seed(bench, training[: size.train], unseen, whisper, current, replace(config, seed=seed)))
    return write_area("pseudo", figures(rounds, size.seeds), {}, size.folder)


def one_seed(
    bench: Bench,
    training: Sequence[LabelledUtterance],
    unseen: Sequence[LabelledUtterance],
    whisper: Mapping[str, Heard],
    current: Trained,
    config: TrainConfig,
) -> dict[str, Any]:
    """Labels and students of one split; what came of each, by name."""

    def student(labels: Labels) -> dict[str, float]:
        taught = [replace(item, text=labels[item.utterance]) for item in training if item.utterance in labels]
        if not taught:
            return {"accepted": 0.0, "label_wer": 0.0, "wer": 1.0, "strict_wer": 1.0}
        # as many steps as the one that people teach: fewer labels must not mean less training
        epochs = max(1, round(config.epochs * len(training) / len(taught)))
        said = [item.text for item in training if item.utterance in labels]
        made = train(bench, taught, unseen[:1], replace(config, epochs=epochs))
        found = hear(bench, made, unseen)
        asked, read = [item.text for item in unseen], [found[item.utterance].text for item in unseen]
        return {
            "accepted": len(taught) / len(training),
            "label_wer": fair_wer(said, [item.text for item in taught]),
            "wer": fair_wer(asked, read),
            "strict_wer": word_errors(asked, read).wer,
        }

    def labels_of(rules: AgreementRules, teacher: Trained, adapter: Mapping[str, Heard]) -> Labels:
        pairs = {item.utterance: (item.user, whisper[item.utterance], adapter[item.utterance]) for item in training}
        spells = can_spell(teacher.vocabulary.strings(bench.tokenizer), bench.tokenizer)
        rules = replace(rules, unknown=unknown_words(pairs.values(), spells, UNKNOWN_USERS))
        log.info("words that the adapter cannot spell: %s", ", ".join(sorted(rules.unknown)) or "none")
        found = {name: agreed([first, second], rules)[0] for name, (_, first, second) in pairs.items()}
        return {name: text for name, text in found.items() if text}

    heard = hear(bench, current, training)
    teachers, labels = {WHISPER: whisper, ADAPTER: heard}, {"two teachers": labels_of(FIRST, current, heard)}
    told = labels["two teachers"]
    for name, epochs, rules in ROUNDS:
        taught = [replace(item, text=told[item.utterance]) for item in training if item.utterance in told]
        if taught:
            schedule = replace(config, epochs=min(epochs, config.epochs), tempo=TEMPO)
            teacher = train(bench, taught, unseen[:1], schedule, current)
            heard = hear(bench, teacher, training)
            told = labels_of(rules, teacher, heard)
        teachers[f"{ADAPTER}, {name}"], labels[name] = heard, told
    texts = [item.text for item in training]
    return {
        "teachers": {
            name: fair_wer(texts, [by[item.utterance].text for item in training]) for name, by in teachers.items()
        },
        "human": student({item.utterance: item.text for item in training}),
        "whisper alone": student({name: one.text for name, one in whisper.items() if one.text}),
        "adapter alone": student({name: one.text for name, one in teachers[ADAPTER].items() if one.text}),
        **{name: student(one) for name, one in labels.items()},
    }


def fair_wer(references: Sequence[str], texts: Sequence[str]) -> float:
    """Word error rate of each text in the reading that is nearest to its reference."""
    return word_errors(references, [fair_cascade(*pair) for pair in zip(references, texts, strict=True)]).wer


def hear(
    bench: Bench, base: Trained, items: Sequence[LabelledUtterance], chooser: Chooser | None = None
) -> dict[str, Heard]:
    """What an adapter reads out of utterances; ``chooser`` reads again what is unsure."""
    frames = [bench_frames(item) for item in items]
    found = read_out_all(base.trainer.bridge, bench.link(base.vocabulary), frames, chooser=chooser)
    return {
        item.utterance: Heard(ADAPTER, normalise(base.vocabulary.text_of(bench.tokenizer, one.rows)), one.confidence)
        for item, one in zip(items, found, strict=True)
    }


def bench_frames(item: LabelledUtterance) -> Any:
    """(T, F) float32."""
    import torch

    return torch.from_numpy(item.frames.astype("float32"))


def whisper_heard(bench: Bench, asked: Collection[str] | None = None) -> dict[str, Heard]:
    """What faster-whisper hears in AN4's recordings, those that are ``asked`` for or all, in spoken form."""
    recordings = corpora.an4_recordings()
    key = [[name, sha256_file(path)] for name, _, _, path in recordings]

    def listed() -> list[Recording]:
        return [(name, partial(load_audio, path, path.name)) for name, _, _, path in recordings]

    names = [name for name, *_ in recordings if asked is None or name in asked]
    heard = transcripts(bench, "an4", key, names, listed)
    return {name: Heard(WHISPER, spoken(text), score, text) for name, (text, score) in heard.items()}


def figures(rounds: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[Figure]:
    """Means over the seeds; the ratio that was asked for is that of the means."""

    def mean(of: Callable[[Mapping[str, Any]], float]) -> float:
        return statistics.mean(of(one) for one in rounds)

    def by_seed(of: Callable[[Mapping[str, Any]], float]) -> str:
        return f"by seed: {[round(of(one), 4) for one in rounds]}"

    human = mean(lambda one: one["human"]["wer"])
    last = mean(lambda one: one[LAST]["wer"])
    note = f"WER on unseen speakers {last:.4f} from pseudo-labels only ({LAST}), {human:.4f} from human labels"
    found = [at_most("pseudo_over_human_wer", last / human if human else 1.0, 1.5, "", seeds=seeds, note=note)]
    strict = {name: statistics.mean(one[name]["strict_wer"] for one in rounds) for name in (LAST, "human")}
    note = f'"rub out" for "rubout" counted as two errors: {strict[LAST]:.4f} and {strict["human"]:.4f}'
    ratio = strict[LAST] / strict["human"] if strict["human"] else 1.0
    found.append(plain("pseudo_over_human_wer_strict", ratio, "", seeds=seeds, note=note))
    for name in (name for name in rounds[0] if name != "teachers"):
        key = name.replace(" ", "_")
        for field, unit in (("wer", ""), ("accepted", "share of the utterances"), ("label_wer", "")):
            if name == "human" and field != "wer":
                continue

            def of(one: Mapping[str, Any], name: str = name, field: str = field) -> float:
                return float(one[name][field])

            found.append(plain(f"{key}_{field}", mean(of), unit, seeds=seeds, note=by_seed(of)))
    for name in rounds[0]["teachers"]:

        def wer(one: Mapping[str, Any], name: str = name) -> float:
            return float(one["teachers"][name])

        key = name.replace(", ", "_").replace(" ", "_")
        found.append(
            plain(f"teacher_wer_{key}", mean(wer), "", seeds=seeds, note=f"on the training speakers; {by_seed(wer)}")
        )
    return found
