"""A base that several workers train together: a small corpus, and how good what comes of it is.

Run as a program: a head and two or more virtual devices train it through Ray Train. Prints what came of it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.alignment.exchange import ExchangeConfig
from stages.alignment.metrics import word_errors
from stages.alignment.trainer import Masking, Trainer, read_out_all
from stages.base import BaseSetup, Corpus, examples_of, spell
from stages.base_parallel import divide
from tests.helpers_alignment import CONFIG, WORDS, rows, spoken, train_config

EXCHANGE = ExchangeConfig(local_steps=4, density=0.3, whole_below=64)


def setup(count: int = 160, epochs: int = 16) -> BaseSetup:
    examples = spoken(count)
    corpus = Corpus(
        [one.utterance for one in examples],
        [one.text for one in examples],
        [one.frames.numpy().astype(np.float16) for one in examples],
        [one.target.numpy() for one in examples],
        [f"user{place % 8}" for place in range(count)],
    )
    tokens = [f" {word}" for word in WORDS]
    empty = Corpus([], [], [], [])
    return BaseSetup(CONFIG, train_config(epochs=epochs), corpus, empty, rows().numpy(), tokens)


def wer(made: BaseSetup, weights: dict[str, np.ndarray]) -> float:
    trainer = Trainer(CONFIG, made.train, spoken(4), rows())
    trainer.bridge.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    judging = spoken(40, seed=77)
    heard = [
        spell(made.tokens, out.rows)
        for out in read_out_all(trainer.bridge, trainer.link, [one.frames for one in judging])
    ]
    return word_errors([one.text for one in judging], heard).wer


def alone(workers: int) -> float:
    """The WER of one training with the batches of all workers together."""
    made = setup()
    config = train_config(epochs=made.train.epochs, batch_size=workers * made.train.batch_size)
    trainer = Trainer(CONFIG, config, examples_of(made.training), rows())
    for _ in range(config.epochs):
        trainer.run_epoch()
    return wer(made, {name: value.numpy() for name, value in trainer.bridge.state_dict().items()})


SLOW = Masking(time_masks=10_000, time_mask_frames=0, feature_masks=0)
"""Draws masks of no width for some tenths of a second: ten times slower and nothing else."""


def main(what: str, workers: int = 2) -> dict[str, object]:
    """``what``: "killed" (a worker, once), "slow" (one of them) or "stage" (as the stage does it, on two)."""
    from pipeline.cluster import environment
    from pipeline.cluster.runtime import token_path

    folder = Path(tempfile.mkdtemp(prefix="ed-"))
    token_path(folder).touch(mode=0o600)
    token_path(folder).write_text(secrets.token_hex(32))
    os.environ.update(environment.embedded(folder))  # before Ray is imported
    try:
        return _train(folder, what, workers)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _train(folder: Path, what: str, workers: int) -> dict[str, object]:
    import ray

    from jetson_agent.node import virtual_jetson
    from pipeline.cluster.data_parallel import train_parallel
    from pipeline.cluster.keeper import start_cluster
    from pipeline.cluster.placement import Placement
    from pipeline.cluster.session import Session

    cluster = start_cluster(folder, {"head_cpus": 1, "jetson_memory_bytes": 2 * 10**9})
    for number in range(1, workers):
        cluster.add_node(
            node_ip_address="127.0.0.1",
            temp_dir=str(folder / "ray"),
            **virtual_jetson(2 * 10**9, name=f"virtual-jetson-{number}").node_arguments(),
        )
    ray.init(address=cluster.address, namespace="edgealign", log_to_driver=False, logging_level="ERROR")
    made = setup()
    shares = divide(made, workers, EXCHANGE)
    if what == "slow":
        slow = replace(shares[1].setup, train=replace(shares[1].setup.train, masking=SLOW))
        shares[1] = replace(shares[1], setup=slow)
    if what == "stage":
        try:
            return _stage(Session(cluster.address, True), made)
        finally:
            ray.shutdown()
            cluster.shutdown()
    killed: list[int] = []

    def on_round(done: int) -> None:
        if what == "killed" and not killed:
            killed.append(_kill_a_worker())

    try:
        found = train_parallel(
            Session(cluster.address, True),
            shares,
            Placement(cpus=0, jetson=1),
            retries=1,
            threads=1,
            on_round=on_round,
        )
    finally:
        ray.shutdown()
        cluster.shutdown()
    trainer = Trainer(CONFIG, made.train, examples_of(made.training), rows())  # for its buffers
    weights = {name: value.numpy() for name, value in trainer.bridge.state_dict().items()} | found.weights
    return {
        "rounds": found.rounds,
        "asked": shares[0].rounds,
        "sent": found.sent_bytes,
        "received": found.received_bytes,
        "late": found.late,
        "killed": killed,
        "losses": [loss for _, loss in found.losses],
        "wer": wer(made, weights),
        "parameters": sum(value.size for value in found.weights.values()),
    }


def _stage(session: Any, made: BaseSetup) -> dict[str, object]:
    """What the ``base`` stage does with the cluster, and what it says where there are too few devices."""
    from pipeline.cluster.placement import Placement
    from pipeline.runs.base_parallel import train_base
    from pipeline.runs.common import Costs
    from pipeline.settings import Base
    from stages.errors import ClusterError

    judging = spoken(40, seed=77)
    held_out = Corpus(
        [one.utterance for one in judging],
        [one.text for one in judging],
        [one.frames.numpy().astype(np.float16) for one in judging],
        [one.target.numpy() for one in judging],
    )
    made = replace(made, held_out=held_out)
    epochs: list[int] = []
    base = Base(epochs=made.train.epochs, workers=2, exchange_steps=4, exchange_density=0.3)
    placement, costs = Placement(cpus=0, jetson=1), Costs()
    found = train_base(session, made, base, placement, costs, retries=1, advance=epochs.append)
    refused = ""
    try:
        three = base.model_copy(update={"workers": 3})
        train_base(session, made, three, placement, costs, retries=1, advance=epochs.append)
    except ClusterError as error:
        refused = str(error)
    return {
        "dev_wer": found.dev_wer,
        "wer": wer(made, {name.removeprefix("bridge."): value for name, value in found.state.items()}),
        "epochs": sum(epochs),
        "losses": found.losses,
        "seconds": found.seconds,
        "sent": found.sent_bytes,
        "rounds": found.rounds,
        "parameters": sum(value.size for value in found.state.values()),
        "refused": refused,
    }


def _kill_a_worker() -> int:
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        if any("RayTrainWorker" in word for word in process.info["cmdline"] or []):
            process.send_signal(signal.SIGKILL)
            return process.pid
    raise AssertionError([process.info["cmdline"] for process in psutil.process_iter(["cmdline"])])


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], *map(int, sys.argv[2:]))))
