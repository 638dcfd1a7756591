"""One method's run: dealt batches, judged in between, stopped by its schedule or its budget; and runs kept as they finish."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks import corpora
from benchmarks.alignment import Bench, seconds_to, speakers
from benchmarks.kept import Kept
from stages.alignment.methods.protocol import Method, Schedule, epoch_batches
from stages.alignment.methods.registry import Material, make_method
from stages.alignment.metrics import ErrorCounts, word_errors
from stages.alignment.trainer import Example, Masking
from stages.alignment.vocabulary import Vocabulary
from stages.models.llm import load_llm
from stages.text import fair_cascade

log = logging.getLogger("edgealign")

CODE = (*(f"benchmarks/methods{part}.py" for part in ("", "_costs", "_runs")), "stages/alignment/**/*.py")
"""What a run's figures come of."""


@dataclass(frozen=True)
class Plan:
    """How a method is trained and judged in the comparison."""

    schedule: Schedule
    budget_s: float  # of training; a run that is slower is stopped there and says so
    judge_every: int  # steps
    judge_from: float = 0.0  # share of the schedule before which nothing is judged: an LLM's early replies are long
    sizes: Mapping[str, float] = field(default_factory=dict)  # of BridgeFormer, where they are not those of params.yaml
    masked: bool = True  # whether parts of the frames are masked while it learns
    first_seed_only: bool = False

    def material(self, material: Material) -> Material:
        """What the method is made from under this plan."""
        changed = replace(material, bridge=replace(material.bridge, **self.sizes))  # type: ignore[arg-type]  # as the fields
        return changed if self.masked else replace(changed, masking=Masking(0, 0, 0, 0))


@dataclass
class Run:
    """What came of one method with one seed."""

    method: str
    seed: int
    kind: str  # "whole" schedule, or "equal" for one cut to a share of a budget
    stopped: str  # why it ended
    steps: int
    seconds: float  # of training
    wer: float  # on all utterances of the unseen speakers, after the last step
    words: int
    trainable_parameters: int
    batch_size: int
    step_seconds: float  # median
    judge_seconds: float  # spent judging, in no other figure
    curve: list[tuple[float, float, int]] = field(default_factory=list)  # (seconds, WER on the fixed subset, steps)

    def seconds_to(self, quality: float) -> float | None:
        """Seconds of training until the WER stays at or under ``quality``; None where it never does."""
        return seconds_to([(seconds, wer) for seconds, wer, _ in self.curve], quality)

    def steps_to(self, quality: float) -> int | None:
        """Steps of training until then."""
        found = seconds_to([(steps, wer) for _, wer, steps in self.curve], quality)
        return None if found is None else int(found)


class Split:
    """One seed's speakers: who is learned from, and who judges. The same for every method."""

    def __init__(
        self, bench: Bench, seed: int, train: int | None, judged: int, final: int | None, tuning: bool = False
    ) -> None:
        """``train`` and ``final``: at most so many utterances; ``judged``: those that a curve is drawn from. ``tuning`` splits
        the seed's training speakers once more, so that nothing is chosen on those who judge the comparison."""
        training, unseen = speakers(corpora.an4(), seed)
        if tuning:
            training, unseen = speakers(training, seed)
        self.bench = bench
        self.seed = seed
        self.vocabulary = Vocabulary.of_texts(bench.tokenizer, [item.text for item in training])
        self.training = bench.examples(training, self.vocabulary)[:train]
        # what a read-out must not look at is not there: unseen words would have no row in any case
        self.unseen = [
            Example(item.utterance, example_frames(item.frames), self.training[0].target[:0], item.text)
            for item in unseen
        ][:final]
        spread = np.linspace(0, len(self.unseen) - 1, min(judged, len(self.unseen))).astype(int)
        self.judged = [self.unseen[place] for place in sorted(set(spread.tolist()))]

    @cached_property
    def material(self) -> Material:
        """What the methods are made from."""
        from stages.models.llm import embedding_rows

        return Material(
            examples=self.training,
            vocabulary=self.vocabulary,
            rows=embedding_rows(self.bench.llm, self.vocabulary.ids),
            bridge=self.bench.bridge,
            tokenizer=self.bench.tokenizer,
            llm=lambda: load_llm(self.bench.llm)[0],
            transcribe=_transcriber(self.bench),
            samples=_recordings(),
            embedding_weight=self.bench.settings.alignment.embedding_weight,
        )


def example_frames(frames: np.ndarray) -> Any:
    """Stored float16 frames as a float32 tensor."""
    import torch

    return torch.from_numpy(frames.astype(np.float32))


def _transcriber(bench: Bench) -> Callable[[np.ndarray], str]:
    """Opens the transcriber with its first utterance."""
    opened: list[Any] = []

    def transcribe(samples: np.ndarray) -> str:
        if not opened:
            from stages.models.prepare import prepare_transcriber
            from stages.pseudo_labels import Transcriber

            settings = bench.settings
            opened.append(
                Transcriber(
                    prepare_transcriber(settings.models.transcriber), settings.pseudo_labels.beam_size, threads=2
                )
            )
        return opened[0].transcribe(samples).text

    return transcribe


def _recordings() -> Callable[[str], np.ndarray]:
    from stages.audio import load_audio

    files = {name: path for name, _, _, path in corpora.an4_recordings()}
    return lambda name: load_audio(files[name], name)


def judge(method: Method, items: Sequence[Example]) -> ErrorCounts:
    """Word errors of a method's read-outs; a cascade's transcript in the reading that is kindest to it."""
    texts = method.read(items)
    references = [item.text for item in items]
    if method.name == "cascade":
        texts = [fair_cascade(said, text) for said, text in zip(references, texts, strict=True)]
    return word_errors(references, texts, "en")


def run_method(name: str, split: Split, plan: Plan, kind: str = "whole") -> Run:
    """Train one method on a split's speakers and judge it on the unseen ones. Judging counts in no training second."""
    schedule = replace(plan.schedule, seed=split.seed)
    method = make_method(name, plan.material(split.material), schedule)
    total = schedule.steps(len(split.training)) if method.trainable_parameters() else 0
    curve: list[tuple[float, float, int]] = []
    each: list[float] = []
    spent = 0.0
    errors: ErrorCounts | None = None
    stopped = f"schedule of {total} steps done"
    while len(each) < total:
        for batch in epoch_batches(split.training, schedule, len(each) // schedule.epoch_steps(len(split.training))):
            before = method.seconds
            loss = method.step(batch)
            each.append(method.seconds - before)
            late = method.seconds >= plan.budget_s and len(each) < total
            due = len(each) % plan.judge_every == 0 and len(each) >= plan.judge_from * total
            if due or late or len(each) == total:
                start = time.perf_counter()
                errors = judge(method, split.judged)
                spent += time.perf_counter() - start
                curve.append((round(method.seconds, 2), round(errors.wer, 4), len(each)))
                log.info(
                    "%s, seed %d: step %d of %d, %.1f s, loss %.3f, WER %.3f",
                    *(name, split.seed, len(each), total, method.seconds, loss, errors.wer),
                )
            if late:
                stopped = f"budget of {plan.budget_s:g} s spent at step {len(each)} of {total}"
            if late or len(each) == total:
                break
        if late:
            break
    start = time.perf_counter()
    if errors is None or len(split.judged) < len(split.unseen):  # else the last point of the curve has judged them all
        errors = judge(method, split.unseen)
    spent += time.perf_counter() - start
    return Run(
        method=name,
        seed=split.seed,
        kind=kind,
        stopped=stopped if total else "does not learn",
        steps=len(each),
        seconds=round(method.seconds, 2),
        wer=round(errors.wer, 4),
        words=errors.words,
        trainable_parameters=method.trainable_parameters(),
        batch_size=schedule.batch_size,
        step_seconds=round(statistics.median(each), 4) if each else 0.0,
        judge_seconds=round(spent, 1),
        curve=curve,
    )


class KeptRuns(Kept):
    """Finished runs and costs on disk, so that a comparison that is stopped goes on where it was.

    What was measured with other code, under other settings, on another machine or with other libraries is never mixed in.
    """

    def __init__(self, settings: Any) -> None:
        super().__init__("methods", CODE, settings)
        self.runs = [
            Run(**{**item, "curve": [tuple(point) for point in item["curve"]]}) for item in self.known.get("runs", [])
        ]
        self.costs: dict[str, Any] = self.known.get("costs", {})
        if self.runs or self.costs:
            log.info("goes on with %d runs and %d costs kept in %s", len(self.runs), len(self.costs), self.path)

    def find(self, name: str, seed: int, kind: str = "whole") -> Run | None:
        """A finished run."""
        return next((run for run in self.runs if (run.method, run.seed, run.kind) == (name, seed, kind)), None)

    def of(self, name: str, kind: str = "whole") -> list[Run]:
        """A method's finished runs."""
        return [run for run in self.runs if (run.method, run.kind) == (name, kind)]

    def add(self, run: Run) -> None:
        self.runs.append(run)
        self.write()

    def cost(self, name: str, measure: Callable[[], Any]) -> Any:
        """A cost by name, measured where it is not known yet."""
        if name not in self.costs:
            self.costs[name] = measure()
            log.info("%s: %s", name, self.costs[name])
            self.write()
        return self.costs[name]

    def write(self) -> None:
        self.known = {"runs": [asdict(run) for run in self.runs], "costs": self.costs}
        super().write()


def equal_plan(plan: Plan, step_seconds: float, budget_s: float) -> Plan:
    """A method's plan with its schedule cut to the steps that fit into ``budget_s``: the rate ends with it, so that the
    little time is used as well as it can be. ``step_seconds``: what a step takes."""
    steps = max(1, int(budget_s / step_seconds))
    return replace(plan, schedule=replace(plan.schedule, limit=steps), budget_s=2 * budget_s, judge_every=max(1, steps))
