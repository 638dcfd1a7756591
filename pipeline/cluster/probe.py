"""Ask a head for its nodes from a process of its own: ``python -m pipeline.cluster.probe HOST:PORT``.

Ray's client tells a wrong token at once when it is asked this way, but it may also wait for most of a minute or abort the
process; neither must happen to the driver.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.cluster import environment

TIMEOUT_S = 20.0
CODE = Path(__file__).resolve().parents[2]
"""The folder that holds ``pipeline`` and ``stages``."""


@dataclass(frozen=True)
class Answer:
    """What the head said."""

    addresses: tuple[str, ...] = ()
    """IP addresses of the living nodes."""
    refused: bool = False
    """True where the token was missing or wrong."""
    error: str = ""
    """Why there is no list of nodes; empty where there is one."""


def ask(address: str, variables: dict[str, str]) -> Answer:
    """Ask the head at ``address`` under the environment ``variables``; never raises for a head that does not answer."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cluster.probe", address],
            env=environment.with_code({**os.environ, **variables}, CODE),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        said = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return Answer(error=f"something listens there, but did not speak as a Ray head within {TIMEOUT_S:.0f} s")
    except (ValueError, IndexError):
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return Answer(error=lines[0] if lines else f"the probe ended with status {done.returncode}")
    return Answer(tuple(said["addresses"]), said["refused"], said["error"])


def _main(address: str) -> None:
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # a Cython class, without stubs
    from ray.exceptions import AuthenticationError, RayError

    said: dict[str, object] = {"addresses": [], "refused": False, "error": ""}
    try:
        nodes = GcsClient(address=address).get_all_node_info(timeout=10).values()
        said["addresses"] = sorted(
            {node.node_manager_address for node in nodes if node.state == 0}
        )  # GcsNodeInfo.ALIVE
    except AuthenticationError as error:
        said.update(refused=True, error=str(error).splitlines()[0])
    except RayError as error:
        said["error"] = str(error).splitlines()[0]
    print(json.dumps(said))


if __name__ == "__main__":
    _main(sys.argv[1])
