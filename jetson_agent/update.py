"""One update of a user's adapter on the device: learn from what is remembered, judge, take it or leave things as they are.

Every update starts at the base and learns from all that the replay buffer holds, so that errors do not pile up over the
rounds. What keeps other people understood is the method:

- ``none``: the user's utterances alone.
- ``replay``: each step also learns from half as many utterances of other people.
- ``ewc``: a change of a weight costs as much as it matters to other people's speech, see stages.alignment.personal.
- ``average``: the change is scaled down until the guard is no worse (weight averaging with the base, as WiSE-FT,
  Wortsman et al., CVPR 2022).
- ``replay+average``: both; the default.

Frames are not shifted to the base's mean, as ``personalize`` does: the shift would move everybody's.
"""

from __future__ import annotations

import copy
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jetson_agent.home import Home
from jetson_agent.journal import note
from jetson_agent.replay import Remembered
from jetson_agent.settings import LearnSettings
from jetson_agent.under_way import UnderWay
from stages.alignment.adapter import AdapterRecord, apply_update, load_base, save
from stages.alignment.bridgeformer import BridgeFormer
from stages.alignment.embedlink import EmbedLink
from stages.alignment.metrics import word_errors
from stages.alignment.personal import PersonalConfig, PersonalResult, personalize
from stages.alignment.resume import Checkpoint
from stages.alignment.vocabulary import Vocabulary, token_ids
from stages.atomic import sha256_bytes, sha256_file, write_private
from stages.errors import EdgealignError
from stages.examples import to_examples
from stages.guard import read_texts
from stages.listener import Listener
from stages.models.llm import embedding_rows, load_tokenizer

logger = logging.getLogger(__name__)

LEAST_JUDGING = 3
"""The user's utterances that an update is judged by, at least: fewer say nothing."""
SCALES = (1.0, 0.75, 0.5, 0.25)
SCORED_AT_ONCE = 16
"""Utterances that go through at once where the mask is computed: memory must not grow with what is remembered."""

Wers = dict[str, float | None]
"""{"own": WER on the user's held-out utterances, "general": on other people's}; None where nothing judges."""


@dataclass(frozen=True)
class Outcome:
    """What an update came to."""

    taken: bool
    why: str
    figures: dict[str, Any]


def judges(text: str) -> bool:
    """Whether utterances of this text judge, as one text in four: the same sentence never does both, whenever it is said."""
    return sha256_bytes(text.encode())[0] in "048c"


def split(items: Sequence[Remembered]) -> tuple[list[Remembered], list[Remembered]]:
    """(to learn from, to judge by). Only corrections judge; where too few texts would, the newest corrected ones do as well."""
    corrected = [item for item in items if item.source == "correction" and item.text]
    texts = {item.text for item in corrected if judges(item.text)}
    for item in reversed(corrected):
        if len(texts) >= LEAST_JUDGING:
            break
        texts.add(item.text)
    guard = [item for item in corrected if item.text in texts]
    return [item for item in items if item.text and item.text not in texts], guard


def fell(new: Wers, old: Wers) -> bool:
    """Whether the user's WER fell."""
    mine, before = new["own"], old["own"]
    return mine is not None and before is not None and mine < before - 1e-9


def better(new: Wers, old: Wers, tolerance: float) -> bool:
    """Whether the user's WER fell and other people's is at most ``tolerance`` above the old one."""
    return fell(new, old) and harmless(new, old, tolerance)


def harmless(new: Wers, old: Wers, tolerance: float) -> bool:
    """Whether other people's WER is at most ``tolerance`` above the old one, or nothing judges it."""
    others, before = new["general"], old["general"]
    return others is None or before is None or others <= before + tolerance + 1e-9


@dataclass(frozen=True)
class Learner:
    """A base with the words that the user has said, and what updates of it learn with and are judged by."""

    base: BridgeFormer
    record: AdapterRecord
    vocabulary: Vocabulary
    tokenizer: Any
    link: EmbedLink
    settings: LearnSettings

    def train(self, own: Sequence[Any], general: Sequence[Any], checkpoint: Checkpoint | None = None) -> PersonalResult:
        """The compact sparse change that the user's utterances ask for; both sides have ``utterance, frames, text``."""
        method = self.settings.method
        config = PersonalConfig(
            density=self.settings.density,
            steps=self.settings.steps + round(self.settings.steps_per_utterance * len(own)),
            batch_size=self.settings.batch_size,
            learning_rate=self.settings.learning_rate,
            shift=False,
            replay=self.settings.replay_size if "replay" in method else 0,
            ewc_weight=self.settings.ewc_weight if method == "ewc" else 0.0,
            seed=self.settings.seed,
            score_batch=SCORED_AT_ONCE,
        )
        sides = [to_examples(side, self.vocabulary, self._rows_of) for side in (own, general)]
        return personalize(self.base, self.link, sides[0], config, sides[1], checkpoint)

    def spelled(self, items: Sequence[Any]) -> list[Any]:
        """The items whose text the vocabulary can spell."""
        known = set(self.vocabulary.ids)
        return [item for item in items if known.issuperset(token_ids(self.tokenizer, item.text))]

    def changed(self, tensors: dict[str, np.ndarray]) -> BridgeFormer:
        """A copy of the base with a change."""
        bridge = copy.deepcopy(self.base)
        apply_update(bridge, tensors, "shira")
        return bridge.eval()

    def reader(self, bridge: BridgeFormer) -> Listener:
        """``bridge`` with all the words."""
        return Listener(bridge, self.vocabulary, self.record, self.link, self.tokenizer)

    def _rows_of(self, text: str) -> Any:
        return self.vocabulary.rows_of(self.tokenizer, text)


def wer(reader: Listener, items: Sequence[Any]) -> float | None:
    """Word error rate on utterances; None where there is none."""
    return word_errors([item.text for item in items], read_texts(reader, items)).wer if items else None


def scaled(tensors: dict[str, np.ndarray], scale: float) -> dict[str, np.ndarray]:
    """A compact sparse change, ``scale`` times as large."""
    return {name: value * np.float16(scale) if name.endswith(".values") else value for name, value in tensors.items()}


def adapt(home: Home) -> Outcome:
    """Learn once from the replay buffer, after any other process that does; an update that was cut off goes on.

    Raises InputError: the device is not set up, OSError: its disk takes no more.
    """
    with home.changing():
        for leftover in home.own.glob("edgealign-adapt-*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        outcome = _adapt(home)
        try:
            note(home)
        except OSError as error:  # the next call of anything that notes does it
            logger.warning("the registry is told of this update later: %s", error)
        return outcome


def _adapt(home: Home) -> Outcome:
    under_way = UnderWay.begin(home.own, home.replay.items())
    learn, guard = split(under_way.items)
    if not learn or len(guard) < LEAST_JUDGING:
        under_way.end()
        told = f"{len(learn)} utterance(s) to learn from and {len(guard)} to judge by, at least 1 and {LEAST_JUDGING} needed"
        return Outcome(False, f"{told}: correct more first", {})
    try:
        outcome = _learn(home, under_way, learn, guard)
    except EdgealignError:
        raise  # held up from outside: it goes on later
    except Exception:
        under_way.end()  # what cannot be done would end the next one in the same way
        raise
    under_way.end()
    return outcome


def _learn(home: Home, under_way: UnderWay, learn: list[Remembered], guard: list[Remembered]) -> Outcome:
    start = time.perf_counter()
    (device, shelf), settings = home.in_use(), home.settings
    learner = load_learner(device.base, device.llm, [item.text for item in learn], settings)
    replayed, judging = home.general()
    version = shelf.current()
    # an update changes what is read in words: by that alone it is judged, without the base's speller
    base = Listener.load(device.base, device.llm, tokenizer=learner.tokenizer, spells=False)
    used = Listener.load(device.base, device.llm, version.folder, learner.tokenizer, spells=False) if version else base
    # an adapter must not leave other people worse off than the base did, however little each round costs them
    bar: Wers = {"own": wer(used, guard), "general": _general_wer(home, base, judging)}
    checkpoint = under_way.checkpoint(
        learner.record.weights_sha256, settings.model_dump(), sha256_file(home.others), torch.__version__
    )
    trained = learner.train(learn, learner.spelled(replayed), checkpoint)
    harmful = False
    for scale in SCALES if "average" in settings.method else SCALES[:1]:
        tensors = scaled(trained.tensors, scale)
        reader = learner.reader(learner.changed(tensors))
        found: Wers = {"own": wer(reader, guard), "general": None}
        if fell(found, bar):  # else what it does to others does not matter
            found["general"] = wer(reader, judging)
            if harmless(found, bar, settings.tolerance):
                break
            harmful = True
    taken = better(found, bar, settings.tolerance)
    figures = {
        "method": settings.method,
        "scale": scale,
        "utterances": len(learn),
        "corrections": sum(item.source == "correction" for item in [*learn, *guard]),
        "judged": {"own": len(guard), "general": len(judging)},
        "wer": {"base": {"own": wer(base, guard), "general": bar["general"]}, "before": bar, "after": found},
        "began": datetime.fromtimestamp(under_way.began, timezone.utc).isoformat(),
        "resumed_at": trained.resumed_at,
        "seconds": round(time.perf_counter() - start, 2),
    }
    if not taken:
        why = "other people's WER would be too far above the base's" if harmful else "it does not help the user"
        shelf.refuse(why, figures)
        return Outcome(False, why, figures)
    made = replace(
        learner.record,
        kind="personal",
        method="shira",
        vocabulary=list(learner.vocabulary.ids),
        base_sha256=learner.record.weights_sha256,
        cohort=device.cohort,
        user=device.user,
        train_utterances=[item.utterance for item in learn],
        held_out_utterances=[item.utterance for item in guard],
        metrics=figures,
        settings={"online": settings.model_dump()},
    )
    why = f"the user's WER fell, other people's is at most {settings.tolerance:g} above the base's"
    with tempfile.TemporaryDirectory(prefix="edgealign-adapt-", dir=home.own) as folder:
        save(Path(folder) / "adapter", tensors, made)
        shelf.take(Path(folder) / "adapter", why, figures)
    return Outcome(True, why, figures)


def _general_wer(home: Home, base: Listener, judging: Sequence[Any]) -> float | None:
    """The base's WER on other people's utterances: computed once, kept beside them."""
    key = sha256_bytes(f"{base.record.weights_sha256}{sha256_file(home.others)}".encode())[:16]
    path = home.folder / "judged.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # whatever is wrong with it, it can be computed again
        return json.loads(path.read_text(encoding="utf-8"))[key]
    found = wer(base, judging)
    write_private(path, json.dumps({key: found}).encode())
    return found


def load_learner(base_folder: Path, llm_folder: Path, texts: Sequence[str], settings: LearnSettings) -> Learner:
    """The base with rows for the words of ``texts``."""
    base, vocabulary, record = load_base(base_folder)
    tokenizer = load_tokenizer(llm_folder)
    grown = vocabulary.grown(tokenizer, texts)
    return Learner(base, record, grown, tokenizer, EmbedLink(embedding_rows(llm_folder, grown.ids)), settings)
