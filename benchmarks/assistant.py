"""The LLM understands, not only repeats: spoken requests, by voices never heard, in sentences never said.

The same requests reach the frozen LLM three ways, in the very same prompts: as soft tokens (audio; of unsure readings the LLM
chooses one, see ``stages.alignment.rescoring``), as faster-whisper's transcript (cascade), and as the reference text. Its
replies to the first two are compared with those to the third (``response_agreement``, ``response_kl``), and the intents that it
names with the true ones; with the instruction before what was said and after it. The base learns from the demo's base cohort
and from other requests, of the same voices and of more.

Speech is synthetic (eSpeak NG) throughout: the base has learned from such voices, faster-whisper has not.

    make bench AREA=assistant                              about twenty minutes
    EDGEALIGN_ASSISTANT_QUICK=1 make bench AREA=assistant  whether it runs: figures of no worth, kept out of docs
"""

from __future__ import annotations

import logging
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks import assistant_requests as wanted
from benchmarks import corpora
from benchmarks.alignment import Bench
from benchmarks.record import FOLDER, Figure, at_least, plain, write_area
from benchmarks.taught import teach
from benchmarks.transcripts import Recording, spoken, transcripts
from pipeline.cohorts.demo import DemoUser, speak_cohort
from stages.alignment import injection
from stages.alignment.intents import intent_scores, named, preferred_anyway
from stages.alignment.metrics import response_agreement, word_errors
from stages.alignment.rescoring import Chooser, Rescorer
from stages.alignment.vocabulary import Vocabulary
from stages.atomic import sha256_json
from stages.audio import load_audio
from stages.examples import LabelledUtterance
from stages.models.llm import load_llm
from stages.shards import ShardItem
from stages.text import fair_cascade

log = logging.getLogger("edgealign")

SIDES = ("audio", "cascade", "text")
ALONE = "audio_alone"
"""Audio again, read without the LLM's opinion of unsure readings, in the order that is used."""
ORDERS: tuple[injection.Order, ...] = ("instruction_first", "instruction_last")
TEMPO = 0.12
"""By how much what the base learns from is stretched and squeezed: see docs/notes.md, "Tempo"."""
USED: injection.Order = "instruction_first"
"""The order of the product's prompts, for the figure that was asked for."""


@dataclass(frozen=True)
class Size:
    """How much is run."""

    training_each: int = wanted.TRAINING_EACH
    judging_each: int = wanted.JUDGING_EACH
    more_voices: int | None = None
    synthetic: int | None = None
    epochs: int | None = None  # None: those of params.yaml
    folder: Path = FOLDER


def size_asked() -> Size:
    """By the environment; see the module."""
    if os.environ.get("EDGEALIGN_ASSISTANT_QUICK"):
        return Size(2, 2, 1, 60, 1, corpora.quick_folder())
    return Size()


def run() -> Path:
    """Measure everything and write docs/benchmarks/assistant.json."""
    size, bench = size_asked(), Bench.open()
    users, requests = wanted.judging(size.judging_each)
    learned = encoded_requests("assistant-training", wanted.training(size.training_each))
    judged = sorted(encoded_requests("assistant-judging", users), key=lambda item: item.utterance)
    requests = sorted(requests, key=lambda one: one.utterance)
    assert [one.utterance for one in requests] == [item.utterance for item in judged]
    more = encoded_requests("assistant-more", wanted.more_training(size.training_each)[: size.more_voices])
    training = [*corpora.synthetic()[: size.synthetic], *learned, *more]
    vocabulary = Vocabulary.of_texts(bench.tokenizer, [item.text for item in training])
    config = replace(bench.train_config(0), tempo=TEMPO)
    config = replace(config, epochs=size.epochs or config.epochs)
    base = teach(bench, "assistant", bench.examples(training, vocabulary), vocabulary, config)
    model, tokenizer = load_llm(bench.llm)
    chooser = Chooser(Rescorer(model, tokenizer), base.vocabulary.ids)
    heard = {
        "audio": bench.heard(base.bridge, base.vocabulary, judged, chooser),
        ALONE: bench.heard(base.bridge, base.vocabulary, judged),
    }
    said = _cascade(bench, users)
    texts = {side: [text for text, _ in found] for side, found in heard.items()}
    texts |= {"cascade": [said[one.utterance] for one in requests], "text": [one.text for one in requests]}
    tokens: dict[str, list[Tensor]] = {side: [soft for _, soft in found] for side, found in heard.items()}
    for side in ("cascade", "text"):
        written = [spoken(text) if side == "cascade" else text for text in texts[side]]
        tokens[side] = [injection.embed_text(model, tokenizer, text) for text in written]
    settings = bench.settings.evaluate
    found = {}
    for order in ORDERS:
        sides = (*SIDES, ALONE) if order == USED else SIDES
        found[order] = ask(model, tokenizer, {side: tokens[side] for side in sides}, requests, settings, order)
    return write_area("assistant", figures(texts, found, requests), {}, size.folder)


def ask(
    model: Any,
    tokenizer: Any,
    tokens: Mapping[str, Sequence[Tensor]],
    requests: Sequence[wanted.Request],
    settings: Any,
    order: injection.Order,
) -> dict[str, dict[str, Any]]:
    """By side: ``replies``, ``kl`` against the replies to the text, and ``intents`` as the LLM named them, with and without
    calibration."""
    replies = {}
    for side, items in tokens.items():
        prompts = [injection.answer_prompt(model, tokenizer, item, settings.instruction, order) for item in items]
        replies[side] = injection.generate_replies(model, tokenizer, prompts, settings.max_new_tokens)
        log.info("%s, %s: %d replies, such as %r to %r", order, side, len(items), replies[side][0], requests[0].text)
    found: dict[str, dict[str, Any]] = {}
    preferred = preferred_anyway(model, tokenizer, wanted.EXAMPLES, order)
    for side, items in tokens.items():
        scores = intent_scores(model, tokenizer, items, wanted.EXAMPLES, order)
        found[side] = {
            "replies": replies[side],
            "kl": injection.mean_response_kl(
                model, tokenizer, items, tokens["text"], replies["text"], settings.instruction, order
            ),
            "intents": named(scores - preferred, wanted.EXAMPLES),
            "uncalibrated": named(scores, wanted.EXAMPLES),
        }
    return found


def figures(
    texts: Mapping[str, Sequence[str]],
    found: Mapping[injection.Order, Mapping[str, Mapping[str, Any]]],
    requests: Sequence[wanted.Request],
) -> list[Figure]:
    """What was asked first, then each side under each order."""
    said = [one.text for one in requests]
    used = found[USED]
    agreement = {side: response_agreement(used["text"]["replies"], used[side]["replies"]) for side in used}
    wer = {
        side: word_errors(said, _kindest(said, texts[side]) if side == "cascade" else texts[side]).wer for side in used
    }
    voices = len({one.utterance.split("-")[0] for one in requests})
    note = (
        f"{len(requests)} requests of {voices} unseen synthetic voices; ROUGE-L "
        f"of replies to audio against those to the text, whose own is 1; cascade {agreement['cascade']:.3f}; {USED}"
    )
    told = [at_least("response_agreement", agreement["audio"] / agreement["text"], 0.9, "", note=note)]
    right = [one for place, one in enumerate(requests) if texts["audio"][place] == one.text]
    note = f"{len(right)} of {len(requests)} requests read without an error"
    told.append(plain("wer_audio", wer["audio"], "", note=note))
    if ALONE in used:
        note = f"the adapter alone: without the LLM's opinion of unsure readings; agreement {agreement[ALONE]:.4f}"
        told.append(plain("wer_audio_alone", wer[ALONE], "", note=note))
    told.append(plain("wer_cascade", wer["cascade"], "", note="its transcript in the reading kindest to it"))
    for order, sides in found.items():
        for side, one in sides.items():
            name = f"{side}_{order}"
            if side != "text":
                scored = response_agreement(sides["text"]["replies"], one["replies"])
                told.append(plain(f"response_agreement_{name}", scored, ""))
                told.append(plain(f"response_kl_{name}", one["kl"], "nats a token"))
            commands = [place for place, item in enumerate(requests) if item.intent in wanted.DEVICE_COMMANDS]
            everything = range(len(requests))
            note = (
                f"one of {len(wanted.EXAMPLES)}; of the {len(commands)} device commands alone "
                f"{_accuracy(one['intents'], requests, commands):.3f}; without calibration "
                f"{_accuracy(one['uncalibrated'], requests, everything):.3f}"
            )
            told.append(
                plain(f"intent_accuracy_{name}", _accuracy(one["intents"], requests, everything), "", note=note)
            )
    return told


def _accuracy(intents: Sequence[str], requests: Sequence[wanted.Request], places: Sequence[int]) -> float:
    return statistics.mean(intents[place] == requests[place].intent for place in places) if places else 0.0


def _kindest(said: Sequence[str], heard: Sequence[str]) -> list[str]:
    return [fair_cascade(reference, text) for reference, text in zip(said, heard, strict=True)]


def _key(users: Sequence[DemoUser]) -> str:
    return sha256_json([asdict(user) for user in users])


def _samples(item: ShardItem) -> Any:
    return load_audio(item.audio, item.utterance)


def encoded_requests(name: str, users: list[DemoUser]) -> list[LabelledUtterance]:
    """What voices say, as frames of the packaged encoder: computed once."""
    spoken = ((item.utterance, item.user, item.text or "", _samples(item)) for item in speak_cohort(users))
    return corpora.encoded(name, _key(users), spoken, sum(len(user.speeches) for user in users))


def _cascade(bench: Bench, users: list[DemoUser]) -> dict[str, str]:
    """What faster-whisper wrote."""

    def recordings() -> list[Recording]:
        return [(item.utterance, partial(_samples, item)) for item in speak_cohort(users)]

    names = [speech.utterance for user in users for speech in user.speeches]
    heard = transcripts(bench, "assistant-judging", _key(users), names, recordings)
    return {name: text for name, (text, _) in heard.items()}
