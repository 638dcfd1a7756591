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
from contextlib import suppress
from dataclasses import dataclass, field
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
AT_ONCE_S = 1.0
"""How long its processes have between SIGTERM and SIGKILL: by themselves, and after a second signal."""
DRAIN_S = 30.0
"""How long a node that is told to leave waits for the work that runs on it."""
ANSWER_TIMEOUT_S = 3.0
LARGEST_ANSWER_BYTES = 100_000_000
"""Of one task's result; Ray's messages may have 2.5 times that. A base's whole state has 24 MB."""


@dataclass
class Leaving:
    """What the signals have asked for so far."""

    asked: threading.Event = field(default_factory=threading.Event)
    """The first one: leave, once what runs here is done."""
    at_once: threading.Event = field(default_factory=threading.Event)
    """The second one: leave now."""

    def signalled(self, *_: object) -> None:
        """The handler of SIGTERM and SIGINT."""
        (self.at_once if self.asked.is_set() else self.asked).set()


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


def environment(path: Path, drain_s: float = DRAIN_S) -> dict[str, str]:
    """The environment of ``ray start`` on a device: token required, no usage statistics, dead peers noticed within seconds.

    TLS and all else comes with the agent's own environment.
    """
    return {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_grpc_client_keepalive_time_ms": "5000",
        "RAY_grpc_client_keepalive_timeout_ms": "3000",
        # on SIGTERM `ray start --block` itself has the head send no more work here, and waits so long for what runs
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": f"{drain_s:g}",
        # results come with the answer: a node that leaves ends as soon as nothing runs, with what still lies in its store
        "RAY_max_direct_call_object_size": str(LARGEST_ANSWER_BYTES),
        "RAY_task_rpc_inlined_bytes_limit": str(LARGEST_ANSWER_BYTES),
    }


def command(node: JetsonNode, head: str) -> list[str]:
    """The whole command line of one joining, with the ``ray`` of this very environment."""
    return [sys.executable, "-m", "ray.scripts.scripts", *node.start_arguments(head)]


def family(process: psutil.Popen) -> list[psutil.Process]:
    """The node's processes; empty where it has ended."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def supervise(
    node: JetsonNode,
    head: str,
    token_path: Path,
    *,
    drain_s: float = DRAIN_S,
    line: Callable[[JetsonNode, str], list[str]] = command,
) -> int:
    """Keep the node joined until SIGTERM or SIGINT; returns the exit status 0 then.

    The node then takes no new work and has ``drain_s`` for what runs on it; a second signal ends it at once. Raises
    ClusterError where ``head`` is no HOST:PORT; one that does not answer is tried again and again.
    """
    host, _, port = head.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"--head {head!r}: needed HOST:PORT, e.g. 192.0.2.10:6379")
    leaving = Leaving()
    stop = leaving.asked
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leaving.signalled)
    pause = tenacity.wait_exponential_jitter(initial=SHORTEST_PAUSE_S, max=LONGEST_PAUSE_S)

    def hold() -> float:
        return 0.0 if stop.is_set() else _hold(node, head, line(node, head), environment(token_path, drain_s), leaving)

    while not stop.is_set():
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda held_s: held_s < STEADY_S and not stop.is_set()),
            wait=pause,
            sleep=tenacity.sleep_using_event(stop),
            before_sleep=lambda state: logger.info(
                "joining again in %.0f s", state.next_action.sleep if state.next_action else 0
            ),
        )
        retrying(hold)
    logger.info("left the cluster")
    return 0


def _hold(node: JetsonNode, head: str, line: list[str], variables: dict[str, str], leaving: Leaving) -> float:
    """Join once and stay until the connection is lost or a signal comes; returns how long it held in seconds."""
    kind = "virtual" if node.virtual else "real"
    logger.info("joining %s as %s (%s %s, %.1f GB)", head, node.device_name, kind, node.model, node.memory_bytes / 1e9)
    started = time.monotonic()
    process = psutil.Popen(line, stdin=subprocess.DEVNULL, env=variables, start_new_session=True)
    while process.poll() is None and not leaving.asked.wait(0.2):
        pass
    status = process.poll()
    # named before they are left by the process that started them; by pid, as `ray stop` looks for every Ray of the machine
    processes = family(process)
    if status is None:
        drain(process, head, float(variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]), leaving.at_once)
    end_processes(processes, AT_ONCE_S if leaving.at_once.is_set() else GRACE_S)
    held_s = time.monotonic() - started
    if not leaving.asked.is_set():
        logger.warning("the node ended with status %s after %.0f s", status, held_s)
    return held_s


def drain(process: psutil.Popen, head: str, drain_s: float, at_once: threading.Event) -> None:
    """Let ``ray start`` leave: no new work, ``drain_s`` for what runs. Returns when it has ended, or is to be ended."""
    if not drain_s:
        return
    if not answers(head):
        logger.warning("the head %s does not answer: leaving at once, what runs here is repeated elsewhere", head)
        return
    logger.info("leaving: no new work, up to %g s for what runs here; a second signal ends it at once", drain_s)
    started = time.monotonic()
    with suppress(psutil.NoSuchProcess):
        process.terminate()
    while process.poll() is None and time.monotonic() - started < drain_s and not at_once.wait(0.1):
        pass
    waited_s = time.monotonic() - started
    if process.poll() is not None:
        logger.info("the node ended after %.0f s", waited_s)
    else:
        logger.warning("after %.0f s work was still under way here: it is repeated elsewhere", waited_s)


def answers(head: str) -> bool:
    """Whether something listens at HOST:PORT."""
    host, _, port = head.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_TIMEOUT_S).close()
    except (OSError, OverflowError):
        return False
    return True
