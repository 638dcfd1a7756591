"""The process that serves: checks first, loads the models, then listens until SIGTERM or Ctrl-C."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

from jetson_agent.home import Home
from jetson_agent.serve.settings import ServeSettings
from jetson_agent.settings import read_settings
from stages.errors import InputError, SettingsError

logger = logging.getLogger(__name__)

END_S = 10
"""Replies under way get so long when the service is told to end."""
NEEDED = "pip install 'edgealign[serve]'"


def run(home: Home, host: str, port: int, token_file: Path | None, certificate: Path | None, key: Path | None) -> None:
    """Serve. Raises SettingsError, InputError and ModelError before anything listens."""
    try:
        import limits  # noqa: F401 - imported at use, where it would be too late to say so
        import uvicorn
        import websockets  # noqa: F401 - without it, uvicorn knows no WebSocket

        from jetson_agent.serve.access import is_loopback, read_token
        from jetson_agent.serve.app import create_app
    except ImportError as error:
        raise SettingsError(f"the service needs a package that is not installed ({error.name}): {NEEDED}") from error
    from jetson_agent.serve.engine import Engine

    if (certificate is None) != (key is None):
        raise SettingsError("TLS needs both: --certificate and --key")
    settings = read_settings(home.folder / "serve.json", ServeSettings)
    home.device  # noqa: B018 - says what is missing before the token and the port
    if token_file is None and not is_loopback(host):
        token_file = home.folder / "token"
    token = read_token(token_file) if token_file else None
    listening = _listen(host, port)
    engine = Engine(home, settings)
    engine.warm_up()
    listening.listen()  # from here on nobody is turned away
    name = f"[{host}]" if ":" in host else host
    scheme = "https" if certificate else "http"
    logger.info(
        "serving %s/%s at %s://%s:%d",
        engine.device.cohort,
        engine.device.user,
        scheme,
        name,
        listening.getsockname()[1],
    )
    if token_file:
        logger.info("every request needs the token in %s", token_file)
    config = uvicorn.Config(
        create_app(engine, token),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who asks is who is connected, not who a header says
        ws_max_size=1 << 20,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=END_S,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """Bound before the models load, so that a port in use is known at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise InputError(f"{host}:{port}: cannot be listened at ({error.strerror}). Choose another --port.") from error
    return found
