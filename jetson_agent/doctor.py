"""What would stop a device from joining the cluster, in plain words."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import psutil

from jetson_agent import checks
from jetson_agent.finding import Finding
from jetson_agent.join import token
from jetson_agent.node import UNKNOWN, JetsonNode, read_device_tree
from jetson_agent.tls import tls
from stages.errors import ClusterError

FREE_DISK_BYTES = 2_000_000_000
"""Room for Ray's logs and spilled objects."""
ANSWER_TIMEOUT_S = 5.0


def examine(node: JetsonNode, head: str | None, token_file: Path | None, mlflow: str | None = None) -> list[Finding]:
    """Look at everything, also after something was found wrong. ``mlflow``: address of the tracking server, if any."""
    known = _token(token_file)
    findings = [_python(), _ray(), _module(node), _memory(node), _disk(Path(tempfile.gettempdir())), known]
    findings += checks.system(node) + tls()
    if head:
        answers = _port(head)
        findings.append(answers)
        if answers.good and known.good:
            findings.append(checks.head_versions(head, token(token_file)))
    return findings + (checks.tracking(mlflow) if mlflow else [])


def _python() -> Finding:
    return Finding(
        sys.version_info >= (3, 10),
        f"Python {platform.python_version()}",
        "Use Python 3.10 or newer, the same minor version as the head.",
    )


def _ray() -> Finding:
    try:
        return Finding(True, f"Ray {importlib.metadata.version('ray')} (the head needs the same)")
    except importlib.metadata.PackageNotFoundError:
        return Finding(False, "Ray is not installed", "Install edgealign in this environment: `pip install edgealign`.")


def _module(node: JetsonNode) -> Finding:
    if node.virtual:
        return Finding(True, f"virtual {node.model}: this node only stands in for a device")
    board = read_device_tree() or "no device tree"
    return Finding(
        node.model != UNKNOWN,
        f"module {node.model} ({board})",
        "This machine names itself no Jetson: join with --virtual.",
    )


def _memory(node: JetsonNode) -> Finding:
    available = psutil.virtual_memory().available
    what = f"memory: {node.memory_bytes / 1e9:.1f} GB to offer, {available / 1e9:.1f} GB available now"
    return Finding(
        node.memory_bytes <= available, what, "Close programs (the desktop first), or offer less with --memory-bytes."
    )


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    return Finding(
        free >= FREE_DISK_BYTES,
        f"disk: {free / 1e9:.1f} GB free in {folder}",
        f"Free {FREE_DISK_BYTES / 1e9:.0f} GB, or set TMPDIR to another disk.",
    )


def _token(given: Path | None) -> Finding:
    try:
        path = token(given)
    except ClusterError as error:
        return Finding(False, str(error).rstrip("."), "")
    private = not path.stat().st_mode & 0o077 and os.access(path, os.R_OK)
    return Finding(private, f"token: {path}", "Others can read it: chmod it 600.")


def _port(head: str) -> Finding:
    host, _, port = head.rpartition(":")
    if not host or not port.isdigit():
        return Finding(False, f"--head {head} is no HOST:PORT", "Give the head's address, e.g. 192.0.2.10:6379.")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        return Finding(
            False,
            f"network: {head} does not answer ({error})",
            "Start the head, and let this port through its firewall.",
        )
    return Finding(True, f"network: {head} answers")
