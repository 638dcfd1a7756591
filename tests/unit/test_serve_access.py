"""Who may use the service, over a real server on loopback in front of an application that answers everybody."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from jetson_agent.serve.access import Access, is_loopback, read_token
from jetson_agent.serve.intake import Rate
from stages.errors import InputError

TOKEN = "a-token-of-more-than-20-letters"


async def open_to_all(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept", "subprotocol": (scope["subprotocols"] or [None])[0]})
        await send({"type": "websocket.send", "text": "in"})
        await send({"type": "websocket.close"})
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})


@contextmanager
def guarded(token: str | None, per_minute: int = 1000) -> Iterator[str]:
    """HOST:PORT of the application behind Access."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(Access(open_to_all, token, Rate(per_minute)), lifespan="off", log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def with_token() -> Iterator[str]:
    with guarded(TOKEN) as address:
        yield address


@pytest.fixture(scope="module")
def without_token() -> Iterator[str]:
    with guarded(None) as address:
        yield address


def status(address: str, path: str = "/v1/status", **headers: Any) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.get(f"http://{address}{path}", headers=named, timeout=10).status_code


@pytest.mark.parametrize(
    "given", ["", "Bearer nonsense", f"Basic {TOKEN}", "Bearer ", f"Bearer {TOKEN}x", "Bearer é".encode()]
)
def test_a_wrong_token_is_refused(with_token: str, given: Any) -> None:
    answer = requests.post(f"http://{with_token}/v1/replies", headers={"Authorization": given}, timeout=10)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "needed the service's token" in answer.json()["detail"]


def test_the_right_token_is_let_in(with_token: str) -> None:
    assert status(with_token) == 401
    assert status(with_token, Authorization=f"Bearer {TOKEN}") == 200
    assert status(with_token, Authorization=f"bearer {TOKEN}") == 200


@pytest.mark.parametrize("path", ["/", "/app.js", "/capture.js", "/style.css", "/health", "/docs", "/openapi.json"])
def test_what_tells_nothing_of_anybody_is_open(with_token: str, path: str) -> None:
    assert status(with_token, path) == 200


@pytest.mark.parametrize("path", ["/v1/status", "/v1", "/x/app.js", "//", "/v1/../health"])
def test_nothing_else_is(with_token: str, path: str) -> None:
    import http.client

    connection = http.client.HTTPConnection(with_token)  # requests would tidy the path up
    connection.request("GET", path)
    assert connection.getresponse().status == 401


@pytest.mark.parametrize("names", [None, ["edgealign"], ["edgealign", "edgealign.bearer.nonsense"]])
def test_a_websocket_needs_it_as_well(with_token: str, names: Any) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(f"ws://{with_token}/v1/talk", subprotocols=names):
        pass
    assert refused.value.response.status_code == 401


def test_a_websocket_brings_it_as_a_subprotocol(with_token: str) -> None:
    names: Any = ["edgealign", f"edgealign.bearer.{TOKEN}"]
    with connect(f"ws://{with_token}/v1/talk", subprotocols=names) as socket:
        assert socket.recv(10) == "in" and socket.subprotocol == "edgealign"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "",
        "[::2]:80",
        "127.0.0.1:80:80",
    ],
)
def test_a_stranger_s_name_for_loopback_is_refused(without_token: str, host: str) -> None:
    assert status(without_token, Host=host) == 403
    assert status(without_token, "/", Host=host) == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:8765", "127.0.0.1", "[::1]", "[::1]:8765"])
def test_names_of_loopback_are_let_in(without_token: str, host: str) -> None:
    assert status(without_token, Host=host) == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:1", "null", "http://localhost"])
def test_a_page_of_strangers_is_refused(without_token: str, origin: str) -> None:
    assert status(without_token, Origin=origin) == 403
    with pytest.raises(InvalidStatus) as refused, connect(f"ws://{without_token}/v1/talk", origin=origin):  # type: ignore[arg-type]
        pass
    assert refused.value.response.status_code == 403


def test_its_own_page_is_let_in(without_token: str) -> None:
    assert status(without_token, Origin=f"http://{without_token}") == 200


def test_with_a_token_any_name_does_but_no_stranger_s_page(with_token: str) -> None:
    assert status(with_token, Host="device.home", Authorization=f"Bearer {TOKEN}") == 200
    assert status(with_token, Origin="https://evil.example", Authorization=f"Bearer {TOKEN}") == 403


def test_one_request_too_many_is_told_to_wait() -> None:
    with guarded(None, 5) as address:
        assert [status(address) for _ in range(7)] == [200] * 5 + [429] * 2
        assert status(address, "/health") == 200  # whoever watches the service is not counted


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("device", False),
    ],
)
def test_what_counts_as_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_a_token_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "token"
    token = read_token(path)
    assert len(token) >= 40 and read_token(path) == token
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content", [b"", b"short", b"with a blank in the middle of it", "ä".encode() * 30, b"\xff" * 30]
)
def test_what_is_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(InputError, match="token"):
        read_token(tmp_path / "token")
