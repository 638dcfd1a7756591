"""What a device hears in a recording, with the adapter that is in use."""

from __future__ import annotations

from pathlib import Path

from jetson_agent.home import Home
from jetson_agent.replay import Remembered, name_of
from stages.errors import InputError


def hear(home: Home, recording: Path) -> Remembered:
    """The utterance in a recording, as the adapter in use hears it: WAV, FLAC, MP3, OGG, Opus, M4A, WebM and more, at any rate.

    It is named by its samples, so that the same recording is remembered once. Raises InputError.
    """
    from stages.audio import load_audio
    from stages.listener import Listener
    from stages.models.encoder import SpeechEncoder

    try:
        content = recording.read_bytes()
    except OSError as error:
        raise InputError(f"{recording}: not readable ({error.strerror}). Give a recording.") from None
    device, shelf = home.in_use()
    version = shelf.current()
    samples = load_audio(content, recording.name)
    encoder = SpeechEncoder.load(device.encoder)
    listener = Listener.load(device.base, device.llm, version.folder if version else None, words=home.words.read())
    heard = listener.hear(samples, encoder, device.padding_s)
    return Remembered(
        name_of(samples),
        samples,
        heard.frames.astype("float16"),
        heard.text,
        heard.text,
        "confident",
        heard.read_out.confidence,
    )
