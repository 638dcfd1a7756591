"""How long edgealign waits for an MLflow server, on the head and on devices: its own defaults block one call for 247 s."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "60",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""MLflow's behaviour while edgealign sends; it reads these at each call. The user's own values win."""

CONNECT_S = 3.0
_environment = threading.Lock()


@contextmanager
def patience() -> Iterator[None]:
    """MLflow's settings for the time of a call, afterwards as before."""
    with _environment:
        before = dict(os.environ)
        os.environ.update({key: value for key, value in PATIENCE.items() if key not in before})
        try:
            yield
        finally:
            for key in PATIENCE:
                if key not in before:
                    os.environ.pop(key, None)


def connect(uri: str) -> None:
    """Open and close a connection to the server of an http(s) address. Raises OSError, or ValueError: the address is none."""
    address = urlsplit(uri)
    if not address.hostname:
        raise ValueError("the address names no host; needed something like http://HOST:5000")
    port = address.port or (443 if address.scheme == "https" else 80)
    socket.create_connection((address.hostname, port), timeout=CONNECT_S).close()
