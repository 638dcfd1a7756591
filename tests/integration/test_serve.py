"""`edgealign-agent serve` as a process of its own: what goes in, what comes out, what is refused, what survives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from jetson_agent.home import Home
from stages.alignment.adapter import read_record, save
from tests.helpers_hosts import hosts
from tests.helpers_serve import COMMANDS, Served, pcm, served, speak

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

NEW = tuple(
    f"{first} the {second}"
    for first in ("feed", "wake", "brush", "find", "follow", "wash")
    for second in ("hungry cat", "brown horse", "little puppy")
)
"""Sentences of words that the base has never heard."""


def copy_device(folder: Path, target: Path, **learn: object) -> Path:
    shutil.copytree(folder, target)
    (target / "learn.json").write_text(json.dumps(learn))
    return target


@pytest.fixture(scope="module")
def service(trained_device: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serve")
    home = copy_device(trained_device, folder / "agent")
    # a long line of requests is what some of the tests are about
    (home / "serve.json").write_text(json.dumps({"requests_per_minute": 100_000, "learn_after": 0, "confident": 0.5}))
    with served(home, folder / "log") as found:
        yield found


@pytest.fixture(scope="module")
def said(trained_device: Path) -> dict[str, Path]:
    """A recording of each command."""
    spoken = trained_device.parent / "spoken"
    return {text: spoken / f"low-{place:02d}.wav" for place, text in enumerate(COMMANDS)}


def events(answer: Any) -> list[tuple[str, Any]]:
    """(event, data) of server-sent events."""
    found = []
    for block in answer.text.strip().split("\n\n"):
        kind, data = block.split("\n")
        found.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def turn(socket: Any, samples: bytes, rate_hz: int = 16_000, piece: int = 3_200) -> list[dict[str, Any]]:
    """One utterance over a WebSocket."""
    socket.send(json.dumps({"type": "start", "rate_hz": rate_hz}))
    for place in range(0, len(samples), piece):
        socket.send(samples[place : place + piece])
    socket.send(json.dumps({"type": "end"}))
    found = [json.loads(socket.recv(60))]
    while found[-1]["type"] not in ("done", "error"):
        found.append(json.loads(socket.recv(60)))
    return found


def test_every_command_is_heard_and_answered(service: Served, said: dict[str, Path]) -> None:
    for text, path in said.items():
        heard = service.call("POST", "/v1/transcriptions", data=path.read_bytes()).json()
        assert heard["text"] == text
        whole = service.call("POST", "/v1/replies", data=path.read_bytes()).json()
        found = events(service.call("POST", "/v1/replies/stream", data=path.read_bytes()))
        assert [kind for kind, _ in found] == ["heard", *["token"] * (len(found) - 2), "done"]
        pieces = [data["text"] for kind, data in found if kind == "token"]
        assert len(pieces) > 1 and "".join(pieces) == whole["reply"] == found[-1][1]["reply"]
        assert 0 < whole["seconds"]["first_token"] < whole["seconds"]["total"]


@pytest.mark.parametrize("told", [{}, {"sentence_weight": 0, "readings": 16, "tempos": [1.0]}])
def test_with_the_llms_opinion_every_command_is_heard_as_well(
    trained_device: Path, said: dict[str, Path], tmp_path: Path, told: dict[str, Any]
) -> None:
    home = copy_device(trained_device, tmp_path / "agent")
    (home / "serve.json").write_text(json.dumps({"rescore": True, "learn_after": 0, **told}))
    with served(home, tmp_path / "log") as found:
        for text, path in list(said.items())[:3]:
            reply = found.call("POST", "/v1/replies", data=path.read_bytes()).json()
            assert reply["text"] == text and reply["reply"]


def test_other_formats_say_the_same(service: Served, said: dict[str, Path], tmp_path: Path) -> None:
    import soxr

    text, path = next(iter(said.items()))
    samples, rate_hz = soundfile.read(path)
    files = {name: tmp_path / f"said.{name}" for name in ("flac", "ogg", "mp3", "aiff")}
    for file in files.values():
        soundfile.write(file, samples, rate_hz)
    files["stereo"] = tmp_path / "stereo.wav"
    soundfile.write(files["stereo"], soxr.resample(samples, rate_hz, 44_100)[:, None].repeat(2, axis=1), 44_100)
    for name, file in files.items():
        assert service.call("POST", "/v1/transcriptions", data=file.read_bytes()).json()["text"] == text, name


def test_a_stream_hears_what_a_file_does_turn_after_turn(service: Served, said: dict[str, Path]) -> None:
    with service.talk(subprotocols=["edgealign"]) as socket:
        assert socket.subprotocol == "edgealign"
        for text, path in list(said.items())[:3]:
            found = turn(socket, pcm(path))
            assert [part["type"] for part in found][:2] == ["heard", "token"]
            assert found[0]["text"] == text
            assert "".join(part["text"] for part in found if part["type"] == "token") == found[-1]["reply"]
        socket.send(json.dumps({"type": "start"}))
        socket.send(b"\0\0" * 100)
        socket.send(json.dumps({"type": "cancel"}))
        text, path = next(iter(said.items()))
        assert turn(socket, pcm(path))[0]["text"] == text  # nothing of what was cancelled is left


def test_silence_is_no_reason_to_talk(service: Served, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", [0.0] * 16_000, 16_000)
    told = service.call("POST", "/v1/replies", data=(tmp_path / "silence.wav").read_bytes()).json()
    assert told["text"] == "" and told["reply"] == "" and told["seconds"]["first_token"] is None


def test_ten_people_at_once_each_get_their_own_answer(service: Served, said: dict[str, Path]) -> None:
    asked = list(said.items()) * 2
    found: dict[int, Any] = {}

    def ask(number: int) -> None:
        found[number] = service.call("POST", "/v1/replies", data=asked[number][1].read_bytes())

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number].status_code for number in range(len(asked))] == [200] * len(asked)
    assert [found[number].json()["text"] for number in range(len(asked))] == [text for text, _ in asked]


def test_a_correction_is_on_the_disk_before_it_is_confirmed(
    trained_device: Path, said: dict[str, Path], tmp_path: Path
) -> None:
    home = copy_device(trained_device, tmp_path / "agent")
    with served(home, tmp_path / "log") as service:
        for number in range(5):
            heard = service.call("POST", "/v1/transcriptions", data=list(said.values())[number].read_bytes()).json()
            body = {"utterance": heard["utterance"], "text": f"Turn on light {number}, please!"}
            told = service.call("POST", "/v1/corrections", json=body)
            assert told.status_code == 200 and told.json()["heard"] == heard["text"]
            service.call("POST", "/v1/corrections", json=body)  # said twice, kept once
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait()
    items = Home.open(home).replay.items()
    numbers = ("zero", "one", "two", "three", "four")
    assert [item.text for item in items] == [f"turn on light {number} please" for number in numbers]
    assert {item.source for item in items} == {"correction"} and all(item.samples is not None for item in items)


def test_what_it_is_sure_of_is_remembered_and_a_correction_stays_one(service: Served, said: dict[str, Path]) -> None:
    replay = Home.open(service.home).replay
    text, path = list(said.items())[-1]
    heard = service.call("POST", "/v1/replies", data=path.read_bytes()).json()

    def kept() -> list[tuple[str, str]]:
        return [(item.text, item.source) for item in replay.items() if item.utterance == heard["utterance"]]

    deadline = time.monotonic() + 20
    while not kept():  # after the reply, not before it
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert heard["confidence"] >= 0.5 and kept() == [(text, "confident")]
    service.call("POST", "/v1/corrections", json={"utterance": heard["utterance"], "text": "call my brother"})
    service.call("POST", "/v1/replies", data=path.read_bytes())
    time.sleep(1)
    assert kept() == [("call my brother", "correction")]


def test_what_it_does_not_remember_cannot_be_corrected(service: Served) -> None:
    gone = service.call("POST", "/v1/corrections", json={"utterance": "0123456789abcdef", "text": "hello"})
    assert gone.status_code == 404 and "say it again" in gone.json()["detail"]


def test_it_learns_while_it_serves_and_drops_nothing(
    trained_device: Path, said: dict[str, Path], tmp_path: Path
) -> None:
    """Corrections of new words; people talk all the while; the next answers come with what was learned."""
    home = copy_device(trained_device, tmp_path / "agent", steps=40, density=0.1, tolerance=0.05)
    spoken = {text: path for _, text, path in speak(tmp_path / "new", {"ann": "en-us+m3"}, NEW)}
    with served(home, tmp_path / "log") as service:
        statuses: list[int] = []
        replies: list[int] = []
        stop = threading.Event()

        def keep_asking() -> None:
            while not stop.is_set():
                answer = service.call("POST", "/v1/replies", data=said[COMMANDS[0]].read_bytes())
                statuses.append(answer.status_code)
                replies.append(len(answer.json().get("reply", "")))

        asker = threading.Thread(target=keep_asking)
        asker.start()
        try:
            heard = {}
            for text, path in spoken.items():
                heard[text] = service.call("POST", "/v1/transcriptions", data=path.read_bytes()).json()
                body = {"utterance": heard[text]["utterance"], "text": text}
                assert service.call("POST", "/v1/corrections", json=body).status_code == 200
            assert all(told["version"] is None for told in heard.values())
            for _ in range(3):  # one may have begun by itself, with the first corrections alone
                told = service.call("POST", "/v1/adaptations?wait=true").json()
                if told["waiting"] == 0 and service.call("GET", "/v1/status").json()["version"]:
                    break
        finally:
            stop.set()
            asker.join()
        assert told["error"] is None
        assert statuses and set(statuses) == {200} and all(replies)
        status = service.call("GET", "/v1/status").json()
        assert status["version"] is not None, (told, service.log.read_text())
        after = {
            text: service.call("POST", "/v1/transcriptions", data=path.read_bytes()).json()
            for text, path in spoken.items()
        }
        assert {answer["version"] for answer in after.values()} == {status["version"]}
        right = sum(after[text]["text"] == text for text in spoken)
        assert right > sum(heard[text]["text"] == text for text in spoken)
        events = service.call("GET", "/v1/history").json()
        assert "taken" in [event["what"] for event in events]
        while service.call("GET", "/v1/status").json()["version"] is not None:
            assert service.call("POST", "/v1/rollback", json={"why": "tried"}).status_code == 200
        again = service.call("POST", "/v1/transcriptions", data=spoken[NEW[0]].read_bytes()).json()
        assert again["version"] is None and again["text"] == heard[NEW[0]]["text"]
        refused = service.call("POST", "/v1/rollback", json={})
        assert refused.status_code == 422 and "nothing to roll back" in refused.json()["detail"]
        put_on_the_shelf(Home.open(home), tmp_path / "pulled")
        deadline = time.monotonic() + 30
        while service.call("GET", "/v1/status").json()["version"] is None:  # what another program did is taken up
            assert time.monotonic() < deadline
            time.sleep(0.2)
        path = said[COMMANDS[0]]
        told = service.call("POST", "/v1/transcriptions", data=path.read_bytes()).json()
        assert told["version"] is not None and told["text"] == COMMANDS[0]
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) in (0, -signal.SIGTERM)
    assert "Traceback" not in (tmp_path / "log").read_text()


def put_on_the_shelf(home: Home, folder: Path) -> None:
    """A version that changes nothing."""
    record = read_record(home.device.base)
    record.kind, record.method, record.base_sha256 = "personal", "shira", record.weights_sha256
    save(folder, {"frame_shift": np.zeros(384, dtype=np.float16)}, record)
    home.shelf.take(folder, "pulled", {})


def test_pages_of_strangers_may_not_use_it(service: Served) -> None:
    from websockets.exceptions import InvalidStatus

    for headers in (
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Origin": "https://evil.example"},
    ):
        assert service.call("GET", "/v1/status", headers=headers).status_code == 403
        assert service.call("GET", "/", headers=headers).status_code == 403
    with pytest.raises(InvalidStatus) as refused, service.talk(origin="https://evil.example"):
        pass
    assert refused.value.response.status_code == 403
    own = service.call("GET", "/v1/status", headers={"Origin": service.address})
    assert own.status_code == 200


def test_a_host_beside_it_gets_nothing_without_the_token(trained_device: Path, tmp_path: Path) -> None:
    home = copy_device(trained_device, tmp_path / "agent")
    with hosts("device", "stranger") as (device, stranger):
        inside = ("ip", "netns", "exec", device.name)
        with served(home, tmp_path / "log", "--host", device.address, before=inside) as service:
            assert device.address in service.address
            token = (home / "token").read_text().strip()

            def ask(*words: str) -> str:
                line = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *words, f"{service.address}/v1/status"]
                return stranger.run(line, os.environ, tmp_path).stdout

            assert ask() == "401"
            assert ask("-H", "Authorization: Bearer nonsense") == "401"
            assert ask("-H", f"Authorization: Bearer {token}") == "200"
            assert token not in service.log.read_text()


def test_the_commands_and_the_service_know_an_utterance_by_the_same_name(
    service: Served, said: dict[str, Path], tmp_path: Path
) -> None:
    from jetson_agent.hearing import hear

    path = list(said.values())[1]
    samples, rate_hz = soundfile.read(path, dtype="int16")
    soundfile.write(tmp_path / "said.flac", samples, rate_hz)
    heard = service.call("POST", "/v1/transcriptions", data=path.read_bytes()).json()
    item = hear(Home.open(service.home), tmp_path / "said.flac")
    assert (item.utterance, item.heard) == (heard["utterance"], heard["text"])


def test_an_unsure_utterance_is_heard_again_also_where_no_llm_is_asked(trained_device: Path, tmp_path: Path) -> None:
    from jetson_agent.serve.engine import Engine
    from jetson_agent.serve.settings import ServeSettings

    home = Home(copy_device(trained_device, tmp_path / "agent"))
    choosers = [
        Engine(home, ServeSettings(**told)).in_use.listener.chooser
        for told in ({}, {"tempos": (0.9,)}, {"rescore": True})
    ]
    assert [chooser is not None for chooser in choosers] == [False, True, True]


def test_names_are_listened_for_without_a_restart_and_a_broken_list_stops_no_answer(
    trained_device: Path, said: dict[str, Path], tmp_path: Path
) -> None:
    from jetson_agent.serve.engine import Engine
    from jetson_agent.serve.settings import ServeSettings
    from stages.audio import load_audio

    home = Home(copy_device(trained_device, tmp_path / "agent"))
    engine = Engine(home, ServeSettings())
    text, path = next(iter(said.items()))
    samples = load_audio(path, path.name)
    before = engine.hear(samples).heard.text
    assert before == text
    assert not engine.refresh()
    home.words.add(["Tuuli", "Anna Maria"])
    assert engine.refresh()
    assert engine.in_use.words == ("anna maria", "tuuli")
    assert len(engine.in_use.listener.vocabulary) > len(engine.in_use.listener.record.vocabulary)
    assert engine.hear(samples).heard.text == before  # nobody said them
    assert not engine.refresh()
    home.words.path.write_text("not a list")
    assert engine.refresh()
    assert engine.in_use.words == ()
    engine.close()


def test_who_leaves_in_the_middle_of_a_reply_takes_nobody_s_place(service: Served, said: dict[str, Path]) -> None:
    text, path = next(iter(said.items()))
    for _ in range(10):
        with service.talk() as socket:
            socket.send(json.dumps({"type": "start"}))
            socket.send(pcm(path))
            socket.send(json.dumps({"type": "end"}))
            assert json.loads(socket.recv(60))["type"] == "heard"
        with service.call("POST", "/v1/replies/stream", data=path.read_bytes(), stream=True) as answer:
            next(answer.iter_lines())
    # sixteen may be under way at once: twenty that nobody waits for would leave no room
    deadline = time.monotonic() + 30
    while (answer := service.call("POST", "/v1/transcriptions", data=path.read_bytes())).status_code == 503:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert answer.json()["text"] == text
    assert "Traceback" not in service.log.read_text(), service.log.read_text()[-3000:]
