"""Joining a cluster under supervision: one ``ray start --block`` after another, until told to stop."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import tenacity

from jetson_agent.node import JetsonNode, detect, virtual_jetson
from jetson_agent.processes import end_processes
from stages.errors import ClusterError

logger = logging.getLogger(__name__)

SHORTEST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
STEADY_S = 120.0
"""A connection that held this long counts as good: the next pause is a short one again."""
GRACE_S = 10.0


def describe_node(*, virtual: bool, memory_bytes: int | None) -> JetsonNode:
    """This device, or a stand-in that offers ``memory_bytes`` (default 6 GB)."""
    if virtual:
        return virtual_jetson(memory_bytes or 6_000_000_000, name=f"virtual-{socket.gethostname()}")
    return detect(memory_bytes)


def token_file(given: Path | None) -> Path:
    """Where the cluster's token lies: ``given``, else ``RAY_AUTH_TOKEN_PATH``, else Ray's own place."""
    return given or Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def token(given: Path | None) -> Path:
    """The token's file, checked. Raises ClusterError where it cannot be read or is empty."""
    path = token_file(given)
    try:
        if path.read_text(encoding="utf-8").strip():
            return path
        why = "is empty"
    except (OSError, UnicodeDecodeError) as error:
        why = f"cannot be read ({error})"
    raise ClusterError(
        f"{path}: the cluster's token {why}. Copy it from the head (there: `ray get-auth-token`) and chmod it 600."
    )


def environment(path: Path) -> dict[str, str]:
    """The environment of ``ray start`` on a device: token required, no usage statistics, dead peers noticed within seconds."""
    return {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_grpc_client_keepalive_time_ms": "5000",
        "RAY_grpc_client_keepalive_timeout_ms": "3000",
    }


def command(node: JetsonNode, head: str) -> list[str]:
    """The whole command line of one joining, with the ``ray`` of this very environment."""
    return [sys.executable, "-m", "ray.scripts.scripts", *node.start_arguments(head)]


def end(process: psutil.Popen) -> None:
    """Stop the node's own processes by pid; never `ray stop`, which looks for every Ray process of the machine."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    end_processes(family, GRACE_S)


def supervise(
    node: JetsonNode, head: str, token_path: Path, *, line: Callable[[JetsonNode, str], list[str]] = command
) -> int:
    """Keep the node joined until SIGTERM or SIGINT; returns the exit status 0 then.

    Raises ClusterError where ``head`` is no HOST:PORT; one that does not answer is tried again and again.
    """
    host, _, port = head.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"--head {head!r}: needed HOST:PORT, e.g. 192.0.2.10:6379")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    pause = tenacity.wait_exponential_jitter(initial=SHORTEST_PAUSE_S, max=LONGEST_PAUSE_S)
    while not stop.is_set():
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda held_s: held_s < STEADY_S and not stop.is_set()),
            wait=pause,
            sleep=tenacity.sleep_using_event(stop),
            before_sleep=lambda state: logger.info(
                "joining again in %.0f s", state.next_action.sleep if state.next_action else 0
            ),
        )
        retrying(lambda: _hold(node, head, token_path, stop, line))
    logger.info("left the cluster")
    return 0


def _hold(
    node: JetsonNode, head: str, token_path: Path, stop: threading.Event, line: Callable[[JetsonNode, str], list[str]]
) -> float:
    """Join once and stay until the connection is lost or ``stop`` is set; returns how long it held in seconds."""
    if stop.is_set():
        return 0.0
    kind = "virtual" if node.virtual else "real"
    logger.info("joining %s as %s (%s %s, %.1f GB)", head, node.device_name, kind, node.model, node.memory_bytes / 1e9)
    started = time.monotonic()
    process = psutil.Popen(
        line(node, head), stdin=subprocess.DEVNULL, env=environment(token_path), start_new_session=True
    )
    while process.poll() is None and not stop.wait(0.2):
        pass
    status = process.poll()
    end(process)
    held_s = time.monotonic() - started
    if not stop.is_set():
        logger.warning("the node ended with status %s after %.0f s", status, held_s)
    return held_s
