"""Who may use the service.

On loopback, whoever has an account on the device may. But a web page of a stranger, open in a browser on the device, can reach
loopback too: so the Host must be a name of loopback (DNS rebinding), and an Origin the service's own. Reachable from elsewhere,
every request needs the token.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jetson_agent.serve.intake import Rate, Refused
from stages.atomic import write_private
from stages.errors import InputError

OPEN = ("/app.js", "/capture.js", "/style.css", "/health", "/docs", "/redoc", "/openapi.json", "/static-offline-docs/")
"""How paths begin that tell nothing of anybody: the page (it asks for the token itself), whether the service is up, its API."""
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
SUBPROTOCOL = "edgealign"
BEARER = "edgealign.bearer."
"""A browser cannot send headers with a WebSocket, so that the token comes as a subprotocol."""
SHORTEST_TOKEN = 20


def is_loopback(host: str) -> bool:
    """Whether a host to bind to is reachable from this device alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> str:
    """The token in a file, which is made with a new one where it is missing. Raises InputError."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_private(path, (secrets.token_urlsafe(32) + "\n").encode())
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable ({error}). Name another file: --token-file") from error
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.replace("-", "").replace("_", "").isalnum():
        raise InputError(
            f"{path}: holds no token (at least {SHORTEST_TOKEN} letters, digits, - and _). Delete it: a new one is made."
        )
    return token


class Access:
    """ASGI: refuses before anything else sees the request."""

    def __init__(self, app: Any, token: str | None, rate: Rate) -> None:
        """``token`` None: the service is bound to loopback and asks for none."""
        self._app, self._token, self._rate = app, token, rate

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve, or refuse with 401, 403 or 429."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except Refused as error:
            await _refuse(scope, send, error)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Any) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if self._token is None and not _names_loopback(host):
            raise Refused(403, f"Host {host!r} is no name of this device's loopback: ask at http://127.0.0.1")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise Refused(403, f"a page of {origin!r} may not use this service")
        if scope["type"] == "http" and (scope["path"] == "/" or scope["path"].startswith(OPEN)):
            return
        if self._token is not None and not hmac.compare_digest(_given(scope, headers), self._token):
            raise Refused(401, "needed the service's token: Authorization: Bearer ...")
        self._rate.check((scope.get("client") or ("unknown",))[0])


def _names_loopback(host: str) -> bool:
    """Whether a Host header is a name of loopback, with or without a port."""
    try:
        told = urlsplit(f"//{host}")
        return told.hostname in LOOPBACK_NAMES and (told.port or 0) >= 0
    except ValueError:  # no port is `80:80`
        return False


def _given(scope: Any, headers: dict[str, str]) -> str:
    """The token that a request brings; ASCII, else nothing."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer":
        asked = scope.get("subprotocols", [])
        token = next((name.removeprefix(BEARER) for name in asked if name.startswith(BEARER)), "")
    return token if token.isascii() else ""


async def _refuse(scope: Any, send: Any, error: Refused) -> None:
    body = json.dumps({"detail": str(error)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status == 429:
        headers.append((b"retry-after", b"10"))
    kind = "http"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": str(error)[:120]})
            return
        kind = "websocket.http"
    await send({"type": f"{kind}.response.start", "status": error.status, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": body})
