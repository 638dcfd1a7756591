"""A head and devices that have joined it, each a host of its own: what an operator starts, started by a test or a benchmark."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.cluster.environment import COMMON
from tests.helpers_hosts import Host, hosts, wait_for

ROOT = Path(__file__).resolve().parents[1]
REJOIN_S = 150.0


@dataclass
class Fleet:
    """A head and the devices that have joined it."""

    head: Host
    devices: list[Host]
    env: dict[str, str]
    folder: Path

    @property
    def left(self) -> Host:
        return self.devices[0]

    @property
    def right(self) -> Host:
        return self.devices[1]

    @property
    def address(self) -> str:
        return f"{self.head.address}:6379"

    def python(self, host: Host, *words: str) -> str:
        """What a Python command line prints on a host."""
        done = host.run([sys.executable, *words], self.env, ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def living(self) -> set[str]:
        """Addresses of the nodes that the head counts as alive."""
        done = self.head.run(
            [sys.executable, "-m", "pipeline.cluster.probe", self.address], {**self.env, **COMMON}, ROOT
        )
        said = json.loads(done.stdout.splitlines()[-1])
        assert not said["error"], said["error"]
        return set(said["addresses"])

    def join(self, host: Host, *options: str, **env: str) -> Path:
        """Start the agent on a host; its log. The agent is the last of the host's processes."""
        log = self.folder / f"{host.name}-{secrets.token_hex(2)}.log"
        words = ["-m", "jetson_agent", "join", "--head", self.address, "--virtual", "--memory-bytes", "2000000000"]
        host.start([sys.executable, *words, *options], log, {**self.env, **env}, ROOT)
        return log

    def drive(self, code: str, *arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
        """Start a driver of the cluster on the head: Python ``code`` with the address and ``arguments``. And its log."""
        log = self.folder / f"work-{secrets.token_hex(2)}.log"
        return self.head.start([sys.executable, "-c", code, self.address, *arguments], log, self.env, ROOT), log

    def all_there(self) -> bool:
        return self.living() == {host.address for host in (self.head, *self.devices)}

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-1500:]}" for path in sorted(self.folder.glob("*.log")))


@contextmanager
def fleet_of(
    folder: Path,
    variables: Mapping[str, str] | None = None,
    *,
    join: bool = True,
    devices: Sequence[str] = ("left", "right"),
) -> Iterator[Fleet]:
    """A head with the environment ``variables``, and ``devices`` that have joined it unless ``join`` is False."""
    # Ray keeps sockets there: the path must be short
    ray = Path(tempfile.mkdtemp(prefix="ea-ray-", dir="/tmp"))
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))},
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_TMPDIR": str(ray),
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **(variables or {}),
    }
    try:
        with hosts("head", *devices) as (head, *others):
            there = Fleet(head, others, env, folder)
            words = ["-m", "pipeline", "head", "--host", head.address, "--cpus", "1"]
            head.start([sys.executable, *words], folder / "head.log", env, ROOT)
            wait_for(lambda: "Ray runtime started" in (folder / "head.log").read_text(), 60, there.logs)
            if join:
                for host in others:
                    there.join(host)
                wait_for(there.all_there, REJOIN_S, there.logs)
            yield there
    finally:
        shutil.rmtree(ray, ignore_errors=True)
