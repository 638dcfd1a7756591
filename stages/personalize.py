"""The personalize stage: one sparse personal adapter a user, from a few utterances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stages.alignment.bridgeformer import BridgeFormer, BridgeFormerConfig
from stages.alignment.embedlink import EmbedLink
from stages.alignment.personal import PersonalConfig, PersonalResult, personalize
from stages.alignment.splits import split_utterances
from stages.base import Corpus, examples_of
from stages.examples import LabelledUtterance


@dataclass(frozen=True)
class UserSplit:
    """A user's utterances, apart: what trains and what judges."""

    train: list[LabelledUtterance]
    held_out: list[LabelledUtterance]  # human transcripts only


def split_user(
    utterances: Sequence[LabelledUtterance],
    train_utterances: int,
    min_utterances: int,
    seed: int,
    judge: int | None = None,
) -> UserSplit | str:
    """The split of one user, or the reason why the user gets no adapter.

    Human transcripts judge and train; pseudo-labels only fill up the training where human ones are short, and never
    where they say the same as a held-out sentence. At most ``judge`` utterances are held out; None: all that do not train.
    """
    if len(utterances) < min_utterances:
        return f"{len(utterances)} labelled utterance(s), at least {min_utterances} are needed"
    by_name = {item.utterance: item for item in utterances}
    human = [item.utterance for item in utterances if item.source == "human"]
    if not human:
        return "no human transcript: nothing could judge the adapter"
    texts = {item.utterance: item.text for item in utterances}
    train, held_out = split_utterances(human, texts, train_utterances, seed, judge)
    if not held_out:
        return f"{len(human)} human transcript(s), none left to judge the adapter"
    judged = {texts[name] for name in held_out}
    pseudo = [item for item in utterances if item.source != "human" and item.text not in judged]
    filled = [by_name[name] for name in train] + sorted(pseudo, key=lambda item: item.utterance)
    chosen = filled[:train_utterances]
    if not chosen:
        return "no utterance is left to train on once the held-out ones are set aside"
    return UserSplit(chosen, [by_name[name] for name in held_out])


def train_user(
    weights: dict[str, np.ndarray],
    bridge: BridgeFormerConfig,
    rows: np.ndarray,
    corpus: Corpus,
    config: PersonalConfig,
    threads: int | None = None,
) -> PersonalResult:
    """Train one user's adapter on the base given by ``weights``. Plain data, so that it may run on any node.

    ``rows``: (V, D) float32 embedding rows that ``corpus.targets`` index.
    """
    if threads:
        torch.set_num_threads(threads)
    base = BridgeFormer(bridge)
    base.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    link = EmbedLink(torch.from_numpy(np.array(rows)))
    return personalize(base.eval(), link, examples_of(corpus), config)
