"""Keeps an embedded Ray cluster for as long as its owner lives: ``python -m pipeline.cluster.keeper FOLDER``.

The owner is the ``dvc repro`` above the stages, so all of its stages share one cluster. The cluster is a head and one
virtual Jetson on loopback, built by Ray's own ``Cluster``; its processes are children of this one, and the kernel ends
them should this one be killed.
"""

from __future__ import annotations

import json
import platform
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import psutil

from jetson_agent.node import virtual_jetson
from jetson_agent.processes import end_processes
from pipeline.cluster.runtime import ProcessId, Record

POLL_S = 1.0
HEAD_OBJECT_STORE_BYTES = 300_000_000


def start_cluster(folder: Path, request: dict[str, Any]) -> Any:
    """Start the head and the virtual Jetson; returns Ray's ``Cluster``."""
    from ray.cluster_utils import Cluster

    head = {
        "node_name": "head",
        "num_cpus": request["head_cpus"],
        "num_gpus": 0,
        "object_store_memory": HEAD_OBJECT_STORE_BYTES,
        "labels": {"device": "host", "model": platform.machine(), "kind": "real"},
        "include_dashboard": False,
        "dashboard_agent_listen_port": 0,  # any free one: the default is taken by the next session
        "node_ip_address": "127.0.0.1",
        "temp_dir": str(folder / "ray"),
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    jetson = virtual_jetson(request["jetson_memory_bytes"])
    cluster.add_node(node_ip_address="127.0.0.1", temp_dir=str(folder / "ray"), **jetson.node_arguments())
    return cluster


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def keep(folder: Path) -> None:
    """Start the cluster that ``folder/request.json`` asks for, hold it until its owner is gone, then remove every trace."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    owner = ProcessId(**request["owner"])
    me = ProcessId.of(psutil.Process())
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    Record("", me, owner, ()).write(folder)
    try:
        cluster = start_cluster(folder, request)
        known: tuple[ProcessId, ...] = ()
        while not stop.wait(POLL_S if known else 0):
            if not owner.alive() or not cluster.remaining_processes_alive():
                break
            found = _identities()
            if found != known:
                known = found
                Record(cluster.address, me, owner, known).write(folder)
    finally:
        end_processes(_descendants())
        shutil.rmtree(folder, ignore_errors=True)


def _identities() -> tuple[ProcessId, ...]:
    found = []
    for process in _descendants():
        try:
            found.append(ProcessId.of(process))
        except psutil.Error:
            continue
    return tuple(sorted(found, key=lambda item: item.pid))


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
