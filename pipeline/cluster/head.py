"""``edgealign head``: the Ray head of a real cluster, with the settings by which a lost device is noticed within seconds."""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import sys
from pathlib import Path

from jetson_agent.join import token_file
from pipeline.cluster.environment import COMMON
from stages.atomic import write_private
from stages.errors import ClusterError

logger = logging.getLogger(__name__)


def keep_token(path: Path) -> bool:
    """Make the cluster's token where there is none yet, for this user alone; True where it was made."""
    if path.is_file() and path.read_text(encoding="utf-8").strip():
        path.chmod(0o600)
        return False
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, secrets.token_hex(32).encode())
    return True


def command(host: str, port: int, cpus: int | None) -> list[str]:
    """The command line of the head with the ``ray`` of this very environment. It stays in the foreground.

    Raises ClusterError where ``host`` is not an address that other machines can reach this one by.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ClusterError(f"--host {host!r}: needed this machine's IP address in the devices' network") from None
    if address.is_unspecified:
        raise ClusterError(f"--host {host}: Ray needs one address by which devices reach this machine, not all of them")
    return [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        f"--node-ip-address={host}",
        f"--port={port}",
        "--include-dashboard=false",
        "--disable-usage-stats",
        "--block",
        *([f"--num-cpus={cpus}"] if cpus is not None else []),
    ]


def run_head(host: str, port: int, cpus: int | None) -> None:
    """Become the head. Only returns by raising ClusterError."""
    line = command(host, port, cpus)
    path = token_file(None)
    if keep_token(path):
        logger.info("a token for the cluster was made: %s. Copy it to each device (mode 0600).", path)
    logger.info("devices join with: edgealign-agent join --head %s:%d", host, port)
    logger.info("params.yaml of projects that use it: ray.address: %s:%d", host, port)
    os.execve(sys.executable, line, {**os.environ, **COMMON, "RAY_AUTH_TOKEN_PATH": str(path)})
