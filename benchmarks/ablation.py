"""What each of embedlink's choices costs in seconds and in quality, and how quickly it can be trained.

The splits and the clock are those of the methods' comparison (``benchmarks.methods``); one choice is switched off at a time.
Speakers that judge are never in training, and no schedule here was chosen on them (docs/notes.md says on whom).

    make bench AREA=ablation                                about ten minutes on two cores alone
    EDGEALIGN_ABLATION_PADDED=1 make bench AREA=ablation    about five minutes more: errors on the padded window's frames
    EDGEALIGN_ABLATION_QUICK=1 make bench AREA=ablation     whether it runs: figures of no worth, kept out of docs

The ratios to methods with the LLM in the loop read docs/benchmarks/methods.json: measure that area first. A run that is
stopped goes on where it was.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from benchmarks import corpora
from benchmarks.ablation_costs import own_encoding, personal_steps, projector_step, replies, sparse_and_dense, spread
from benchmarks.ablation_figures import PADDED, QUICKEST, REFERENCE, WARM, figures, plots, read_baselines
from benchmarks.ablation_runs import Variant, joined, padded_split, run_variant
from benchmarks.alignment import QUICK, Bench, Trained, speakers, train
from benchmarks.methods import JUDGED, PADDED_RECORDINGS, PLANS, SEEDS, THRESHOLD
from benchmarks.methods_costs import padded_encoding
from benchmarks.methods_runs import KeptRuns, Split, judge
from benchmarks.record import FOLDER, write_area
from stages.alignment.methods.embedlink import EmbedLinkMethod
from stages.alignment.methods.protocol import Schedule
from stages.atomic import sha256_file

log = logging.getLogger("edgealign")

SCHEDULE = Schedule(epochs=5, batch_size=8, learning_rate=1e-3)
"""Of the reference, from which one choice at a time is switched off."""
VARIANTS = {
    REFERENCE: Variant(SCHEDULE),
    "positions": Variant(SCHEDULE, positions=True),
    "no_embedding_term": Variant(SCHEDULE, embedding=False),
    PADDED: Variant(SCHEDULE, padded=True),
    QUICKEST: Variant(Schedule(epochs=4, batch_size=8, learning_rate=2e-3), stack=6, judge_every=8),
    WARM: Variant(Schedule(epochs=2, batch_size=8, learning_rate=1e-3), warm=True, judge_every=8),
}
SCHEDULES = (REFERENCE, QUICKEST, WARM)
WITH_JOINED = (REFERENCE, "positions")
"""Those that are also judged on joined utterances: what a positional encoding is not missed for."""

REPLIES = 30
USERS = 12
RECORDINGS = 24
QUICK_STEPS = 3


@dataclass(frozen=True)
class Size:
    """How much is run."""

    seeds: tuple[int, ...] = SEEDS
    train: int | None = None  # at most so many utterances
    judged: int = JUDGED
    final: int | None = None
    limit: int | None = None  # steps of each training
    recordings: int = RECORDINGS
    padded: int = PADDED_RECORDINGS
    replies: int = REPLIES
    users: int = USERS
    synthetic: bool = True  # False: the start's speech is a little of AN4's training speakers', for it is at hand
    folder: Path = FOLDER


def size_asked() -> Size:
    """By the environment; see the module."""
    if not os.environ.get("EDGEALIGN_ABLATION_QUICK"):
        return Size()
    return Size((0,), 24, 4, 8, QUICK_STEPS, 2, 1, 2, 1, False, corpora.quick_folder())


class Start:
    """The base of the warm start and of the personal updates, trained when it is first asked for."""

    def __init__(self, bench: Bench, size: Size) -> None:
        self.bench = bench
        self.size = size

    @cached_property
    def trained(self) -> Trained:
        """On synthetic speech alone, by the short schedule. AN4 judges nothing of it."""
        items = corpora.synthetic() if self.size.synthetic else speakers(corpora.an4(), 0)[0][:16]
        config = replace(self.bench.train_config(0), **QUICK)
        if not self.size.synthetic:
            config = replace(config, epochs=1)
        return train(self.bench, items, items[:8], config)  # some of its own, since ``train`` wants to judge


def run() -> Path:
    """Measure everything and write docs/benchmarks/ablation.json after each finished training."""
    size = size_asked()
    bench = Bench.open()
    variants = {
        name: replace(variant, schedule=replace(variant.schedule, limit=size.limit))
        for name, variant in VARIANTS.items()
    }
    code = [
        sha256_file(path) for path in sorted(Path(__file__).parent.glob("ablation*.py")) if "_figures" not in path.name
    ]
    kept = KeptRuns(["ablation", code, str(size), str(variants)])
    start = Start(bench, size)

    def written(tell: bool = False) -> Path:
        found = figures(kept, variants, size.seeds, THRESHOLD, FOLDER / "methods.json")
        return write_area("ablation", found, plots(kept, SCHEDULES), size.folder, tell)

    for seed in size.seeds:
        split = Split(bench, seed, size.train, size.judged, size.final)
        for name, variant in variants.items():
            if variant.padded and not (seed == size.seeds[0] and os.environ.get("EDGEALIGN_ABLATION_PADDED")):
                continue
            if kept.find(name, seed, "ablation") is None:
                own = padded_split(split) if variant.padded else split
                then = partial(_afterwards, kept, name, split, size)
                kept.add(run_variant(name, variant, own, start.trained if variant.warm else None, then))
                if variant.warm:
                    kept.cost("start seconds", lambda: start.trained.trainer.seconds)
                written()
        if seed == size.seeds[0]:
            _costs(kept, split, start, size)
            written()
    return written(tell=True)


def _afterwards(kept: KeptRuns, name: str, split: Split, size: Size, method: EmbedLinkMethod) -> None:
    """What a trained method is asked besides."""
    if name in WITH_JOINED:
        kept.cost(f"joined {name} {split.seed}", lambda: round(judge(method, joined(split.unseen)).wer, 4))
    if name == REFERENCE:
        kept.cost("replies", lambda: replies(split.bench, method, spread(split.unseen, size.replies)))


def _costs(kept: KeptRuns, split: Split, start: Start, size: Size) -> None:
    """What is measured once."""
    kept.cost("own encoding", partial(own_encoding, split, size.recordings))
    kept.cost("padded encoding", partial(padded_encoding, size.padded))
    schedule = PLANS["projector"].schedule
    if read_baselines(FOLDER / "methods.json", THRESHOLD).get("step") is None:
        kept.cost("projector step", partial(projector_step, split, schedule))
    kept.cost("updates", lambda: sparse_and_dense(split.bench, start.trained, size.users))
    kept.cost("personal steps", lambda: personal_steps(split.bench, start.trained, split, schedule))
