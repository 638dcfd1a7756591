"""Real processes that the tracking server's tests talk to: mlflow/serve.sh, a PostgreSQL, an S3 endpoint. All on loopback."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.helpers_programs import program

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def plain_environment(**more: str) -> dict[str, str]:
    """This process's environment without what others' servers, accounts and stores have left in it."""
    dropped = ("MLFLOW_", "AWS_", "PG", "ACCOUNTS_", "AUTHENTICATION", "HOST", "PORT", "WORKERS", "ALLOWED_HOSTS")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), **more}


@contextmanager
def running(
    command: list[str], log: Path, ready: Callable[[], bool], end: int = signal.SIGTERM, **named: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with its children, from when it is ready; its group is ended with the signal, in the end by force."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, **named)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not ready():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        yield process
    finally:
        stop(process, end)


def stop(process: subprocess.Popen[bytes], how: int = signal.SIGTERM) -> None:
    """End a process and its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


@contextmanager
def serving(folder: Path, port: int, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """mlflow/serve.sh FOLDER with these variables of its environment; the log lies beside the folder."""
    environment = plain_environment(PORT=str(port), **variables)
    log = folder.parent / "server.log"
    command = ["bash", str(ROOT / "mlflow" / "serve.sh"), str(folder)]
    with running(command, log, lambda: answers(f"http://127.0.0.1:{port}/health"), env=environment) as process:
        yield process


@contextmanager
def server(folder: Path, port: int) -> Iterator[str]:
    """A server without accounts, on SQLite and a folder."""
    with serving(folder / "server", port, AUTHENTICATION="off"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL cluster of its own; the address of its database `postgres`, with user and password.

    It refuses to run as root, and its sockets want a short path: the folder lies in the system's temporary folder.
    """
    initdb = program("postgresql")
    assert initdb is not None
    folder = Path(tempfile.mkdtemp(prefix="edgealign-pg-"))
    owner: dict[str, Any] = {}
    if os.getuid() == 0:
        user = next(name for name in ("postgres", "nobody") if name in {entry.pw_name for entry in pwd.getpwall()})
        owner = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
        shutil.chown(folder, user)
    password, port = secrets.token_hex(12), free_port()
    secret = folder / "password"
    secret.write_text(password)
    secret.chmod(0o644)
    data, options = folder / "data", {"cwd": folder, **owner}
    try:
        command = [
            str(initdb),
            "-D",
            str(data),
            "-U",
            "edgealign",
            "-A",
            "scram-sha-256",
            f"--pwfile={secret}",
            "-E",
            "UTF8",
        ]
        made = subprocess.run([*command, "--no-sync", "--locale=C.UTF-8"], capture_output=True, text=True, **options)
        assert made.returncode == 0, made.stderr
        command = [str(initdb.with_name("postgres")), "-D", str(data), "-p", str(port), "-k", str(folder)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "shared_buffers=32MB"]
        log = folder / "postgres.log"

        def ready() -> bool:
            asked = subprocess.run([str(initdb.with_name("pg_isready")), "-q", "-h", "127.0.0.1", "-p", str(port)])
            return asked.returncode == 0

        with running(command, log, ready, signal.SIGINT, **options):  # SIGINT: fast shutdown
            yield f"postgresql://edgealign:{password}@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def s3(folder: Path) -> Iterator[Mapping[str, str]]:
    """An S3 endpoint that keeps its objects in memory; the variables with which a server or boto3 finds it."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    url = f"http://127.0.0.1:{port}"
    # not in the project's folder, whose mlflow/ would pass for the library; plain keys, as moto takes any
    with running(command, folder / "s3.log", lambda: answers(f"{url}/moto-api/data.json"), cwd=folder):
        yield {
            "MLFLOW_S3_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "edgealign",
            "AWS_SECRET_ACCESS_KEY": "edgealign-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
