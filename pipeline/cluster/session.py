"""A connection to Ray: to the address in ``params.yaml``, or to the embedded session that one ``dvc repro`` shares."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from jetson_agent.processes import end_processes
from pipeline.cluster import environment, probe, runtime
from pipeline.cluster.nodes import NodeInfo, living
from pipeline.owner import owner
from pipeline.project import Project
from pipeline.settings import Settings
from stages.atomic import write_json
from stages.errors import ClusterError

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 5.0
CODE = probe.CODE


@dataclass(frozen=True)
class Session:
    """A driver's connection to a cluster."""

    address: str
    """HOST:PORT of the head."""
    embedded: bool
    """True for the local session of a head and one virtual Jetson."""

    def nodes(self) -> list[NodeInfo]:
        """The nodes that live now."""
        import ray
        from ray._private import state

        return living(ray.nodes(), state.state.get_draining_nodes())

    def describe(self) -> str:
        """Which nodes there are, each with its kind (virtual or real), model and memory."""
        title = f"Ray at {self.address}" + (" (embedded)" if self.embedded else "")
        return "\n  ".join([f"{title}:", *(node.describe() for node in self.nodes())])


@contextmanager
def connect(project: Project, settings: Settings) -> Iterator[Session]:
    """Connect this process to Ray for the time of the ``with`` block; one connection a process at a time.

    Raises ClusterError where the head does not answer or refuses the token, or the embedded session does not start.
    """
    if settings.ray.address:
        variables, runtime_env, loopback = environment.remote(), _upload(), _reach(settings.ray.address)
        address, is_embedded = settings.ray.address, False
    else:
        folder, record = ensure_embedded(project, settings)
        variables, runtime_env, loopback = environment.embedded(folder), None, True
        address, is_embedded = record.address, True
    with _set_environment(variables):
        _init(address, runtime_env, loopback=loopback)
        import ray

        try:
            session = Session(address, is_embedded)
            logger.info("%s", session.describe())
            yield session
        finally:
            ray.shutdown()


@contextmanager
def _set_environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _init(address: str, runtime_env: dict[str, object] | None, *, loopback: bool) -> None:
    import ray
    from ray._private import ray_constants
    from ray._private import worker as ray_worker

    # Ray prints every lost worker with pages of another node's log, also with log_to_driver=False; our own line says it
    ray_worker.print_to_stdstream = _log_quietly
    # Ray reads its switch for loopback once, at import, and something else may have imported it before. Where the switch
    # does not match the cluster, ray.init waits for a node with this host's other address for minutes.
    ray_constants.ENABLE_RAY_CLUSTER = not loopback
    try:
        ray.init(
            address=address,
            namespace="edgealign",
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=runtime_env,
        )
    except Exception as error:  # Ray raises RuntimeError, ConnectionError, ValueError and its own
        raise ClusterError(f"Ray at {address} did not take this process in: {error}") from error


def _log_quietly(data: dict[str, Any], ignore_prefix: bool) -> None:
    logger.debug("Ray: %s", " ".join(data["lines"]))


def _upload() -> dict[str, object]:
    """What workers on other machines need to run this checkout's code, whatever is installed there."""
    return {"py_modules": [str(CODE / name) for name in ("pipeline", "stages", "jetson_agent")]}


def _reach(address: str) -> bool:
    """Check that a head answers at ``address`` and takes our token; True where its nodes are on loopback only.

    Raises ClusterError, within ``ANSWER_TIMEOUT_S`` where nothing listens.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"ray.address in params.yaml is {address!r}, needed HOST:PORT, e.g. 192.0.2.10:6379")
    remedy = (
        "Start it there (`ray start --head`), mend ray.address in params.yaml, or empty it for the embedded session."
    )
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"no Ray head answers at {address} ({error}). {remedy}") from None
    answer = probe.ask(address, environment.remote())
    if answer.refused:
        raise ClusterError(
            f"the Ray head at {address} refused the token. Copy the head's token to this user's ~/.ray/auth_token "
            "(chmod 600), or name its file in RAY_AUTH_TOKEN_PATH."
        )
    if answer.error:
        raise ClusterError(f"no Ray head answers at {address} ({answer.error}). {remedy}")
    own = {item.address for items in psutil.net_if_addrs().values() for item in items}
    if not own.intersection(answer.addresses):
        raise ClusterError(
            f"this machine is no node of the Ray cluster at {address}, and Ray takes work from its nodes only. "
            f"Run the command on one of {', '.join(answer.addresses)}, or join this machine first: "
            f"`ray start --address={address}`."
        )
    return all(item.startswith("127.") for item in answer.addresses)


def ensure_embedded(project: Project, settings: Settings) -> tuple[Path, runtime.Record]:
    """The embedded session of this process's owner: its folder and record. Starts it where it does not run yet."""
    runtime.clear_stale()
    mine = owner()
    request = {
        "owner": asdict(runtime.ProcessId(mine.pid, mine.create_time)),
        "head_cpus": settings.ray.head_cpus,
        "jetson_memory_bytes": settings.ray.jetson_memory_bytes,
    }
    folder = runtime.session_folder(json.dumps([mine.key, str(CODE), sys.executable, request], sort_keys=True))
    with runtime.locked(folder):
        record = runtime.Record.read(folder)
        if record is None or not record.keeper.alive():
            record = _start(folder, request, project)
    return folder, record


def _start(folder: Path, request: dict[str, object], project: Project) -> runtime.Record:
    logger.info("starting the embedded Ray session (a head and one virtual Jetson)")
    runtime.token_path(folder).touch(mode=0o600)
    runtime.token_path(folder).write_text(secrets.token_hex(32), encoding="ascii")
    write_json(folder / "request.json", request)
    with (folder / "keeper.log").open("w+b") as log:
        process = psutil.Popen(
            [sys.executable, "-m", "pipeline.cluster.keeper", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=project.root,
            env=environment.with_code({**os.environ, **environment.embedded(folder)}, CODE),
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            record = runtime.Record.read(folder)
            if record is not None and record.address:
                return record
            time.sleep(0.05)
        if process.poll() is None:
            end_processes([process], grace_s=10.0)
        log.seek(0)  # by its handle: the keeper removes the folder as it ends
        said = log.read().decode("utf-8", "replace").strip().splitlines()[-20:]
    raise ClusterError(
        "the embedded Ray session did not start. Free memory and space in the system's temporary folder, "
        "then run the command again. It said:\n  " + "\n  ".join(said)
    )
