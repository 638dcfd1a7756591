"""What phones, browsers and other programs record: read whatever the file is called, and missed where it is cut off."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from stages.audio import decode, load_audio, read_header, read_recording, stream_mono_16k
from stages.errors import InputError
from stages.quality import measure
from tests.helpers_audio import KINDS, SECONDS, STATING, encoded, sound, whole_files


@pytest.mark.parametrize("kind", KINDS)
def test_formats_of_phones_and_browsers(kind: str, tmp_path: Path) -> None:
    codec, container, rate_hz, name = KINDS[kind]
    path = tmp_path / f"sound.{kind}"
    path.write_bytes(encoded(codec, container, rate_hz))
    header, recording = read_recording(path, path.name, max_duration_s=30.0)
    assert (header.rate_hz, header.channels, header.format) == (rate_hz, 1, name)
    assert header.duration_s == pytest.approx(SECONDS, abs=0.15)  # encoders pad
    assert read_header(path.read_bytes(), path.name).duration_s == pytest.approx(SECONDS, abs=0.15)
    assert recording is not None
    assert measure(recording.samples, rate_hz).level_dbfs == pytest.approx(measure(sound(), 16_000).level_dbfs, abs=2.0)
    samples = load_audio(path, path.name)
    lag = np.argmax(np.correlate(samples[:16_000], sound()[:16_000], "full")) - 15_999
    assert abs(lag) < 0.15 * 16_000  # what was padded in front
    np.testing.assert_allclose(np.concatenate(list(stream_mono_16k(path, path.name, 0.3))), samples, atol=1e-6)
    part = decode(path, path.name, 0.5, 1.5).samples
    np.testing.assert_allclose(part, recording.samples[rate_hz // 2 : 3 * rate_hz // 2], atol=1e-6)


def test_a_lossless_format_comes_out_to_the_sample() -> None:
    samples = decode(encoded("alac", "ipod"), "x.m4a").samples
    np.testing.assert_allclose(samples[:, 0], sound(), atol=1 / 32768)


def test_libsndfile_and_ffmpeg_hear_the_same_opus() -> None:
    """libsndfile 1.2.2 alone decodes the start of FFmpeg's files with a decoder that is not fresh."""
    content = encoded("libopus", "ogg", 48_000)
    with av.open(io.BytesIO(content)) as file:
        frames = [frame.to_ndarray() for frame in file.decode(audio=0)]
    expected = np.concatenate(frames, axis=1)[0]
    np.testing.assert_allclose(decode(content, "x.ogg").samples[:, 0], expected, atol=1e-5)


def test_an_mp3_without_a_count_of_frames_is_read_to_its_end() -> None:
    options = {"write_xing": "0", "id3v2_version": "0"}
    parts = [encoded("libmp3lame", "mp3", options=options, bits_a_second=rate) for rate in (160_000, 24_000)]
    content = b"".join(parts)  # whoever reckons the length from the first frames' bit rate is wrong by far
    assert read_header(content, "x.mp3").duration_s == pytest.approx(2 * SECONDS, abs=0.3)
    assert decode(content, "x.mp3").samples.shape[0] / 16_000 == pytest.approx(2 * SECONDS, abs=0.3)
    shorter = parts[0][: int(len(parts[0]) * 0.9)]  # nothing says how long it should be
    assert read_header(shorter, "x.mp3").duration_s == pytest.approx(0.9 * SECONDS, abs=0.15)
    assert read_header(encoded("libmp3lame", "mp3"), "x.mp3").duration_s == SECONDS


@pytest.mark.parametrize("kind", STATING)
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_cut_off_file_is_refused_where_its_header_says_how_long_it_is(kind: str, share: float) -> None:
    content = whole_files()[kind]
    assert load_audio(content, "whole").size > 0
    with pytest.raises(InputError, match=r"part: (cut|broken) off"):
        load_audio(content[: int(len(content) * share)], "part")


def test_a_header_that_was_never_finished_is_no_sign_of_a_cut() -> None:
    content = bytearray(whole_files()["WAV"])
    content[40:44] = b"\xff\xff\xff\xff"  # what FFmpeg writes into a pipe
    assert load_audio(bytes(content), "stream.wav").size == int(SECONDS * 16_000)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3", "M4A", "WEBM"])
@pytest.mark.parametrize("name", ["x.txt", "x.raw", "x.mp3", "x.wav", "x"])
def test_the_name_does_not_matter(kind: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(whole_files()[kind])
    assert load_audio(path, name).size == pytest.approx(SECONDS * 16_000, abs=2_400)


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {}\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n",
    ],
    ids=["hls", "concat", "sdp"],
)
def test_a_playlist_opens_no_other_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "secret.m4a").write_bytes(whole_files()["M4A"])
    path = tmp_path / "playlist.wav"
    path.write_text(text.format(tmp_path / "secret.m4a"))
    with pytest.raises(InputError, match="not audio"):
        load_audio(path, path.name)


def test_without_pyav_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    files = whole_files()
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "stages.audio_av", raising=False)
    with pytest.raises(InputError, match=r"x\.m4a: .*pip install av"):
        load_audio(files["M4A"], "x.m4a")
    assert load_audio(files["WAV"], "x.wav").size > 0


def test_a_video_without_sound_says_so() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), dtype=np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(InputError, match="holds no sound"):
        load_audio(buffer.getvalue(), "x.mkv")
