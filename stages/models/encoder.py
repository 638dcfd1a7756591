"""The frozen speech encoder: samples in, frames at 50 Hz out.

Whisper is run on an utterance's own length, not on its 30 s window: the log-mel spectrogram and the positional table
are cut to length. Samples are mono, float32, 16 kHz; frames are float16, (frames, width).
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from stages.errors import InputError, ModelError
from stages.models.identity import read_identity, weight_map
from stages.schema import FRAME_RATE_HZ, SAMPLE_RATE_HZ

if TYPE_CHECKING:
    import torch

FRAME_SAMPLES = SAMPLE_RATE_HZ // FRAME_RATE_HZ
WHISPER_WINDOW_S = 30.0


class _Backend(Protocol):
    """One kind of encoder."""

    width: int
    max_frames: int | None

    def frames(self, utterances: Sequence[np.ndarray], n_frames: int) -> torch.Tensor:
        """Frames of utterances that share one window: (utterances, n_frames, width)."""


class SpeechEncoder:
    """A prepared encoder, frozen, in float32 on ``device``."""

    def __init__(self, backend: _Backend, identity: str) -> None:
        self._backend = backend
        self.identity = identity
        """``name@first 16 hex of the weights' SHA-256``."""

    @property
    def width(self) -> int:
        """Size of a frame."""
        return self._backend.width

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> SpeechEncoder:
        """Load what ``prepare_encoder`` wrote; of a Whisper only its encoder. Raises ModelError."""
        from safetensors import SafetensorError

        identity = read_identity(folder)
        make = _WhisperBackend if identity.kind == "whisper" else _WaveformBackend
        try:
            return cls(make(Path(folder), device), str(identity))
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"{folder}: does not load as a {identity.kind} encoder ({type(error).__name__}: {error}). "
                "Delete the folder and run `dvc repro models`."
            ) from error

    def encode(self, samples: np.ndarray, padding_s: float = 0.5) -> np.ndarray:
        """Frames of one utterance (n_samples,) with ``padding_s`` of silence after it.

        Returns (ceil(50 × (duration + padding)), width), at most 1,500 frames for Whisper. Raises InputError where the
        samples are empty, of another shape or type, or (Whisper) longer than 30 s.
        """
        import torch

        n_frames = self._window(samples, padding_s)
        with torch.inference_mode():
            return _to_numpy(self._backend.frames([samples], n_frames))[0]

    def encode_batch(self, utterances: Sequence[np.ndarray], padding_s: float = 0.5) -> list[np.ndarray]:
        """``encode`` of each utterance; those with the same number of frames go through the layers together.

        Only those: neither Whisper nor HuBERT base masks padded frames, so a shared longer window would change them.
        """
        import torch

        groups: dict[int, list[int]] = defaultdict(list)
        for index, samples in enumerate(utterances):
            groups[self._window(samples, padding_s)].append(index)
        frames: dict[int, np.ndarray] = {}
        with torch.inference_mode():
            for n_frames, members in groups.items():
                batch = _to_numpy(self._backend.frames([utterances[index] for index in members], n_frames))
                frames |= dict(zip(members, batch, strict=True))
        return [frames[index] for index in range(len(utterances))]

    def encode_padded(self, samples: np.ndarray) -> np.ndarray:
        """Frames of one utterance (n_samples,) in the 30 s window that Whisper was trained on: (1500, width)."""
        self._window(samples, 0.0)
        return self.encode(samples, max(0.0, WHISPER_WINDOW_S - len(samples) / SAMPLE_RATE_HZ))

    def _window(self, samples: np.ndarray, padding_s: float) -> int:
        """Frames of the window that an utterance needs, after checking it."""
        if samples.ndim != 1 or samples.dtype != np.float32:
            raise InputError(f"got samples of shape {samples.shape} and type {samples.dtype}, needed (n,) of float32")
        if not len(samples):
            raise InputError("the recording is empty: it holds no sample")
        # rounded first: 0.1 s is 1600.0000000000002 samples in floating point
        padded = len(samples) + round(padding_s * SAMPLE_RATE_HZ)
        needed, window = math.ceil(len(samples) / FRAME_SAMPLES), math.ceil(padded / FRAME_SAMPLES)
        limit = self._backend.max_frames
        if limit is None:
            return window
        if needed > limit:
            raise InputError(
                f"the recording lasts {len(samples) / SAMPLE_RATE_HZ:.1f} s, and this encoder takes at most "
                f"{limit / FRAME_RATE_HZ:.0f} s. Cut it into utterances."
            )
        return min(window, limit)


class _WhisperBackend:
    """Whisper's encoder on windows of any length up to 30 s."""

    def __init__(self, folder: Path, device: str) -> None:
        import torch
        from safetensors import safe_open
        from transformers import WhisperConfig, WhisperFeatureExtractor
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        config = WhisperConfig.from_pretrained(folder)
        with torch.device("meta"):
            encoder = WhisperEncoder(config)
        state = {}
        for name, path in weight_map(folder).items():
            if name.startswith("model.encoder."):
                with safe_open(path, framework="pt") as file:
                    state[name.removeprefix("model.encoder.")] = file.get_tensor(name).float().clone()
        encoder.load_state_dict(state, strict=True, assign=True)
        self._encoder = encoder.to(device).eval().requires_grad_(False)
        extractor = WhisperFeatureExtractor.from_pretrained(folder)
        self._n_fft, self._hop = extractor.n_fft, extractor.hop_length
        self._hann = torch.hann_window(self._n_fft, device=device)
        self._mel_filters = torch.from_numpy(extractor.mel_filters.T).float().contiguous().to(device)
        self._device = device
        self.width = config.d_model
        self.max_frames: int | None = config.max_source_positions

    def log_mel(self, utterances: Sequence[np.ndarray], n_frames: int) -> torch.Tensor:
        """Log-mel spectrogram of a window: (utterances, mel bins, 2 × n_frames), 100 Hz.

        The values are those that transformers' WhisperFeatureExtractor gives for the start of the 30 s window.
        """
        import torch

        # the analysis windows of the last frames look past the cut, at the silence that follows; a whole 30 s window ends
        # there and is mirrored, as the extractor does
        margin = 0 if n_frames == self.max_frames else self._n_fft // 2
        waves = torch.zeros(len(utterances), n_frames * FRAME_SAMPLES + margin)
        for wave, samples in zip(waves, utterances, strict=True):
            wave[: len(samples)] = torch.from_numpy(samples)
        spectrum = torch.stft(
            waves.to(self._device), self._n_fft, self._hop, window=self._hann, return_complex=True
        )  # (utterances, frequencies, mel frames)
        power = torch.view_as_real(spectrum[..., : 2 * n_frames]).square().sum(-1)
        log_mel = (self._mel_filters @ power).clamp_(min=1e-10).log10_()
        log_mel = torch.maximum(log_mel, log_mel.amax(dim=(1, 2), keepdim=True) - 8.0)
        return (log_mel + 4.0) / 4.0

    def frames(self, utterances: Sequence[np.ndarray], n_frames: int) -> torch.Tensor:
        from torch.nn.functional import gelu

        model = self._encoder
        hidden = gelu(model.conv1(self.log_mel(utterances, n_frames)))  # (utterances, width, 2 × n_frames), 100 Hz
        hidden = gelu(model.conv2(hidden)).transpose(1, 2)  # (utterances, n_frames, width), 50 Hz
        hidden = hidden + model.embed_positions.weight[:n_frames]
        for layer in model.layers:
            hidden = layer(hidden, None)
        return model.layer_norm(hidden)


class _WaveformBackend:
    """wav2vec 2.0, HuBERT and WavLM: encoders that read the waveform itself, at any length."""

    max_frames: int | None = None

    def __init__(self, folder: Path, device: str) -> None:
        import torch
        from transformers import AutoModel

        model = AutoModel.from_pretrained(folder, dtype=torch.float32)
        self._model = model.to(device).eval().requires_grad_(False)
        self._device = device
        self.width = model.config.hidden_size
        stride = math.prod(model.config.conv_stride)
        if stride != FRAME_SAMPLES:
            raise ValueError(f"its frames are {stride} samples apart, needed {FRAME_SAMPLES} ({FRAME_RATE_HZ} Hz)")
        # samples that the first frame sees; each further one moves by the stride
        self._first = 1
        for kernel, step in zip(reversed(model.config.conv_kernel), reversed(model.config.conv_stride), strict=True):
            self._first = (self._first - 1) * step + kernel
        extractor: dict[str, Any] = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        self._normalise = bool(extractor.get("do_normalize", True))

    def frames(self, utterances: Sequence[np.ndarray], n_frames: int) -> torch.Tensor:
        import torch

        length = max((n_frames - 1) * FRAME_SAMPLES + self._first, n_frames * FRAME_SAMPLES)
        waves = torch.zeros(len(utterances), length)
        for wave, samples in zip(waves, utterances, strict=True):
            speech = torch.from_numpy(samples)
            if self._normalise:  # as Wav2Vec2FeatureExtractor: over the speech, silence added afterwards
                speech = (speech - speech.mean()) / torch.sqrt(speech.var(correction=0) + 1e-7)
            wave[: len(samples)] = speech
        hidden = self._model(waves.to(self._device)).last_hidden_state
        return hidden[:, :n_frames]


def _to_numpy(frames: torch.Tensor) -> np.ndarray:
    import torch

    return frames.to(torch.float16).cpu().numpy()
