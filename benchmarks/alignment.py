"""Alignment: quality of the base and of personal adapters on real speech, and how long they take.

Speakers of a test set are never in its training set; a user's held-out sentences are never among the ones that trained.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import corpora
from benchmarks.record import Figure, at_most, plain, write_area
from pipeline.progress import progress
from pipeline.runs.configs import bridge_config, personal_config, train_config
from pipeline.settings import Settings, load_settings
from stages.alignment import adapter
from stages.alignment.bridgeformer import BridgeFormer, BridgeFormerConfig
from stages.alignment.embedlink import EmbedLink
from stages.alignment.metrics import word_errors
from stages.alignment.personal import PersonalConfig, personalize
from stages.alignment.rescoring import Chooser
from stages.alignment.splits import hold_out_users
from stages.alignment.trainer import Example, TrainConfig, Trainer, read_out_all
from stages.alignment.vocabulary import Vocabulary
from stages.examples import LabelledUtterance, by_user, to_examples
from stages.models.identity import read_identity
from stages.models.llm import embedding_rows, load_tokenizer
from stages.personalize import UserSplit, split_user

log = logging.getLogger("edgealign")

QUALITY = 0.06  # the WER of the time-to-quality figure
FOLDS = (0, 1, 2)  # seeds: each holds out another fifth of the speakers
SYNTHETIC_SEEDS = (0,)
QUICK: dict[str, Any] = {
    "epochs": 5,
    "batch_size": 8,
    "learning_rate": 1e-3,
}  # the schedule of the time-to-quality figure
WARM_EPOCHS = 6
PERSONAL_UTTERANCES = 8


@dataclass
class Bench:
    """What every measurement shares."""

    settings: Settings
    llm: Path
    tokenizer: Any
    bridge: BridgeFormerConfig

    @classmethod
    def open(cls) -> Bench:
        settings = load_settings(corpora.ROOT)
        encoder, llm = corpora.models()
        bridge = bridge_config(settings, read_identity(encoder).width, read_identity(llm).width)
        return cls(settings, llm, load_tokenizer(llm), bridge)

    def train_config(self, seed: int) -> TrainConfig:
        """The settings of params.yaml, with another seed."""
        return replace(train_config(self.settings), seed=seed)

    def link(self, vocabulary: Vocabulary) -> EmbedLink:
        return EmbedLink(embedding_rows(self.llm, vocabulary.ids))

    def examples(self, items: Sequence[LabelledUtterance], vocabulary: Vocabulary) -> list[Example]:
        return to_examples(items, vocabulary, lambda text: vocabulary.rows_of(self.tokenizer, text))

    def heard(
        self,
        bridge: BridgeFormer,
        vocabulary: Vocabulary,
        items: Sequence[LabelledUtterance],
        chooser: Chooser | None = None,
    ) -> list[tuple[str, torch.Tensor]]:
        """(text, soft tokens) of each utterance; ``chooser`` reads again what is unsure."""
        frames = [torch.from_numpy(item.frames.astype(np.float32)) for item in items]
        outputs = read_out_all(bridge, self.link(vocabulary), frames, chooser=chooser)
        return [(vocabulary.text_of(self.tokenizer, output.rows), output.soft_tokens) for output in outputs]

    def wer(self, bridge: BridgeFormer, vocabulary: Vocabulary, items: Sequence[LabelledUtterance]) -> float:
        texts = [text for text, _ in self.heard(bridge, vocabulary, items)]
        return word_errors([item.text for item in items], texts).wer


@dataclass
class Trained:
    """A base and how it came to be."""

    trainer: Trainer
    vocabulary: Vocabulary
    curve: list[tuple[float, float]]  # (seconds of training, WER on the test speakers)

    def seconds_to(self, quality: float) -> float | None:
        """Seconds of training until the WER stays at or under ``quality``; None where it never does."""
        return seconds_to(self.curve, quality)


def seconds_to(curve: Sequence[tuple[float, float]], quality: float) -> float | None:
    """The first of a curve's (seconds, WER) points from which on the WER stays at or under ``quality``; None without one."""
    reached = None
    for seconds, wer in curve:
        if wer > quality:
            reached = None
        elif reached is None:
            reached = seconds
    return reached


def train(
    bench: Bench,
    training: Sequence[LabelledUtterance],
    test: Sequence[LabelledUtterance],
    config: TrainConfig,
    start: Trained | None = None,
) -> Trained:
    """Train on ``training`` and measure on ``test`` after every epoch. The last epoch counts: nothing is chosen on ``test``.

    With ``start``, the weights begin as those of another base, and its words stay in the vocabulary.
    """
    texts = [item.text for item in training]
    vocabulary = (start.vocabulary if start else Vocabulary(())).grown(bench.tokenizer, texts)
    rows = embedding_rows(bench.llm, vocabulary.ids)
    trainer = Trainer(bench.bridge, config, bench.examples(training, vocabulary), rows)
    if start:
        mean = trainer.bridge.frame_mean.clone()
        trainer.bridge.load_state_dict(start.trainer.bridge.state_dict())
        trainer.bridge.frame_mean.copy_(mean)
    curve = []
    for _ in range(config.epochs):
        trainer.run_epoch()
        curve.append((round(trainer.seconds, 2), round(bench.wer(trainer.bridge, vocabulary, test), 4)))
    trainer.bridge.eval()
    log.info("trained on %d utterances, (seconds, WER) by epoch: %s", len(training), curve)
    return Trained(trainer, vocabulary, curve)


def speakers(items: Sequence[LabelledUtterance], seed: int) -> tuple[list[LabelledUtterance], list[LabelledUtterance]]:
    """(the other speakers' utterances, those of a fifth of the speakers)."""
    unseen = hold_out_users({item.user for item in items}, 0.2, seed)
    return [item for item in items if item.user not in unseen], [item for item in items if item.user in unseen]


def real_speech(
    bench: Bench, synthetic: Trained
) -> tuple[list[Figure], dict[str, Any], Trained, list[LabelledUtterance]]:
    """Base trained on AN4's other speakers: for quality, under a short schedule for time, and from the synthetic base."""
    items = corpora.an4()
    runs, quick, warm = [], [], []
    for seed in FOLDS:
        training, test = speakers(items, seed)
        config = bench.train_config(seed)
        runs.append(train(bench, training, test, config))
        quick.append(train(bench, training, test, replace(config, **QUICK)))
        warm.append(train(bench, training, test, replace(config, epochs=WARM_EPOCHS), synthetic))
    final = [run.curve[-1][1] for run in runs]
    note = f"each seed holds out another fifth of the 50 speakers; settings of params.yaml; by seed: {final}"
    figures = [at_most("wer_an4_unseen_speakers", statistics.mean(final), 0.035, "", seeds=FOLDS, note=note)]
    last = [run.curve[-1][1] for run in warm]
    note = f"the same speakers and {WARM_EPOCHS} epochs, beginning with the synthetic base; by seed: {last}"
    figures.append(plain("wer_an4_unseen_speakers_from_synthetic", statistics.mean(last), "", seeds=FOLDS, note=note))
    figures.append(_time_to_quality([run.seconds_to(QUALITY) for run in quick]))
    plots = {
        name: {f"seed {seed}": run.curve for seed, run in zip(FOLDS, found, strict=True)}
        for name, found in {
            "an4_unseen_speakers": runs,
            "an4_short_schedule": quick,
            "an4_from_synthetic": warm,
        }.items()
    }
    return figures, plots, warm[0], speakers(items, FOLDS[0])[1]


def _time_to_quality(times: list[float | None]) -> Figure:
    """Median seconds; a run that never gets there counts as slower than any other."""
    how = f"one-cycle over {QUICK}; seconds by seed: {times}"
    median = statistics.median([float("inf") if seconds is None else seconds for seconds in times])
    if median == float("inf"):
        return Figure("seconds_to_wer_0.06", None, "s", "≤ 25", False, FOLDS, f"most never got there; {how}")
    return at_most("seconds_to_wer_0.06", median, 25.0, "s", seeds=FOLDS, note=f"median; {how}")


def synthetic_to_real(bench: Bench) -> tuple[list[Figure], dict[str, Any], Trained]:
    """Base trained on the synthetic cohort alone, measured on all of AN4."""
    training, test = corpora.synthetic(), corpora.an4()
    runs = [train(bench, training, test, bench.train_config(seed)) for seed in SYNTHETIC_SEEDS]
    final = [run.curve[-1][1] for run in runs]
    note = f"trained on base-synthetic only, all 50 AN4 speakers judge; by seed: {final}"
    figures = [at_most("wer_an4_synthetic_base", statistics.mean(final), 0.20, "", seeds=SYNTHETIC_SEEDS, note=note)]
    curves = {f"seed {seed}": run.curve for seed, run in zip(SYNTHETIC_SEEDS, runs, strict=True)}
    return figures, {"synthetic_to_an4": curves}, runs[0]


def personal(bench: Bench, base: Trained) -> tuple[list[Figure], dict[str, Any]]:
    """Sparse personal adapters of every AN4 user on the synthetic base, stored and read back in the compact form."""
    config = personal_config(bench.settings)
    figures, plots = [], {}
    methods = {"shira": config, "full": replace(config, method="full", learning_rate=3e-4)}
    methods["lora"] = replace(config, method="lora", learning_rate=1e-3)
    for name, method in methods.items():
        # the methods beside the chosen one get every third user: they are there for comparison
        splits = _splits() if name == config.method else _splits()[::3]
        with progress(f"personal, {name}", len(splits), "users") as advance:
            found = []
            for split in splits:
                found.append(_one_user(bench, base, split, method))
                advance(1)
        before = sum(item["base_errors"] for item in found) / sum(item["words"] for item in found)
        after = sum(item["errors"] for item in found) / sum(item["words"] for item in found)
        seconds = statistics.median(item["seconds"] for item in found)
        size = max(item["bytes"] for item in found)
        note = f"{len(found)} AN4 users, ≤ {PERSONAL_UTTERANCES} utterances each; WER {before:.4f} before, {after:.4f} after"
        plots[name] = [{"user": item["user"], "base": item["base_wer"], "personal": item["wer"]} for item in found]
        if name == config.method:
            figures += [
                at_most("personal_wer_over_base_wer", after / before, 0.6, "", note=note),
                at_most("personal_train_seconds", seconds, 5.0, "s", note="median over users"),
                at_most("personal_adapter_bytes", size, 100_000, "bytes", note="largest, compact form on disk"),
                plain("personal_density", found[0]["density"], "share of weights"),
            ]
        else:
            figures += [
                plain(f"personal_wer_over_base_wer_{name}", after / before, "", note=note),
                plain(f"personal_train_seconds_{name}", seconds, "s"),
                plain(f"personal_adapter_bytes_{name}", size, "bytes"),
            ]
    return figures, {"personal": plots}


def _splits() -> list[tuple[str, UserSplit]]:
    found = []
    for user, items in by_user(corpora.an4()).items():
        split = split_user(items, PERSONAL_UTTERANCES, 4, 0)
        if isinstance(split, UserSplit):
            found.append((user, split))
    return found


def _one_user(bench: Bench, base: Trained, named: tuple[str, UserSplit], config: PersonalConfig) -> dict[str, Any]:
    user, split = named
    vocabulary = base.vocabulary.grown(bench.tokenizer, [item.text for item in split.train])
    link = bench.link(vocabulary)
    result = personalize(base.trainer.bridge, link, bench.examples(split.train, vocabulary), config)
    record = adapter.AdapterRecord("personal", config.method, bench.bridge.to_json(), "", "", list(vocabulary.ids))
    merged = BridgeFormer(bench.bridge)
    merged.load_state_dict(base.trainer.bridge.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        adapter.save(Path(folder) / "user", result.tensors, record)
        size = (Path(folder) / "user" / "adapter.safetensors").stat().st_size
        adapter.apply_update(merged, adapter.read_tensors(Path(folder) / "user", record), config.method)
    texts = [item.text for item in split.held_out]
    before = word_errors(texts, [text for text, _ in bench.heard(base.trainer.bridge, base.vocabulary, split.held_out)])
    after = word_errors(texts, [text for text, _ in bench.heard(merged.eval(), vocabulary, split.held_out)])
    return {
        "user": user,
        "words": before.words,
        "base_errors": before.errors,
        "errors": after.errors,
        "base_wer": before.wer,
        "wer": after.wer,
        "seconds": result.seconds,
        "bytes": size,
        "density": result.density,
    }


def llm_repeats(bench: Bench, base: Trained, test: Sequence[LabelledUtterance]) -> list[Figure]:
    """The LLM asked to repeat: WER from audio against WER from the reference text, the same prompt for both."""
    from stages.alignment.injection import embed_text, generate_replies, repeat_prompt
    from stages.models.llm import load_llm

    model, tokenizer = load_llm(bench.llm)
    heard = bench.heard(base.trainer.bridge, base.vocabulary, test)
    start = time.perf_counter()
    from_audio = generate_replies(
        model,
        tokenizer,
        [repeat_prompt(model, tokenizer, soft) for _, soft in heard],
        bench.settings.evaluate.max_new_tokens,
    )
    from_text = generate_replies(
        model,
        tokenizer,
        [repeat_prompt(model, tokenizer, embed_text(model, tokenizer, item.text)) for item in test],
        bench.settings.evaluate.max_new_tokens,
    )
    seconds = time.perf_counter() - start
    texts = [item.text for item in test]
    audio, text = word_errors(texts, from_audio, "en").wer, word_errors(texts, from_text, "en").wer
    note = (
        f"{len(test)} utterances of unseen AN4 speakers, base begun with the synthetic one; "
        f"WER {audio:.4f} from audio, {text:.4f} from the reference text"
    )
    return [
        at_most("llm_gap", audio - text, 0.01, "", note=note),
        plain("llm_wer_audio", audio, ""),
        plain("llm_wer_reference_text", text, ""),
        plain("llm_seconds_per_reply", seconds / (2 * len(test)), "s", note="batched"),
    ]


def run() -> Path:
    """Measure everything and write docs/benchmarks/alignment.json."""
    bench = Bench.open()
    synthetic_figures, synthetic_plots, synthetic_base = synthetic_to_real(bench)
    figures, plots, base, test = real_speech(bench, synthetic_base)
    figures += synthetic_figures
    figures += llm_repeats(bench, base, test)
    more, personal_plots = personal(bench, synthetic_base)
    return write_area("alignment", [*figures, *more], {**plots, **synthetic_plots, **personal_plots})
