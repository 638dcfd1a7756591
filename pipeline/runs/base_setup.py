"""What a base training stands on: who trains, who judges, and both as plain data for a device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.runs.common import Context, log
from stages.errors import InputError


@dataclass(frozen=True)
class Split:
    """The labelled utterances of the base cohorts (``stages.examples.LabelledUtterance``), people apart."""

    training: list[Any]
    judging: list[Any]  # human transcripts alone
    held_out: frozenset[str]  # people who judge, as COHORT/USER: nothing of theirs is ever learned from
    reserved: frozenset[tuple[str, str]] = frozenset()  # (cohort, utterance): what judges personal adapters, see there


def person(item: Any) -> str:
    """Whose utterance it is, in all cohorts."""
    return f"{item.cohort}/{item.user}"


def speaker(item: Any) -> str:
    """Who is heard: a person, or a synthetic voice, which is the same one in every cohort that it speaks."""
    from pipeline.cohorts.demo import BASE_COHORT, base_voice

    voice = base_voice(item.user)
    return f"{BASE_COHORT}/{voice}" if voice else person(item)


def split_people(context: Context) -> Split:
    """Who trains and who judges, speakers apart. Raises InputError where there is nothing to learn."""
    labelled, theirs = _labelled_and_held_out(context)
    if not labelled:
        raise InputError("base: no utterance of the base cohorts has both features and an accepted label")
    reserved = frozenset(key for cohort in context.settings.base_cohorts for key in reserved_of(context, cohort))
    held_out = frozenset(map(person, theirs))
    training = [
        item for item in labelled if person(item) not in held_out and (item.cohort, item.utterance) not in reserved
    ]
    if not training:
        raise InputError(
            "base: every utterance of the base cohorts judges a personal adapter, none is left to learn from. Take the "
            "cohorts out of personal_cohorts in params.yaml, or record more."
        )
    return Split(training, _human(theirs), held_out, reserved)


def judging_people(context: Context) -> list[Any]:
    """What judges the base: the same utterances as ``split_people``'s, also where the base was trained elsewhere."""
    return _human(_labelled_and_held_out(context)[1])


def _labelled_and_held_out(context: Context) -> tuple[list[Any], list[Any]]:
    """Every labelled utterance of the base cohorts, and those of them whose speakers are held out."""
    from stages.alignment.splits import hold_out_users
    from stages.features import read_features

    settings = context.settings
    labelled = load_labelled(context, settings.base_cohorts, read_features, use="base")
    held_out = hold_out_users({speaker(item) for item in labelled}, settings.base.dev_users, settings.base.seed)
    return labelled, [item for item in labelled if speaker(item) in held_out]


def _human(items: Sequence[Any]) -> list[Any]:
    """What people transcribed: what the transcriber wrote judges nobody, neither epochs and rounds nor personal adapters."""
    return [item for item in items if item.source == "human"]


def most_judging(context: Context, cohort: str) -> int | None:
    """How many of a user's utterances judge the personal adapter at most; None: all that do not train it.

    Where the cohort trains the base as well, what judges is no part of that either: as many as train, and the base keeps the
    others.
    """
    settings = context.settings
    both = cohort in settings.base_cohorts and cohort in settings.personal_cohorts
    return settings.personalize.train_utterances if both else None


def reserved_of(context: Context, cohort: str) -> set[tuple[str, str]]:
    """(cohort, utterance) of what judges the users' personal adapters, and of what says the same in the user's own voice.

    Empty where the cohort's users get none. The first labels tell it as the second ones do later: people's transcripts judge,
    and these are the same in both.
    """
    from stages.alignment.splits import split_utterances
    from stages.examples import by_user, join
    from stages.features import read_features
    from stages.schema import LABELS, read_table

    judge, settings = most_judging(context, cohort), context.settings.personalize
    if judge is None:
        return set()
    features = read_features(context.project.features(cohort))
    labels = read_table(context.project.labels(cohort), LABELS)
    recorded = Counter(features.column("user").to_pylist())  # labelled or not: the second teacher may label more
    found = set()
    for user, said in by_user(join(features, labels, "personal")).items():
        if recorded[user] < settings.min_utterances:
            continue  # no adapter, so nothing to judge
        texts = {item.utterance: item.text for item in said}
        human = [item.utterance for item in said if item.source == "human"]
        _, held_out = split_utterances(human, texts, settings.train_utterances, settings.seed, judge)
        judged = {texts[name] for name in held_out}
        found |= {(item.cohort, item.utterance) for item in said if item.text in judged}
    return found


def prepare(context: Context, split: Split, training: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
    """The setup of a training on ``training``, judged by ``split``'s people, and the facts that it stands on.

    Raises InputError where a setting asks for more than the LLM's table has.
    """
    from pipeline.runs.configs import bridge_config, train_config
    from stages.alignment.pieces import short_pieces, with_short_pieces
    from stages.alignment.vocabulary import Vocabulary
    from stages.base import BaseSetup
    from stages.models.identity import read_identity
    from stages.models.llm import embedding_rows, load_tokenizer

    project, settings = context.project, context.settings
    encoder, llm = read_identity(project.encoder), read_identity(project.llm)
    tokenizer = load_tokenizer(project.llm)
    # rows come from the training texts alone: a word that only held-out users say counts as an error, as it would in use
    vocabulary = Vocabulary.of_texts(tokenizer, [item.text for item in training])
    pieces = short_pieces(tokenizer) if settings.alignment.cut_words else {}
    vocabulary = with_short_pieces(vocabulary, pieces)
    corpus = corpus_of(training, vocabulary, tokenizer)
    if pieces:
        corpus = with_cuts(corpus, vocabulary, tokenizer, pieces, settings.alignment.cut_words, settings.base.seed)
    setup = BaseSetup(
        bridge=bridge_config(settings, encoder.width, llm.width),
        train=train_config(settings),
        training=corpus,
        held_out=corpus_of(split.judging, vocabulary, tokenizer, with_targets=False),
        rows=embedding_rows(project.llm, vocabulary.ids).numpy(),
        tokens=vocabulary.strings(tokenizer),
        table=_table(context),
    )
    people = len({person(item) for item in training})
    facts = {
        "encoder": str(encoder),
        "llm": str(llm),
        "vocabulary_size": len(vocabulary),
        "training_users": people,
        "held_out_users": sorted(split.held_out),
        "reserved_utterances": len(split.reserved),
        "alignment": settings.alignment.model_dump(),
    }
    if split.reserved:
        log.info(
            "base: %d utterances judge the personal adapters of their users and train nothing", len(split.reserved)
        )
    log.info(
        "base: %d utterances of %d users train, %d of %d users judge, %d rows of the embedding table",
        *(len(training), people, len(split.judging), len(split.held_out), len(vocabulary)),
    )
    return setup, {**facts, "vocabulary": list(vocabulary.ids)}


def prepare_speller(
    context: Context, split: Split, training: Sequence[Any], bridge: Any, of_base: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The setup of a speller on what its base trains on, and the facts that it stands on.

    ``bridge``, ``of_base``: the base's BridgeFormerConfig and facts. Texts with a sign that is no letter are left out and
    counted. Raises InputError where there is no other.
    """
    from pipeline.runs.configs import speller_bridge_config, speller_train_config
    from stages.alignment.spelling import letter_tokens
    from stages.alignment.vocabulary import Vocabulary
    from stages.base import BaseSetup
    from stages.models.llm import embedding_rows, load_tokenizer

    project, settings = context.project, context.settings
    tokenizer = load_tokenizer(project.llm)
    letters = letter_tokens(tokenizer)
    vocabulary = Vocabulary(tuple(sorted(letters.values())))
    corpus = spelled_corpus(training, vocabulary, letters)
    cannot = len(training) - len(corpus.utterances)
    if not corpus.utterances:
        raise InputError(
            f"base.speller: none of {len(training)} training text(s) can be spelled with the {len(letters)} letters of the "
            "LLM's table, needed at least one of a to z alone. Set base.speller to false in params.yaml."
        )
    setup = BaseSetup(
        bridge=speller_bridge_config(bridge),
        train=speller_train_config(settings),
        training=corpus,
        held_out=spelled_corpus(split.judging, vocabulary, None),
        rows=embedding_rows(project.llm, vocabulary.ids).numpy(),
        tokens=vocabulary.strings(tokenizer),
    )
    log.info(
        "speller: %d utterances train, %d are left out since their texts cannot be spelled, %d rows of the embedding table",
        *(len(corpus.utterances), cannot, len(vocabulary)),
    )
    kept = {name: of_base[name] for name in ("encoder", "llm", "held_out_users", "alignment")}
    return setup, {
        **kept,
        "vocabulary_size": len(vocabulary),
        "cannot_spell": cannot,
        "vocabulary": list(vocabulary.ids),
    }


def spelled_corpus(items: Sequence[Any], vocabulary: Any, letters: dict[str, int] | None) -> Any:
    """Those of the labelled utterances that can be spelled; without ``letters`` all, without targets. Apostrophes go."""
    from stages.alignment.spelling import spelled_text
    from stages.base import Corpus

    found = Corpus([], [], [], [])
    for item in items:
        try:
            tokens = [] if letters is None else spelled_text(item.text, letters)
        except KeyError:
            continue
        if letters is not None and not tokens:
            continue
        found.utterances.append(item.utterance)
        found.texts.append(item.text.replace("'", ""))
        found.frames.append(item.frames)
        found.targets.append(np.array([vocabulary.place_of(token) for token in tokens], dtype=np.int64))
        found.users.append(person(item))
    return found


def _table(context: Context) -> np.ndarray | None:
    """(T, D) float16, the LLM's whole table, where rows are drawn from it; half as much to send as float32."""
    from stages.models.llm import embedding_rows

    asked = context.settings.alignment.sampled_rows
    if not asked:
        return None
    table = embedding_rows(context.project.llm, None).numpy().astype(np.float16)
    if asked > len(table):
        raise InputError(
            f"params.yaml: alignment.sampled_rows is {asked}, but the LLM's table has {len(table)} rows. Lower it."
        )
    return table


def with_cuts(corpus: Any, vocabulary: Any, tokenizer: Any, pieces: Any, share: float, seed: int) -> Any:
    """A ``stages.base.Corpus`` with other targets of each text, in which some words are cut into short pieces."""
    from dataclasses import replace

    from stages.alignment.pieces import cuts_of

    draw = np.random.default_rng(seed)
    cuts = [
        [np.array(cut, dtype=np.int64) for cut in cuts_of(tokenizer, vocabulary, text, pieces, share, draw)]
        for text in corpus.texts
    ]
    return replace(corpus, cuts=cuts)


def load_labelled(context: Context, cohorts: list[str], read_features: Any, use: str = "personal") -> list[Any]:
    """Every utterance of ``cohorts`` with features and an accepted label that the user's consent allows for ``use``.

    The base learns from the first labels, as it is the second teacher itself; personal adapters from the second ones.
    """
    from stages.examples import join
    from stages.schema import LABELS, read_table

    found = []
    for cohort in cohorts:
        path = context.project.labels(cohort) if use == "base" else context.project.second_labels(cohort)
        labels = read_table(path, LABELS)
        found += join(read_features(context.project.features(cohort)), labels, use)
    return found


def corpus_of(items: Sequence[Any], vocabulary: Any, tokenizer: Any, with_targets: bool = True) -> Any:
    """Labelled utterances as arrays for a worker; without targets where they only judge."""
    from stages.base import Corpus

    empty = np.zeros(0, dtype=np.int64)
    return Corpus(
        [item.utterance for item in items],
        [item.text for item in items],
        [item.frames for item in items],
        [vocabulary.rows_of(tokenizer, item.text).numpy() if with_targets else empty for item in items],
        [person(item) for item in items],
    )
