"""The other side of the race: the best method with the LLM in the loop, its base, and a personal update of it.

``projector-lora``: a projector and LoRA layers in a frozen LLM, on cached frames. Its base is trained by the plan of the
methods' comparison. An update goes on with all that the method trains, with what ours has as well: a fresh AdamW under a
one-cycle rate, the gradient clipped, the user's frames shifted to the base's mean, parts of them masked where that helps.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from benchmarks import corpora
from benchmarks.alignment import Bench
from benchmarks.methods import PLANS
from benchmarks.methods_runs import example_frames
from benchmarks.personal_users import SEED, base_path
from pipeline.progress import progress
from stages.alignment.methods.lora import ProjectorLora
from stages.alignment.methods.projector import Projector
from stages.alignment.methods.protocol import Schedule, epoch_batches
from stages.alignment.personal import MASKING
from stages.alignment.resume import Checkpoint, load_optimizer, optimizer_tensors, schedule_position
from stages.alignment.trainer import Example, length_batches, mask_frames, mean_frame, one_cycle
from stages.atomic import sha256_file, write_bytes
from stages.examples import LabelledUtterance
from stages.models.identity import read_identity
from stages.models.llm import load_llm

log = logging.getLogger("edgealign")

BASELINE = "projector-lora"
CODE = ("protocol", "in_the_loop", "frozen_llm", "lora", "projector")
CHECKPOINT_S = 60.0


@dataclass
class LoopBase:
    """The method, the state that it is set back to for each user, and the (F,) mean frame that it was taught on."""

    method: ProjectorLora
    state: dict[str, Tensor]
    frame_mean: Tensor

    def restore(self) -> None:
        """Set the method back to its base."""
        for name, module in self.method.modules.items():
            own = {
                key.removeprefix(f"{name}."): value for key, value in self.state.items() if key.startswith(f"{name}.")
            }
            module.load_state_dict(own)


def loop_schedule(limit: int | None) -> Schedule:
    """Of the base; ``limit``: steps."""
    return replace(PLANS[BASELINE].schedule, seed=SEED, limit=limit)


def loop_path(bench: Bench, teaching: Sequence[LabelledUtterance], limit: int | None) -> Path:
    """Where the base lies, by all that makes it."""
    folder = corpora.ROOT / "stages" / "alignment" / "methods"
    code = [sha256_file(folder / f"{name}.py") for name in CODE]
    code += [
        inspect.getsource(part) for part in (length_batches, one_cycle)
    ]  # the trainer's others are none of its own
    return base_path(BASELINE, teaching, [repr(loop_schedule(limit)), str(read_identity(bench.llm)), code])


def loop_base(bench: Bench, teaching: Sequence[LabelledUtterance], limit: int | None = None) -> LoopBase:
    """Trained once (some five minutes on a quiet machine) for the same code, plan and speakers; from disk after that, and
    from a checkpoint where it was stopped."""
    examples, path = spoken(teaching), loop_path(bench, teaching, limit)
    method = make_loop(bench, loop_schedule(limit), len(examples))
    if not path.is_file():
        train_base(method, examples, Checkpoint(path.with_suffix(".part"), path.name, CHECKPOINT_S))
        write_bytes(path, save(state_of(method)))
        path.with_suffix(".part").unlink(missing_ok=True)
    base = LoopBase(method, load_file(path), mean_frame(examples))
    base.restore()
    return base


def train_base(method: ProjectorLora, examples: Sequence[Example], checkpoint: Checkpoint) -> None:
    """The whole schedule, from the checkpoint on where there is one."""
    schedule = method.schedule
    total, size, done = schedule.steps(len(examples)), schedule.epoch_steps(len(examples)), 0
    saved = checkpoint.load()
    if saved is not None:
        tensors, told = saved
        LoopBase(method, tensors, torch.empty(0)).restore()
        load_optimizer(method.optimizer, method.scheduler, tensors, told["position"])
        done, method.seconds = told["done"], told["seconds"]
    with progress(f"{BASELINE}'s base", total, "steps") as advance:
        advance(done)
        while done < total:
            for batch in list(epoch_batches(examples, schedule, done // size))[done % size :]:
                method.step(batch)
                done += 1
                advance(1)
                if checkpoint.due():
                    where = schedule_position(method.optimizer, method.scheduler)
                    told = {"position": where, "done": done, "seconds": method.seconds}
                    checkpoint.save(state_of(method) | optimizer_tensors(method.optimizer), told)
                if done == total:
                    break
    log.info("%s's base: %d steps, %.0f s of training", BASELINE, total, method.seconds)


def state_of(method: ProjectorLora) -> dict[str, Tensor]:
    """What the method has learned, as flat tensors."""
    return {
        f"{name}.{key}": value.detach().contiguous()
        for name, module in method.modules.items()
        for key, value in module.state_dict().items()
    }


def make_loop(bench: Bench, schedule: Schedule, examples: int) -> ProjectorLora:
    """As ``registry.make_method`` makes it, without what only the other methods need."""
    model = load_llm(bench.llm)[0]
    torch.manual_seed(schedule.seed)
    bridge = Projector(bench.bridge.encoder_width, bench.bridge.llm_width)
    return ProjectorLora(bridge, model, bench.tokenizer, schedule, examples)


def spoken(items: Sequence[LabelledUtterance]) -> list[Example]:
    """Examples without targets, for a method that learns from texts."""
    none = torch.empty(0, dtype=torch.long)
    return [Example(item.utterance, example_frames(item.frames), none, item.text) for item in items]


@dataclass(frozen=True)
class LoopPlan:
    """How an update of the baseline learns."""

    learning_rate: float
    steps: int
    batch_size: int
    masked: bool = False
    shift: bool = True


def shifted(base: LoopBase, items: Sequence[Example], learned_from: Sequence[Example], plan: LoopPlan) -> list[Example]:
    """``items`` with the difference between the base's mean frame and the user's added, as ours has it."""
    change = base.frame_mean - mean_frame(learned_from) if plan.shift else torch.zeros(())
    return [replace(item, frames=item.frames + change) for item in items]


def update(
    base: LoopBase,
    examples: Sequence[Example],
    plan: LoopPlan,
    watch: Callable[[int], None] | None = None,
    limit: int | None = None,
) -> list[float]:
    """Learn from a user's examples, already ``shifted``; the seconds of each step. The base is set back first.

    ``watch`` is called after each step, and once before the first, with the steps done; what it takes counts in no second.
    ``limit``: only the first so many steps of the schedule, for their time.
    """
    base.restore()
    method = base.method
    method.optimizer = torch.optim.AdamW(method.parameters(), lr=plan.learning_rate, weight_decay=0.0)
    method.scheduler = one_cycle(method.optimizer, plan.learning_rate, plan.steps, 0.1)
    generator = np.random.default_rng(SEED)
    size = min(plan.batch_size, len(examples))
    queue: list[int] = []
    each: list[float] = []
    if watch is not None:
        watch(0)
    for step in range(min(plan.steps, limit or plan.steps)):
        start = time.perf_counter()
        if len(queue) < size:
            queue += generator.permutation(len(examples)).tolist()
        batch = [examples[queue.pop(0)] for _ in range(size)]
        method.step([_masked(item, generator) for item in batch] if plan.masked else batch)
        each.append(time.perf_counter() - start)
        if watch is not None:
            watch(step + 1)
    return each


def _masked(item: Example, generator: np.random.Generator) -> Example:
    lengths = torch.tensor([len(item.frames)])
    return replace(item, frames=mask_frames(item.frames[None], lengths, MASKING, generator)[0])
