"""What is measured beside the trainings: encoding, the LLM's step, replies without an instruction, sparse and dense updates."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import alignment, corpora
from benchmarks.alignment import Bench, Trained
from benchmarks.methods_costs import step_seconds
from benchmarks.methods_runs import Split
from pipeline.runs.configs import personal_config
from stages.alignment.methods.embedlink import EmbedLinkMethod
from stages.alignment.methods.protocol import Schedule
from stages.alignment.methods.registry import make_method
from stages.alignment.metrics import word_errors
from stages.alignment.personal import personalize
from stages.alignment.trainer import Example, read_out_all
from stages.examples import by_user
from stages.personalize import UserSplit, split_user

PERSONAL_UTTERANCES = 10
FULL_RATE = 3e-4  # of a dense update, as in the alignment benchmark


def own_encoding(split: Split, recordings: int) -> dict[str, float]:
    """Encoding of so many training utterances on their own length: ``seconds`` an utterance (mean: steps meet them all) and
    ``difference``, the largest between what comes out and the frames in the store."""
    from stages.audio import load_audio
    from stages.models.encoder import SpeechEncoder

    encoder = SpeechEncoder.load(corpora.models()[0])
    files = {name: path for name, _, _, path in corpora.an4_recordings()}
    chosen = spread(split.training, recordings + 1)
    each, difference = [], 0.0
    for item in chosen:
        samples = load_audio(Path(files[item.utterance]), item.utterance)
        start = time.perf_counter()
        frames = encoder.encode(samples, corpora.PADDING_S)
        each.append(time.perf_counter() - start)
        difference = max(difference, float(np.abs(frames.astype(np.float32) - item.frames.numpy()).max()))
    return {"seconds": statistics.mean(each[1:] or each), "difference": difference}  # the first one warms up


def spread(items: Any, count: int) -> list[Any]:
    """``count`` of the items, evenly spread; all where there are fewer."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)
    return [items[place] for place in sorted(set(places.tolist()))]


def projector_step(split: Split, schedule: Schedule) -> float:
    """Median seconds of a step of ``projector``, on a batch of middling length."""
    return step_seconds(make_method("projector", split.material, schedule), split.training, schedule.batch_size)


def replies(bench: Bench, method: EmbedLinkMethod, items: list[Example]) -> dict[str, float]:
    """WER of the LLM's reply against what was said, from the method's soft tokens: under the instruction to repeat with its
    examples (``instructed``), under the instruction alone (``no_examples``), and with nothing but the soft tokens as the
    user's turn (``bare``)."""
    from stages.alignment.injection import REPEAT, build_prompt, generate_replies, place, repeat_prompt
    from stages.models.llm import load_llm

    model, tokenizer = load_llm(bench.llm)
    trainer = method.trainer
    soft = [output.soft_tokens for output in read_out_all(trainer.bridge, trainer.link, [i.frames for i in items])]
    ways = {
        "instructed": [repeat_prompt(model, tokenizer, heard) for heard in soft],
        "no_examples": [place(model, build_prompt(tokenizer, REPEAT), heard) for heard in soft],
        "bare": [place(model, build_prompt(tokenizer, ""), heard) for heard in soft],
    }
    texts = [item.text for item in items]
    longest = bench.settings.evaluate.max_new_tokens
    found = {
        name: word_errors(texts, generate_replies(model, tokenizer, prompts, longest), "en").wer
        for name, prompts in ways.items()
    }
    return found | {"read_out": word_errors(texts, method.read(items)).wer, "utterances": len(items)}


def sparse_and_dense(bench: Bench, base: Trained, users: int) -> dict[str, dict[str, float]]:
    """Personal updates of so many AN4 users on ``base``, as params.yaml says (sparse) and of all weights (dense): WER over
    all held-out words, median seconds, largest stored bytes."""
    config = personal_config(bench.settings)
    chosen = spread(user_splits(PERSONAL_UTTERANCES), users)
    found = {}
    for name, method in {
        "sparse": config,
        "dense": replace(config, method="full", learning_rate=FULL_RATE),
    }.items():
        told = [alignment._one_user(bench, base, split, method) for split in chosen]
        words = sum(item["words"] for item in told)
        found[name] = {
            "base_wer": sum(item["base_errors"] for item in told) / words,
            "wer": sum(item["errors"] for item in told) / words,
            "words": words,
            "users": len(told),
            "utterances": statistics.median(len(split.train) for _, split in chosen),
            "seconds": statistics.median(item["seconds"] for item in told),
            "bytes": max(item["bytes"] for item in told),
        }
    return found


def user_splits(utterances: int) -> list[tuple[str, UserSplit]]:
    """AN4's users with at most so many utterances to learn from and the others to judge."""
    found = []
    for user, items in by_user(corpora.an4()).items():
        split = split_user(items, utterances, 4, 0)
        if isinstance(split, UserSplit):
            found.append((user, split))
    return found


def longest_split(splits: list[tuple[str, UserSplit]]) -> UserSplit:
    """The first of those that have most to learn from: AN4's users have nine at most."""
    return max((split for _, split in splits), key=lambda split: len(split.train))


def personal_steps(bench: Bench, base: Trained, split: Split, schedule: Schedule) -> dict[str, float]:
    """A step of a personal update from one user's utterances, median seconds: ``projector`` through the LLM, and ours as
    params.yaml says with the choice of its weights in it. The same batch size for both."""
    user = longest_split(user_splits(PERSONAL_UTTERANCES))
    config = personal_config(bench.settings)
    vocabulary = base.vocabulary.grown(bench.tokenizer, [item.text for item in user.train])
    examples = bench.examples(user.train, vocabulary)
    own = []
    for _ in range(3):
        result = personalize(base.trainer.bridge, bench.link(vocabulary), examples, config)
        own.append(result.seconds / config.steps)
    torch.manual_seed(0)
    material = replace(split.material, examples=examples)
    method = make_method("projector", material, replace(schedule, batch_size=config.batch_size))
    return {
        "projector": step_seconds(method, examples, config.batch_size),
        "embedlink": statistics.median(own),
        "steps": config.steps,
        "batch": min(config.batch_size, len(examples)),
        "utterances": len(examples),
    }
