"""Run as a program: a head and two virtual devices train users; one device is killed in the middle. Prints what came of it."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.cluster import environment
from pipeline.cluster.runtime import token_path

USERS = 6
DOOMED = "virtual-jetson-1"


class Lost(logging.Handler):
    """Counts the items that the driver repeats."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "its worker was lost" in record.getMessage()


def main() -> dict[str, object]:
    folder = Path(tempfile.mkdtemp(prefix="ed-"))
    token_path(folder).touch(mode=0o600)
    token_path(folder).write_text(secrets.token_hex(32))
    os.environ.update(environment.embedded(folder))  # before Ray is imported
    try:
        return train(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def train(folder: Path) -> dict[str, object]:
    import ray

    from jetson_agent.node import virtual_jetson
    from pipeline.cluster.keeper import start_cluster
    from pipeline.cluster.placement import Placement
    from pipeline.cluster.session import Session
    from pipeline.cluster.work import Result, run_tasks

    lost = Lost()
    logging.getLogger("pipeline.cluster.work").addHandler(lost)

    cluster = start_cluster(folder, {"head_cpus": 1, "jetson_memory_bytes": 2 * 10**9})
    second = cluster.add_node(
        node_ip_address="127.0.0.1",
        temp_dir=str(folder / "ray"),
        **virtual_jetson(2 * 10**9, name=DOOMED).node_arguments(),
    )
    ray.init(address=cluster.address, namespace="edgealign", log_to_driver=False, logging_level="ERROR")
    session = Session(cluster.address, True)
    train_slowly = slow_on(second.node_id)
    calls: list[int] = []
    nodes: list[str] = []
    seen = {"killed_s": 0.0, "noticed_s": 0.0, "results": 0}

    def watch() -> None:
        cluster_before = len(session.nodes())
        while len(session.nodes()) == cluster_before:
            time.sleep(0.1)
        seen["noticed_s"] = time.monotonic()

    watching = threading.Thread(target=watch, daemon=True)

    def done(index: int, result: Result) -> None:
        calls.append(index)
        nodes.append(result.node.name)
        assert result.value.tensors
        if not seen["killed_s"] and result.node.name != DOOMED:  # the other one is in the middle of its user
            watching.start()
            seen["killed_s"] = time.monotonic()
            second.kill_raylet(check_alive=False)
            seen["results"] = len(calls)

    try:
        failures = run_tasks(session, train_slowly, jobs(), Placement(cpus=0, jetson=1), retries=2, on_result=done)
        watching.join(timeout=60.0)
    finally:
        ray.shutdown()
        cluster.shutdown()
    return {
        "users": sorted(calls),
        "failures": [failure.message for failure in failures],
        "noticed_after_s": seen["noticed_s"] - seen["killed_s"],
        "after_the_kill": sorted(set(nodes[int(seen["results"]) :])),
        "repeated": lost.count,
    }


def slow_on(doomed: str) -> Callable[..., object]:
    """``train_user``, with a rest first on one node: it is then at work when it dies. Travels by value."""

    def work(*arguments: object) -> object:
        import time

        import ray

        from stages.personalize import train_user

        if ray.get_runtime_context().get_node_id() == doomed:
            time.sleep(5.0)
        return train_user(*arguments)

    return work


def jobs() -> list[tuple[object, ...]]:
    """A training a user, small but real."""
    from stages.alignment.bridgeformer import BridgeFormer
    from stages.alignment.personal import PersonalConfig
    from stages.base import Corpus
    from tests.helpers_alignment import CONFIG, rows, spoken

    weights = {name: value.detach().numpy() for name, value in BridgeFormer(CONFIG).state_dict().items()}
    found = []
    for user in range(USERS):
        examples = spoken(4, seed=user)
        corpus = Corpus(
            [item.utterance for item in examples],
            [item.text for item in examples],
            [item.frames.numpy() for item in examples],
            [item.target.numpy() for item in examples],
        )
        found.append((weights, CONFIG, rows().numpy(), corpus, PersonalConfig(steps=100), 1))
    return found


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(main()) + "\n")
