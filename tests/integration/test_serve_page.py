"""The service's page in Debian's chromium, whose microphone plays a recording: press, speak, read, correct, learn."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from jetson_agent.home import Home
from tests.helpers_programs import needs, program
from tests.helpers_serve import COMMANDS, Served, served

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

TOKEN_OPTION = "--token-file"


@contextmanager
def page_of(service: Served, recording: Path) -> Iterator[tuple[Any, list[str]]]:
    """The page, and what it asked of other addresses or complained of."""
    from playwright.sync_api import sync_playwright

    needs("chromium")
    microphone = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={recording}%noloop",
    ]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=str(program("chromium")), args=["--no-sandbox", *microphone]
        )
        try:
            page = chromium.new_page(viewport={"width": 900, "height": 700})
            page.set_default_timeout(60_000)
            troubles: list[str] = []
            page.on("request", lambda asked: troubles.append(asked.url) if service.address not in asked.url else None)
            page.on("console", lambda told: troubles.append(told.text) if told.type == "error" else None)
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.goto(service.address)
            yield page, troubles
        finally:
            chromium.close()


def test_a_person_talks_reads_corrects_and_learns(trained_device: Path, tmp_path: Path) -> None:
    shots = Path(os.environ.get("EDGEALIGN_SHOTS") or tmp_path)
    home = Home.open(tmp_path / "agent")
    shutil.copytree(trained_device, home.folder)
    (home.folder / "serve.json").write_text(json.dumps({"learn_after": 0}))
    # half a second of silence first, as before anybody speaks, and much after it: the end is the person's to say
    samples, rate_hz = soundfile.read(trained_device.parent / "spoken" / "low-00.wav")
    silence = np.zeros(rate_hz)
    microphone = tmp_path / "microphone.wav"
    soundfile.write(microphone, np.concatenate([silence[: rate_hz // 2], samples, *[silence] * 60]), rate_hz)
    with (
        served(home.folder, tmp_path / "log", TOKEN_OPTION, str(tmp_path / "token")) as service,
        page_of(service, microphone) as (page, troubles),
    ):
        page.get_by_label("This service needs its token").wait_for()
        assert page.get_by_role("button", name="Talk").is_disabled()
        page.get_by_label("This service needs its token").fill((tmp_path / "token").read_text().strip())
        page.get_by_role("button", name="Use it").click()
        page.get_by_text("home/ann · the base, nothing personal yet").wait_for()
        assert not page.get_by_label("This service needs its token").is_visible()
        assert [text for text in troubles if "401" not in text] == []
        troubles.clear()

        page.get_by_role("button", name="Talk").click()
        page.get_by_role("button", name="Listening…").wait_for()
        page.wait_for_timeout(1000 * (0.5 + len(samples) / rate_hz + 0.7))
        page.get_by_role("button", name="Listening…").click()
        turn = page.locator("li[data-done=true]")
        turn.wait_for()
        assert turn.locator(".text").inner_text() == COMMANDS[0]
        assert len(turn.locator(".reply").inner_text()) > 3
        assert "first word after" in turn.locator(".took").inner_text()
        page.screenshot(path=shots / "serve_talk.png")

        turn.get_by_role("button", name="I said something else").click()
        turn.get_by_label("I said").fill("turn on the lamp in the kitchen")
        page.screenshot(path=shots / "serve_correct.png")
        turn.get_by_role("button", name="Remember").click()
        turn.get_by_text("remembered: turn on the lamp in the kitchen").wait_for()
        page.get_by_text("1 corrections").wait_for()
        [item] = home.replay.items()
        assert (item.text, item.heard, item.source) == ("turn on the lamp in the kitchen", COMMANDS[0], "correction")

        page.get_by_role("button", name="Learn now").click()
        page.get_by_text("not taken (").wait_for()  # one correction is too few
        assert page.get_by_role("button", name="Undo last learning").is_disabled()
        assert troubles == []

        page.goto(f"{service.address}/docs")
        page.get_by_text("/v1/replies/stream").wait_for()
        assert troubles == []  # the API's page needs nothing from elsewhere either
