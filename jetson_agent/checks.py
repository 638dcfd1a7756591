"""The doctor's single looks at a device's system: release, swap, power mode, clock, GPU, and what the head runs."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from pathlib import Path

import psutil

from jetson_agent.budgets import power_mode
from jetson_agent.finding import Finding
from jetson_agent.node import JetsonNode

L4T_RELEASE = Path("/etc/nv_tegra_release")
"""Where L4T names itself: ``# R36 (release), REVISION: 4.3, ...``."""
LEAST_SWAP_BYTES = 1_000_000_000
LARGEST_SKEW_S = 60.0
ANSWER_TIMEOUT_S = 5.0
HEAD_TIMEOUT_S = 30.0

_ASK_HEAD = """
import json, sys
from ray._raylet import GcsClient
said = GcsClient(address=sys.argv[1]).internal_kv_get(b"CLUSTER_METADATA", b"cluster", timeout=10)
print(json.dumps({name: json.loads(said)[name] for name in ("ray_version", "python_version")}))
"""


def system(node: JetsonNode) -> list[Finding]:
    """What this device's system tells; a plain PC has no release and no power mode, which stops nothing."""
    found = [_release(L4T_RELEASE, node), _swap(node), _clock(), _gpu(node)]
    mode = power_mode()
    return [*found, Finding(True, f"power mode: {mode or 'none (no nvpmodel here)'}")]


def _release(path: Path, node: JetsonNode) -> Finding:
    try:
        line = path.read_text(encoding="utf-8", errors="replace").splitlines()[0]
    except (OSError, IndexError):
        return Finding(node.virtual or node.gpus == 0, f"L4T: no {path}", "Flash the device with JetPack 6 or 7.")
    return Finding(True, f"L4T: {line.strip('# ')}")


def _swap(node: JetsonNode) -> Finding:
    total = psutil.swap_memory().total
    return Finding(
        node.virtual or node.gpus == 0 or total >= LEAST_SWAP_BYTES,
        f"swap: {total / 1e9:.1f} GB",
        "Without swap a short peak ends the training: switch zram on (`systemctl enable --now nvzramconfig`).",
    )


def _clock() -> Finding:
    now, known = time.time(), Path(__file__).stat().st_mtime
    return Finding(
        now >= known - LARGEST_SKEW_S,
        f"clock: {time.strftime('%Y-%m-%d %H:%M', time.gmtime(now))} UTC",
        "It is earlier than this program's own files: set it (`timedatectl set-ntp true`).",
    )


def _gpu(node: JetsonNode) -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding(
            False, "torch is not installed", "Install edgealign in this environment: `pip install edgealign`."
        )
    import torch

    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Finding(
        seen >= node.gpus,
        f"GPU: torch {torch.__version__} sees {seen}, the node would offer {node.gpus}",
        "Install NVIDIA's build of torch for this JetPack, or run in the container of docs/device.md.",
    )


def head_versions(head: str, token_path: Path) -> Finding:
    """Python and Ray of the head against ours; asked in a process of its own, as Ray ends one whose token is refused."""
    import importlib.metadata

    variables = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_path)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK_HEAD, head],
            env=variables,
            capture_output=True,
            text=True,
            timeout=HEAD_TIMEOUT_S,
        )
        said = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError, TypeError):
        return Finding(
            False,
            f"head: {head} tells no versions",
            "Is it a Ray head, and is this its token? There: `ray get-auth-token`. TLS must be on for both, or for none.",
        )
    mine = (platform.python_version(), importlib.metadata.version("ray"))
    theirs = (said["python_version"], said["ray_version"])
    same = mine[0].split(".")[:2] == theirs[0].split(".")[:2] and mine[1] == theirs[1]
    return Finding(
        same,
        f"head: Python {theirs[0]}, Ray {theirs[1]}; here: Python {mine[0]}, Ray {mine[1]}",
        f"Use Python {'.'.join(theirs[0].split('.')[:2])} here and `pip install ray=={theirs[1]}`.",
    )


def tracking(address: str) -> list[Finding]:
    """Whether the MLflow server answers, and how far this clock is from its."""
    try:
        with urllib.request.urlopen(address.rstrip("/") + "/health", timeout=ANSWER_TIMEOUT_S) as answer:
            date = answer.headers.get("Date")
    except (OSError, ValueError, urllib.error.URLError) as error:
        return [
            Finding(
                False,
                f"network: MLflow at {address} does not answer ({error})",
                "Start it, and let its port through the firewall; until then runs are spooled.",
            )
        ]
    found = [Finding(True, f"network: MLflow at {address} answers")]
    if date:
        skew = time.time() - parsedate_to_datetime(date).timestamp()
        remedy = "Set it: `timedatectl set-ntp true`."
        found.append(Finding(abs(skew) <= LARGEST_SKEW_S, f"clock: {skew:+.0f} s against MLflow's", remedy))
    return found
