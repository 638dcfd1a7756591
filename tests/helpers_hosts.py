"""Several hosts on one machine: network namespaces with a switch between them, made by the test and taken away after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.helpers_programs import MUST, needs

ROUTER = "10.77.0.254"
"""Programs ask which of a host's addresses faces the default route; it leads nowhere."""


@dataclass
class Host:
    """A network of its own: an address, a loopback, a cable to the switch."""

    name: str
    address: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, command: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path) -> subprocess.Popen[bytes]:
        """A process on this host; its output goes to ``log``."""
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *command],
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def run(self, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a command on this host until it ends."""
        line = ["ip", "netns", "exec", self.name, *command]
        return subprocess.run(line, env=dict(env), cwd=cwd, capture_output=True, text=True, check=False, timeout=300)

    def cut(self) -> None:
        """Pull the cable."""
        _ip("-n", self.name, "link", "set", "eth0", "down")

    def mend(self) -> None:
        """Put it back."""
        _ip("-n", self.name, "link", "set", "eth0", "up")
        _ip("-n", self.name, "route", "replace", "default", "via", ROUTER)  # it went with the cable

    def traffic(self) -> tuple[int, int]:
        """(bytes sent, bytes received) through its cable so far, as its interface counts them: with all headers."""
        [link] = json.loads(_ip("-n", self.name, "-s", "-j", "link", "show", "dev", "eth0"))
        return link["stats64"]["tx"]["bytes"], link["stats64"]["rx"]["bytes"]

    def pids(self) -> list[int]:
        """Every process on this host."""
        return [int(word) for word in _ip("netns", "pids", self.name).split()]

    def lose_power(self) -> None:
        """Kill everything that runs on this host at once."""
        for _ in range(20):
            pids = self.pids()
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not pids:
                break
            time.sleep(0.1)
        for process in self.processes:
            process.wait(20)


@contextmanager
def hosts(*names: str) -> Iterator[list[Host]]:
    """Hosts called ``names`` that reach each other and nothing else. Skipped where they are not allowed, see ``needs``."""
    needs("iproute2")
    tag = f"ea{os.getpid()}"
    switch = f"{tag}-switch"
    made: list[Host] = []
    try:
        _ip("netns", "add", switch)
    except AssertionError as error:
        if os.environ.get(MUST) == "1":
            raise
        pytest.skip(f"network namespaces are not allowed here: {error}")
    try:
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        _ip("-n", switch, "address", "add", f"{ROUTER}/24", "dev", "bridge")
        for number, name in enumerate(names, 1):
            host = Host(f"{tag}-{name}", f"10.77.0.{number}")
            _ip("netns", "add", host.name)
            made.append(host)
            cable = f"port{number}"
            _ip("-n", host.name, "link", "add", "eth0", "type", "veth", "peer", "name", cable, "netns", switch)
            _ip("-n", switch, "link", "set", cable, "master", "bridge", "up")
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", host.name, "link", "set", device, "up")
            _ip("-n", host.name, "route", "add", "default", "via", ROUTER)
        yield made
    finally:
        for host in made:
            host.lose_power()
            _ip("netns", "delete", host.name)
        _ip("netns", "delete", switch)


def wait_for(true: Callable[[], object], timeout_s: float, what: Callable[[], str]) -> None:
    """Until ``true()``; fails after ``timeout_s`` with what ``what()`` tells."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, what()
        time.sleep(0.25)


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr.strip()}"
    return done.stdout
