"""What the methods cost beside seconds to a quality: memory, a padded encoding, a step against the LLM's size.

``python -m benchmarks.methods_costs METHOD STEPS UTTERANCES`` is the fresh process in which memory is measured.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import corpora
from stages.alignment.methods.names import check_name
from stages.errors import EdgealignError

# hidden size, layers, heads, key and value heads, feed-forward; the second is SmolLM2-135M, the third is of SmolLM2-360M's
LLM_SIZES = ((576, 15, 9, 3, 1536), (576, 30, 9, 3, 1536), (960, 32, 15, 5, 2560))
STEPS = 3


def memory(name: str, utterances: int | None, steps: int = STEPS) -> dict[str, int]:
    """Peak memory of a method's first steps in a process of its own: ``start_bytes``, ``peak_bytes``, ``beyond_bytes``.

    The start is what the process takes after its imports, before data, weights or an LLM are there. Raises EdgealignError
    where the process fails.
    """
    command = [sys.executable, "-m", "benchmarks.methods_costs", name, str(steps), str(utterances or 0)]
    done = subprocess.run(command, cwd=corpora.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EdgealignError(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measure_memory(name: str, steps: int, utterances: int | None) -> dict[str, int]:
    """In this process: load what training needs, take the longest batches, tell the peak."""
    from benchmarks.alignment import Bench
    from benchmarks.methods import PLANS
    from benchmarks.methods_runs import Split
    from pipeline.cluster.worker import peak_rss_bytes, reset_peak_rss
    from stages.alignment.methods.registry import make_method

    reset_peak_rss()
    start = peak_rss_bytes()
    plan = PLANS[check_name(name)]
    schedule = plan.schedule
    split = Split(Bench.open(), 0, utterances, 1, 1)
    method = make_method(name, plan.material(split.material), schedule)
    longest = sorted(split.training, key=lambda example: -len(example.frames))
    for place in range(steps):
        method.step(longest[place * schedule.batch_size : (place + 1) * schedule.batch_size] or longest)
    peak = peak_rss_bytes()
    return {
        "start_bytes": start,
        "peak_bytes": peak,
        "beyond_bytes": peak - start,
        "llm_loaded": int(method.needs_llm),
        "trainable_parameters": method.trainable_parameters(),
    }


def padded_encoding(recordings: int) -> float:
    """Median seconds that an utterance takes in Whisper's padded 30 s window: what raw audio costs in each epoch."""
    from stages.audio import load_audio
    from stages.models.encoder import SpeechEncoder

    encoder = SpeechEncoder.load(corpora.models()[0])
    each = []
    for name, _, _, path in corpora.an4_recordings()[: recordings + 1]:
        samples = load_audio(Path(path), name)
        start = time.perf_counter()
        encoder.encode_padded(samples)
        each.append(time.perf_counter() - start)
    return statistics.median(each[1:])  # the first one warms up


def steps_by_llm_size(split: Any, plans: Any, sizes: Sequence[tuple[int, ...]] = LLM_SIZES) -> list[dict[str, float]]:
    """A step's median seconds an utterance, LLMs of random weights: ``projector`` through the LLM, ``embedlink`` past it.

    Random weights take as long as trained ones. The same batch for all, of middling length.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from stages.alignment.methods.registry import make_method

    known = AutoConfig.from_pretrained(split.bench.llm)
    found = []
    for hidden, layers, heads, kept_heads, feed_forward in sizes:
        config = type(known).from_dict(
            known.to_dict()
            | {
                "hidden_size": hidden,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "num_key_value_heads": kept_heads,
                "intermediate_size": feed_forward,
                "head_dim": hidden // heads,
                "layer_types": None,
            }
        )
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
        model.generation_config.eos_token_id = split.bench.tokenizer.eos_token_id
        rows = model.get_input_embeddings().weight[list(split.vocabulary.ids)]
        material = replace(
            split.material, bridge=replace(split.bench.bridge, llm_width=hidden), rows=rows, llm=lambda m=model: m
        )
        told = {"hidden": float(hidden), "layers": float(layers), "parameters": float(model.num_parameters())}
        for name in ("embedlink", "projector"):
            schedule = plans[name].schedule
            method = make_method(name, plans[name].material(material), schedule)
            told[name] = step_seconds(method, split.training, schedule.batch_size) / schedule.batch_size
        told["ratio"] = told["projector"] / told["embedlink"]
        found.append(told)
        del model, material, rows
    return found


def _same(model: Any) -> Any:
    return model


def step_seconds(method: Any, training: Sequence[Any], batch_size: int) -> float:
    """Median seconds of a method's step on a batch of middling length; the method has learned from it afterwards."""
    by_length = sorted(training, key=lambda example: len(example.frames))
    middle = max(0, (len(by_length) - batch_size) // 2)
    batch = by_length[middle : middle + batch_size]
    each = []
    for _ in range(1 + STEPS):
        before = method.seconds
        method.step(batch)
        each.append(method.seconds - before)
    return statistics.median(each[1:])  # the first one computes the prefix and warms up


if __name__ == "__main__":
    print(json.dumps(_measure_memory(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) or None)))
