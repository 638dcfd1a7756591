"""Who teaches the bases, who is for tuning and who judges in the benchmark of personal updates; and embedlink's base.

Bases of both sides learn from the demo's base cohort, which is synthetic speech. Their users are real people, AN4's: nobody
real has taught a base, so that ten of a user's utterances have something to teach. A fifth of the speakers judges; of the
others a fifth is for tuning: every rate, batch and mask is chosen on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save

from benchmarks import corpora
from benchmarks.alignment import Bench, speakers
from benchmarks.record import versions
from pipeline.progress import progress
from stages.alignment.bridgeformer import BridgeFormer
from stages.alignment.trainer import Trainer
from stages.alignment.vocabulary import Vocabulary
from stages.atomic import sha256_bytes, sha256_file, sha256_json, write_bytes
from stages.examples import LabelledUtterance, by_user
from stages.models.llm import embedding_rows

LEARN = 10  # utterances that a user's update learns from
SEED = 0


@dataclass(frozen=True)
class Fold:
    """One user's utterances, apart: what an update learns from and what judges it."""

    user: str
    place: int  # of the fold among its user's
    train: list[LabelledUtterance]
    held_out: list[LabelledUtterance]

    @property
    def name(self) -> str:
        return f"{self.user}/{self.place}"


def folds_of(user: str, items: Sequence[LabelledUtterance], learn: int = LEARN) -> list[Fold]:
    """Every utterance is held out in one fold; a fold learns from ``learn`` others (all but two where there are fewer).

    An utterance whose text is also among those that its fold learns from judges nowhere; a fold that nothing is left to judge
    is none.
    """
    order = sorted(items, key=lambda item: sha256_bytes(item.utterance.encode()))
    held = max(2, len(order) - learn)
    found = []
    for place, start in enumerate(range(0, len(order), held)):
        train = [*order[start + held :], *order[:start]][:learn]
        known = {item.text for item in train}
        held_out = [item for item in order[start : start + held] if item.text not in known]
        if train and held_out:
            found.append(Fold(user, place, train, held_out))
    return found


@dataclass
class People:
    """The three groups."""

    teaching: list[LabelledUtterance]
    tuning: list[Fold]
    judging: list[Fold]


def people(train: int | None = None, users: int | None = None) -> People:
    """``train``: at most so many utterances teach the bases; ``users``: at most so many of each group of users."""
    rest, judging = speakers(corpora.an4(), SEED)
    _, tuning = speakers(rest, SEED)
    return People(corpora.synthetic()[:train], _folds(tuning, users), _folds(judging, users))


def _folds(items: Sequence[LabelledUtterance], users: int | None) -> list[Fold]:
    names = sorted({item.user for item in items})[:users]
    return [fold for user, said in by_user(items).items() if user in names for fold in folds_of(user, said)]


def some(folds: Sequence[Fold], users: int | None, each: int | None) -> list[Fold]:
    """The first ``each`` folds of the first ``users`` users; None: all."""
    names = list(dict.fromkeys(fold.user for fold in folds))[:users]
    return [fold for fold in folds if fold.user in names and (each is None or fold.place < each)]


@dataclass
class OurBase:
    """embedlink's base as params.yaml has it; ``name`` says what it came of."""

    name: str
    bridge: BridgeFormer
    vocabulary: Vocabulary


def our_base(bench: Bench, teaching: Sequence[LabelledUtterance], epochs: int | None = None) -> OurBase:
    """Trained once for the same code, settings and speakers; from disk after that. ``epochs`` at most."""
    config = bench.train_config(SEED)
    vocabulary = Vocabulary.of_texts(bench.tokenizer, [item.text for item in teaching])
    names = ("trainer", "bridgeformer", "embedlink")
    code = [sha256_file(corpora.ROOT / "stages" / "alignment" / f"{name}.py") for name in names]
    path = base_path("embedlink", teaching, [repr(config), repr(bench.bridge), epochs, code])
    bridge = BridgeFormer(bench.bridge)
    if path.is_file():
        bridge.load_state_dict(load_file(path))
        return OurBase(path.stem, bridge.eval(), vocabulary)
    trainer = Trainer(
        bench.bridge, config, bench.examples(teaching, vocabulary), embedding_rows(bench.llm, vocabulary.ids)
    )
    total = min(config.epochs, epochs or config.epochs)
    with progress("embedlink's base", total, "epochs") as advance:
        for _ in range(total):
            trainer.run_epoch()
            advance(1)
    write_bytes(path, save({name: value.contiguous() for name, value in trainer.bridge.state_dict().items()}))
    return OurBase(path.stem, trainer.bridge.eval(), vocabulary)


def base_path(method: str, teaching: Sequence[LabelledUtterance], told: Sequence[Any]) -> Path:
    """Where a base lies: by all that made it."""
    libraries = {name: number for name, number in versions().items() if name in ("torch", "transformers", "peft")}
    key = sha256_json([list(told), corpora.content(teaching), libraries])
    return corpora.CACHE / f"personal-{method}-{key[:16]}.safetensors"
