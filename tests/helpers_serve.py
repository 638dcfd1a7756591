"""A device that really hears: a small base that learned a few spoken commands, and `edgealign-agent serve` as a process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jetson_agent.home import Device, Home

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (
    "turn on the light in the kitchen",
    "what time is it now",
    "stop the music please",
    "open the door for me",
    "set a timer for ten minutes",
    "call my sister tomorrow morning",
)
LEARNED = {"low": "en-us+m3", "high": "en-us+f2", "other": "en-gb-scotland+m5", "fourth": "en-us+f4"}
"""Voices that the base learns from; two more are of other people whom it has not heard."""
EPOCHS = 16
OTHERS = {"dora": "en-us+f3", "eve": "en-us+m1"}


def speak(folder: Path, voices: dict[str, str], sentences: tuple[str, ...] = COMMANDS) -> list[tuple[str, str, Path]]:
    """(user, text, WAV file) of every sentence in every voice."""
    from tests.helpers_checkout import speak as write

    write(folder, voices, sentences)
    return [(user, text, folder / f"{user}-{place:02d}.wav") for user in voices for place, text in enumerate(sentences)]


def train_device(folder: Path, encoder_folder: Path, llm_folder: Path) -> Home:
    """A device with a base that was trained in seconds; other people's utterances are there."""
    from stages.alignment.adapter import AdapterRecord, save_base
    from stages.alignment.bridgeformer import BridgeFormerConfig
    from stages.alignment.trainer import TrainConfig, Trainer
    from stages.alignment.vocabulary import Vocabulary
    from stages.audio import load_audio
    from stages.examples import LabelledUtterance, to_examples
    from stages.models.encoder import SpeechEncoder
    from stages.models.identity import read_identity
    from stages.models.llm import embedding_rows, llm_identity, load_tokenizer

    encoder, tokenizer = SpeechEncoder.load(encoder_folder), load_tokenizer(llm_folder)
    silence = np.zeros(10_000, dtype=np.float32)  # 0.6 s, as before and after a person speaks
    items = []
    for user, text, path in speak(folder / "spoken", {**LEARNED, **OTHERS}):
        samples = load_audio(path, path.name)
        for name, heard in (("", samples), ("-quiet", np.concatenate([silence, samples, silence]))):
            frames = encoder.encode(heard)
            items.append(LabelledUtterance(path.stem + name, user, "commands", text, "human", frames, None))
    learned = [item for item in items if item.user in LEARNED]
    vocabulary = Vocabulary(()).grown(tokenizer, [item.text for item in learned])
    config = BridgeFormerConfig(encoder.width, read_identity(llm_folder).width, width=128, heads=4, feed_forward=256)
    examples = to_examples(learned, vocabulary, lambda text: vocabulary.rows_of(tokenizer, text))
    rows = embedding_rows(llm_folder, vocabulary.ids)
    trainer = Trainer(config, TrainConfig(epochs=EPOCHS, batch_size=8, learning_rate=3e-3), examples, rows)
    for _ in range(EPOCHS):
        trainer.run_epoch()
    record = AdapterRecord(
        "base", "embedlink", config.to_json(), encoder.identity, llm_identity(llm_folder), list(vocabulary.ids)
    )
    save_base(folder / "base", trainer.bridge.eval(), record)
    home = Home.open(folder / "agent")
    others = [item for item in items if item.user in OTHERS]
    home.set_up(Device("home", "ann", encoder_folder, llm_folder, folder / "base", 0.5), others)
    return home


@dataclass(frozen=True)
class Served:
    """A running service."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path
    home: Path

    def call(self, method: str, path: str, **options: Any) -> Any:
        """An HTTP request; ``requests`` has no idea of who may ask."""
        import requests

        return requests.request(method, self.address + path, timeout=60, **options)

    def talk(self, **options: Any) -> Any:
        """A WebSocket."""
        from websockets.sync.client import connect

        return connect(self.address.replace("http", "ws") + "/v1/talk", max_size=None, **options)


@contextmanager
def served(home: Path, log: Path, *options: str, before: tuple[str, ...] = ()) -> Iterator[Served]:
    """`edgealign-agent serve` on a free port, ended as systemd would; ``before``: words before the program's own."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*before, sys.executable, "-m", "jetson_agent", "serve", "--home", str(home), "--port", "0", *options],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Served(_address(process, log), process, log, home)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(1200):
        told = re.search(r"serving \S+ at (\S+)", log.read_text())
        if told:
            return told[1]
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.1)
    raise AssertionError(log.read_text()[-3000:])


def pcm(path: Path) -> bytes:
    """A recording as 16-bit little-endian mono samples at 16 kHz."""
    from stages.audio import load_audio

    return (np.clip(load_audio(path, path.name), -1, 1) * 32767).astype("<i2").tobytes()
