"""What nobody should send: each gets a clear refusal, and the service answers the next one as if nothing had been.

EDGEALIGN_AGENT_MALFORMED=1000 sends so many; the suite sends fewer.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from websockets.exceptions import ConnectionClosed

from tests.helpers_serve import COMMANDS, Served, served

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

COUNT = int(os.environ.get("EDGEALIGN_AGENT_MALFORMED", "150"))
POSTS = ("/v1/transcriptions", "/v1/replies", "/v1/replies/stream")


@pytest.fixture(scope="module")
def service(trained_device: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("malformed")
    home = folder / "agent"
    shutil.copytree(trained_device, home)
    settings = {"requests_per_minute": 1_000_000, "max_bytes": 2_000_000, "idle_s": 5.0}
    (home / "serve.json").write_text(json.dumps(settings))
    with served(home, folder / "log") as found:
        yield found


@pytest.fixture(scope="module")
def good(trained_device: Path) -> bytes:
    return (trained_device.parent / "spoken" / "low-00.wav").read_bytes()


def wav(samples: np.ndarray, rate_hz: int = 16_000, subtype: str = "PCM_16", kind: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, subtype=subtype, format=kind)
    return buffer.getvalue()


def bad_recordings(good: bytes, dice: random.Random) -> list[Callable[[], bytes]]:
    """Makers of bodies that are no recording of an utterance."""

    def damaged(kind: str) -> bytes:
        whole = bytearray(
            wav(
                np.sin(np.arange(16_000) / 9),
                subtype={"OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}.get(kind, "PCM_16"),
                kind=kind,
            )
        )
        return bytes(whole[: dice.randrange(1, max(2, len(whole) // 3))])

    return [
        lambda: b"",
        lambda: dice.randbytes(dice.randrange(1, 5000)),
        lambda: b"RIFF" + dice.randbytes(dice.randrange(0, 200)),
        lambda: b"fLaC" + dice.randbytes(dice.randrange(0, 200)),
        lambda: b"OggS" + dice.randbytes(dice.randrange(0, 200)),
        lambda: b"\x1aE\xdf\xa3" + dice.randbytes(200),
        lambda: good[: dice.randrange(1, 44)],
        lambda: good[: dice.randrange(60, len(good) // 2)],
        lambda: damaged("FLAC"),
        lambda: wav(np.zeros(0)),
        lambda: wav(np.full(1000, np.nan), subtype="FLOAT"),
        lambda: wav(np.full(1000, np.inf), subtype="DOUBLE"),
        lambda: wav(np.zeros(16_000 * 31)),  # too long
        lambda: wav(np.zeros(8_000 * 60), 8_000, kind="FLAC"),  # long, but small as it is sent
        lambda: wav(np.zeros(100), 100),  # no rate of speech
        lambda: bytes(2_000_001),  # too large
        lambda: b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>",
        lambda: b"#EXTM3U\n/etc/passwd\n",
        lambda: json.dumps({"audio": "no"}).encode(),
    ]


def bad_corrections(dice: random.Random) -> list[Callable[[], bytes]]:
    """Makers of bodies that correct nothing."""
    return [
        lambda: b"",
        lambda: b"{",
        lambda: b"null",
        lambda: b"[" * dice.randrange(1, 50_000),
        lambda: dice.randbytes(50),
        lambda: json.dumps({"utterance": "x"}).encode(),
        lambda: json.dumps({"utterance": 1, "text": "a"}).encode(),
        lambda: json.dumps({"utterance": "../../etc/passwd", "text": "a"}).encode(),
        lambda: json.dumps({"utterance": "x" * 65, "text": "a"}).encode(),
        lambda: json.dumps({"utterance": "x", "text": ""}).encode(),
        lambda: json.dumps({"utterance": "x", "text": "a" * 501}).encode(),
        lambda: b'{"utterance": "x", "text": "\\ud800"}',
    ]


def is_clear(status: int, body: str) -> bool:
    """A 4xx with one sentence that says why."""
    if not 400 <= status < 500:
        return False
    try:
        told = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(told, str) and len(told) > 5 and "Traceback" not in told


def test_malformed_requests_are_refused_one_by_one(service: Served, good: bytes) -> None:
    dice = random.Random(5)
    recordings, corrections = bad_recordings(good, dice), bad_corrections(dice)
    unclear = []
    for number in range(COUNT):
        if number % 3 == 2:
            body = corrections[number // 3 % len(corrections)]()
            path, headers = "/v1/corrections", {"Content-Type": "application/json"}
        else:
            body = recordings[(number - number // 3) % len(recordings)]()
            path, headers = (
                POSTS[dice.randrange(len(POSTS))],
                {"Content-Type": dice.choice(["audio/wav", "text/plain"])},
            )
        answer = service.call("POST", path, data=body, headers=headers)
        if not is_clear(answer.status_code, answer.text):
            unclear.append((path, body[:60], answer.status_code, answer.text[:200]))
    assert unclear == []
    still_well(service, good)


def test_what_is_no_http_at_all(service: Served, good: bytes) -> None:
    host, port = service.address.removeprefix("http://").split(":")
    dice = random.Random(6)
    openings = [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/replies HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/replies HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v1/replies HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS to a service without it
    ]
    for number in range(COUNT // 3):
        content = openings[number] if number < len(openings) else dice.randbytes(dice.randrange(1, 400)) + b"\r\n\r\n"
        with socket.create_connection((host, int(port)), timeout=20) as raw:
            raw.sendall(content)
            raw.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := raw.recv(65_536):
                answer += piece
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), (content[:60], answer[:200])
    still_well(service, good)


def test_what_makes_no_sense_in_a_stream(service: Served, good: bytes) -> None:
    dice = random.Random(7)
    start = json.dumps({"type": "start"})
    lines: list[list[str | bytes]] = [
        [b"\0\0"],  # before the start
        ["no json"],
        ["[]"],
        ["{}"],
        ["[" * 20_000],
        [json.dumps({"type": "dance"})],
        [json.dumps({"type": ["start"]})],
        [json.dumps({"type": "start", "rate_hz": 1})],
        [json.dumps({"type": "start", "rate_hz": "fast"})],
        [json.dumps({"type": "start", "more": 1})],
        [json.dumps({"type": "end"})],
        [start, json.dumps({"type": "end"})],  # nothing in it
        [start, b"\0", json.dumps({"type": "end"})],  # half a sample
        [start, *[bytes(1_000_000)] * 2],  # longer than an utterance
        [dice.randbytes(100)],
    ]
    with service.talk() as stream:
        for line in lines:
            for message in line:
                stream.send(message)
            told = json.loads(stream.recv(30))
            assert told["type"] == "error" and 400 <= told["status"] < 500 and len(told["detail"]) > 5, (line, told)
    with service.talk() as stream, pytest.raises(ConnectionClosed):
        stream.send(bytes(2_000_000))  # one message larger than any may be
        stream.recv(30)
    with service.talk() as stream, pytest.raises(ConnectionClosed):
        stream.recv(30)  # who says nothing is not waited for
    still_well(service, good)


def still_well(service: Served, good: bytes) -> None:
    assert service.process.poll() is None
    assert service.call("POST", "/v1/transcriptions", data=good).json()["text"] == COMMANDS[0]
    log = service.log.read_text()
    assert "Traceback" not in log, log[-3000:]
