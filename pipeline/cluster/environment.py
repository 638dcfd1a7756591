"""Ray's environment variables, stated once: they must be set before Ray is imported, and alike on both sides."""

from __future__ import annotations

import os
from pathlib import Path

from jetson_agent.join import token_file
from pipeline.cluster.runtime import token_path
from stages.errors import ClusterError

COMMON = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # a dead or frozen node is noticed within seconds; without the keepalive its tasks would never be repeated
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "3000",
    # a demand that no node can meet raises instead of waiting for ever
    "RAY_enable_infeasible_task_early_exit": "true",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def embedded(folder: Path) -> dict[str, str]:
    """For the keeper of the session in ``folder``, its cluster and the drivers that connect to it."""
    return {
        **COMMON,
        "RAY_AUTH_TOKEN_PATH": str(token_path(folder)),
        # the one switch that makes Ray bind to 127.0.0.1 and not to the network card
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_TMPDIR": str(folder),
    }


def with_code(variables: dict[str, str], code: Path) -> dict[str, str]:
    """``variables`` with ``code``, the folder that holds the packages, first on Python's path."""
    paths = [str(code), *filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))]
    return {**variables, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def remote() -> dict[str, str]:
    """For a driver of a real cluster. Raises ClusterError where this user holds no token.

    Ray aborts the process where it finds no token, so it is looked for here, in Ray's own order.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        return dict(COMMON)
    path = token_file(None)
    try:
        held = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        held = ""
    if not held:
        raise ClusterError(
            f"{path}: holds no token for the Ray cluster. Copy the head's token there (chmod 600), "
            "or name its file in RAY_AUTH_TOKEN_PATH."
        )
    return {**COMMON, "RAY_AUTH_TOKEN_PATH": str(path)}
