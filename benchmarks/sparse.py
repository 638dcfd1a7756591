"""Sparse personal adapters: quality against density by mask, against dense updates; and how long a switch takes.

The users of the two personal demo cohorts, on a base taught by base-synthetic alone. Each candidate's learning rate is
chosen on the users of the other cohort, full and lora as well, so nothing is chosen on those who judge. A user's held-out
sentences are none of those that trained.

    make bench AREA=sparse                              about twenty-five minutes; a run that is stopped goes on where it was
    EDGEALIGN_SPARSE_QUICK=1 make bench AREA=sparse     whether it runs: figures of no worth, kept out of docs
"""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import corpora
from benchmarks.alignment import QUICK, Bench, Trained, train
from benchmarks.kept import Kept
from benchmarks.record import FOLDER, Figure, at_most, plain, write_area
from pipeline.progress import progress
from pipeline.runs.configs import personal_config
from stages.alignment.adapter import apply_update
from stages.alignment.metrics import word_errors
from stages.alignment.personal import PersonalConfig, PersonalResult, personalize
from stages.alignment.switching import Switchboard
from stages.examples import by_user
from stages.personalize import UserSplit, split_user

log = logging.getLogger("edgealign")

COHORTS = ("quiet-voices", "far-accents")
MASKS = ("gradient", "magnitude", "snip", "random")
DENSITIES = (0.002, 0.005, 0.01, 0.02, 0.10)
SPARSE = 0.02
"""The largest density that the asked figure calls sparse."""
RATES = {density: (1e-3, 3e-3, 1e-2) if density <= 0.01 else (3e-4, 1e-3, 3e-3) for density in DENSITIES}
"""By density: a small mask wants a larger rate."""
DENSE = {"full": (1e-4, 3e-4, 1e-3), "lora": (3e-4, 1e-3, 3e-3)}
RATES_OF = {**DENSE, "blocks": (3e-4, 1e-3)}
SWITCHES = 200
UTTERANCES = 8
BASE_EPOCHS = 8


@dataclass(frozen=True)
class Candidate:
    """One way to learn a personal adapter, its rate left open."""

    method: str
    mask: str = ""
    density: float = 1.0
    blocks: int = 0  # for method blocks

    @property
    def label(self) -> str:
        """As figures are called."""
        if self.mask:
            return f"{self.mask}_{self.density:g}"
        return f"blocks_{self.blocks}" if self.method == "blocks" else self.method

    @property
    def rates(self) -> tuple[float, ...]:
        return RATES_OF.get(self.method) or RATES[self.density]


CANDIDATES = (
    *(Candidate(method) for method in DENSE),
    *(Candidate("shira", mask, density) for density in DENSITIES for mask in MASKS),
)


@dataclass(frozen=True)
class Size:
    """How much is run."""

    candidates: tuple[Candidate, ...] = CANDIDATES
    users: int | None = None  # of each cohort
    train: int | None = None
    epochs: int = BASE_EPOCHS
    steps: int | None = None
    folder: Path = FOLDER


def size_asked() -> Size:
    """By the environment; see the module."""
    if not os.environ.get("EDGEALIGN_SPARSE_QUICK"):
        return Size()
    return Size((*CANDIDATES[:1], *CANDIDATES[-2:]), 1, 40, 1, 2, corpora.quick_folder())


def run() -> Path:
    """Measure everything and write docs/benchmarks/sparse.json."""
    size, bench = size_asked(), Bench.open()
    base, users = prepared(bench, size)
    kept = kept_of(size)
    measure(bench, base, users, size, kept)
    switched = _switches(bench, base, [split for found in users.values() for _, split in found], size)
    found, plots = figures(kept.known, size.candidates, {cohort: len(listed) for cohort, listed in users.items()})
    return write_area("sparse", [*found, *switched], plots, size.folder)


def kept_of(size: Size) -> Kept:
    """[errors, words] of each finished ``piece``."""
    told = [[asdict(one) for one in size.candidates], size.users, size.train, size.epochs, size.steps]
    return Kept("sparse", ("benchmarks/sparse.py", "params.yaml", "stages/alignment/*.py"), told)


def prepared(bench: Bench, size: Size) -> tuple[Trained, dict[str, list[tuple[str, UserSplit]]]]:
    """The base, taught by base-synthetic alone, and the users by cohort."""
    training = corpora.synthetic()[: size.train]
    base = train(bench, training, [], replace(bench.train_config(0), **{**QUICK, "epochs": size.epochs}))
    return base, {cohort: users_of(cohort, size.users) for cohort in COHORTS}


def users_of(cohort: str, count: int | None) -> list[tuple[str, UserSplit]]:
    """(user, split) of at most ``count`` users of a demo cohort."""
    found = []
    for user, items in by_user(corpora.synthetic(cohort)).items():
        split = split_user(items, UTTERANCES, 4, 0)
        if isinstance(split, UserSplit):
            found.append((user, split))
    return found[:count]


def piece(candidate: Candidate | None, rate: float, cohort: str, user: str) -> str:
    """The name of a measured piece; without a candidate, the base's."""
    return f"{candidate} {rate:g} {cohort}/{user}" if candidate else f"base {cohort}/{user}"


def measure(bench: Bench, base: Trained, users: Mapping[str, Any], size: Size, kept: Kept) -> None:
    """Every candidate at each of its rates for every user, and the base; what is kept is not done again."""
    config = personal_config(bench.settings)
    if size.steps:
        config = replace(config, steps=size.steps)
    everybody = [(cohort, user, split) for cohort, listed in users.items() for user, split in listed]
    todo = [
        (candidate, rate, *one)
        for candidate in (None, *size.candidates)
        for rate in (candidate.rates if candidate else (0.0,))
        for one in everybody
    ]
    with progress("personal adapters", len(todo), "trainings") as advance:
        for candidate, rate, cohort, user, split in todo:
            key = piece(candidate, rate, cohort, user)
            kept.get(key, partial(_errors, bench, base, split, candidate, replace(config, learning_rate=rate)))
            advance(1)


def _learn(
    bench: Bench, base: Trained, split: UserSplit, candidate: Candidate, config: PersonalConfig
) -> tuple[PersonalResult, Any]:
    """A user's change, and the vocabulary that it was learned with."""
    vocabulary = base.vocabulary.grown(bench.tokenizer, [item.text for item in split.train])
    chosen = replace(config, method=candidate.method, trainable_blocks=candidate.blocks)
    if candidate.mask:
        chosen = replace(chosen, mask=candidate.mask, density=candidate.density)
    examples = bench.examples(split.train, vocabulary)
    return personalize(base.trainer.bridge, bench.link(vocabulary), examples, chosen), vocabulary


def _errors(
    bench: Bench, base: Trained, split: UserSplit, candidate: Candidate | None, config: PersonalConfig
) -> list[int]:
    """[word errors, words] on the user's held-out sentences."""
    merged, vocabulary = base.trainer.bridge, base.vocabulary
    if candidate:
        result, vocabulary = _learn(bench, base, split, candidate, config)
        merged = copy.deepcopy(base.trainer.bridge).eval()
        apply_update(merged, result.tensors, candidate.method)
    heard = bench.heard(merged, vocabulary, split.held_out)
    found = word_errors([item.text for item in split.held_out], [text for text, _ in heard])
    return [found.errors, found.words]


def _switches(bench: Bench, base: Trained, splits: Sequence[UserSplit], size: Size) -> list[Figure]:
    """Seconds of a switch between two people's adapters, and whether the base comes back bit for bit."""
    config = replace(personal_config(bench.settings), steps=2)
    board = Switchboard(copy.deepcopy(base.trainer.bridge).eval())
    densest = Candidate("shira", "gradient", SPARSE)
    for place, split in enumerate(splits[:2]):
        board.add(str(place), _learn(bench, base, split, densest, config)[0].tensors)
    each = []
    for turn in range(SWITCHES if not size.steps else 4):
        start = time.perf_counter()
        board.use(str(turn % min(2, len(splits))))
        each.append(time.perf_counter() - start)
    board.use(None)
    before = base.trainer.bridge.state_dict()
    exact = all(torch.equal(before[name], value) for name, value in board.bridge.state_dict().items())
    note = f"{len(each)} switches between two users' adapters of density {SPARSE:g} on one base in memory"
    return [
        at_most("switch_milliseconds", 1e3 * float(np.median(each)), 5.0, "ms", note=f"median; {note}"),
        at_most("switch_milliseconds_p99", 1e3 * float(np.quantile(each, 0.99)), 5.0, "ms", note=note),
        at_most(
            "weights_left_behind", float(not exact), 0.0, "", note="1 if the base is not back bit for bit after them"
        ),
    ]


def figures(
    errors: Mapping[str, Sequence[int]], candidates: Sequence[Candidate], users: Mapping[str, int]
) -> tuple[list[Figure], dict[str, Any]]:
    """What the measured pieces come to, and what the picture is drawn from."""

    def total(candidate: Candidate | None, rate: float, cohort: str) -> tuple[int, int]:
        start = piece(candidate, rate, cohort, "")
        found = [pair for name, pair in errors.items() if name.startswith(start)]
        return sum(pair[0] for pair in found), sum(pair[1] for pair in found)

    def rate_for(candidate: Candidate, cohort: str) -> float:
        """The best one for everybody but the cohort's own users; of equals, the smaller."""
        others = [other for other in users if other != cohort]
        return min(candidate.rates, key=lambda rate: (sum(total(candidate, rate, other)[0] for other in others), rate))

    def judged(candidate: Candidate) -> tuple[float, str]:
        rates = {cohort: rate_for(candidate, cohort) for cohort in users}
        pairs = [total(candidate, rates[cohort], cohort) for cohort in users]
        told = ", ".join(f"{cohort} {rate:g}" for cohort, rate in rates.items())
        return sum(pair[0] for pair in pairs) / sum(pair[1] for pair in pairs), told

    def finished(candidate: Candidate) -> bool:
        pieces = [
            name for name in errors for rate in candidate.rates if name.startswith(piece(candidate, rate, "", "")[:-1])
        ]
        return len(pieces) == len(candidate.rates) * sum(users.values())

    known = {candidate: judged(candidate) for candidate in candidates if finished(candidate)}
    untaught = [total(None, 0.0, cohort) for cohort in users]
    base = sum(pair[0] for pair in untaught) / sum(pair[1] for pair in untaught)
    words = sum(pair[1] for pair in untaught)
    full = known[Candidate("full")][0]
    sparse = {one: wer for one, (wer, _) in known.items() if one.method == "shira" and one.density <= SPARSE}
    # which mask and density is chosen as the rates are: on the other cohort's users
    picked = []
    for cohort in users:
        others = [other for other in users if other != cohort]
        best = min(
            sparse or known,
            key=lambda one: (
                sum(total(one, rate_for(one, cohort), other)[0] for other in others),
                one.density,
                one.mask,
            ),
        )
        picked.append((cohort, best, total(best, rate_for(best, cohort), cohort)))
    chosen = sum(pair[0] for _, _, pair in picked) / sum(pair[1] for _, _, pair in picked)
    told = "; ".join(f"{cohort}: {one.mask} at {one.density:g}" for cohort, one, _ in picked)
    note = (
        f"WER {chosen:.4f} over {full:.4f} of a dense update, {base:.4f} before; {words} held-out words of "
        f"{sum(users.values())} users, {UTTERANCES} utterances each; mask, density and rate chosen on the other "
        f"cohort's users ({told})"
    )
    found = [
        at_most("sparse_over_dense_wer", chosen / full if full else 1.0, 1.1, "", note=note),
        plain("wer_base", base, "", note=f"{words} held-out words"),
    ]
    plots: dict[str, Any] = {"masks": {}, "lines": {"base": base}}
    for one in candidates:
        if one not in known:
            found.append(
                Figure(f"wer_{one.label}", None, "", "", None, (), "not measured yet: the run was stopped before")
            )
            continue
        wer, rates = known[one]
        found.append(plain(f"wer_{one.label}", wer, "", note=f"learning rate, chosen on the other cohort: {rates}"))
        if one.mask:
            plots["masks"].setdefault(one.mask, []).append([one.density, wer])
        else:
            plots["lines"][one.label] = wer
    return found, {"sparse_density": plots}
