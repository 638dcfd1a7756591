"""The device's service: how soon it answers, alone and while it learns, and what it needs.

The service is a process of its own; times are those of a client on the same machine, from the end of the utterance to the
first piece of the reply, over the WebSocket. A base that was trained as in ``benchmarks.online`` answers.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import online
from benchmarks.alignment import Bench
from benchmarks.record import Figure, at_most, plain, write_area
from stages.audio import encode_flac
from tests.helpers_serve import Served, served

USER = "klatt"
ALONE, CORRECTIONS = 60, 10
SHORTEST_S, LONGEST_S = 2.0, 4.0


@dataclass
class Load:
    """What requests in a row took, and how many were not answered."""

    first_s: list[float] = field(default_factory=list)
    reply_s: list[float] = field(default_factory=list)
    dropped: int = 0


def run() -> Path:
    """Measure and write docs/benchmarks/serve.json."""
    bench = Bench.open()
    said = online.spoken_by(USER)
    fitting = [item for item in said if SHORTEST_S <= len(item[1]) / 16_000 <= LONGEST_S]
    with tempfile.TemporaryDirectory(prefix="edgealign-bench-") as name:
        setting = online.prepare(bench, Path(name) / "base")
        home = online.device(setting, Path(name) / "agent", USER)
        (home.folder / "serve.json").write_text(
            json.dumps({"learn_after": 0, "requests_per_minute": 100_000, "confident": None}), encoding="utf-8"
        )
        with served(home.folder, Path(name) / "log") as service:
            return write_area("serve", _measure(service, fitting))


def _measure(service: Served, said: Sequence[tuple[str, np.ndarray]]) -> list[Figure]:
    alone = Load()
    with service.talk() as socket:
        for _, samples in said[-ALONE:]:
            _turn(socket, samples, alone)
    quiet_bytes = _peak_bytes(service)
    for text, samples in said[:CORRECTIONS]:
        heard = service.call("POST", "/v1/transcriptions", data=encode_flac(samples)).json()
        service.call("POST", "/v1/corrections", json={"utterance": heard["utterance"], "text": text})
    beside, stop = Load(), threading.Event()

    def keep_asking() -> None:
        with service.talk() as socket:
            while not stop.is_set():
                for _, samples in said[-ALONE:]:
                    _turn(socket, samples, beside)
                    if stop.wait(1.0):  # a person reads the reply before they speak again
                        return

    asker = threading.Thread(target=keep_asking)
    asker.start()
    began = time.perf_counter()
    outcome = service.call("POST", "/v1/adaptations?wait=true").json()
    seconds = time.perf_counter() - began
    stop.set()
    asker.join()
    last = outcome["last"]
    note = f"2 to 4 s utterances, SmolLM2-135M in float32, {len(alone.first_s)} in a row"
    learned = f"{'taken' if last['taken'] else 'not taken'}: {last['why']}; {len(beside.first_s)} replies meanwhile"
    return [
        at_most("first_token_median", statistics.median(alone.first_s), 0.3, "s", note=note),
        at_most("first_token_p95", float(np.percentile(alone.first_s, 95)), 0.6, "s", note=note),
        plain("reply_median", statistics.median(alone.reply_s), "s", note="until the reply's last token"),
        plain("first_token_median_while_learning", statistics.median(beside.first_s), "s", note=learned),
        plain("first_token_worst_while_learning", max(beside.first_s), "s", note=learned),
        at_most(
            "update_seconds_while_serving",
            seconds,
            5.0,
            "s",
            note=f"from {CORRECTIONS} corrections, judging included, somebody asking all the while; {learned}",
        ),
        at_most("requests_dropped_while_learning", beside.dropped, 0, "", note=learned),
        at_most(
            "memory_peak", _peak_bytes(service) / 1e9, 2.5, "GB", note="agent, encoder, adapter, LLM, and the update"
        ),
        plain("memory_serving", quiet_bytes / 1e9, "GB", note="peak before the update"),
    ]


def _turn(socket: Any, samples: np.ndarray, load: Load) -> None:
    """One utterance, as a microphone sends it, but at once."""
    content = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    socket.send(json.dumps({"type": "start", "rate_hz": 16_000}))
    for place in range(0, len(content), 2_048):
        socket.send(content[place : place + 2_048])
    began = time.perf_counter()
    socket.send(json.dumps({"type": "end"}))
    first = None
    while True:
        told = json.loads(socket.recv(60))
        if told["type"] == "token" and first is None:
            first = time.perf_counter() - began
        if told["type"] == "error":
            load.dropped += 1
            return
        if told["type"] == "done":
            break
    if first is not None:  # else no word was heard, and there is no reply to wait for
        load.first_s.append(first)
        load.reply_s.append(time.perf_counter() - began)


def _peak_bytes(service: Served) -> int:
    """The most memory that the service ever held."""
    status = Path(f"/proc/{service.process.pid}/status").read_text(encoding="utf-8")
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    assert not psutil.Process(service.process.pid).children()  # it is one process
    return int(line.split()[1]) * 1024
