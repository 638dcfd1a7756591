"""eSpeak NG in this process (the wheel ``espeakng-loader``, through ctypes): text in, samples out.

eSpeak keeps state from one utterance to the next (its noise generator, its pitch flutter), so the same text need not give
the same samples twice in a process, and starting the library again does not reset it. The random numbers' seed is fixed
here; for the rest, the demo cohorts speak each user in a process of its own: the samples depend on that user's
utterances and their order alone.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np

from stages.errors import InputError

AUDIO_OUTPUT_SYNCHRONOUS = 2
CHARS_UTF8 = 1
PARAMETER_RATE, PARAMETER_PITCH, PARAMETER_RANGE = 1, 3, 4
INITIALIZE_DONT_EXIT = 0x8000
RANDOM_SEED = 1
SSML = 0x10


@dataclass(frozen=True)
class Voice:
    """How a speaker sounds: an eSpeak voice with an optional variant, and its usual rate and pitch."""

    name: str  # e.g. "en-us+f3"
    rate_wpm: int = 165
    pitch: int = 50  # 0 to 99
    pitch_range: int = 50  # 0 (monotone) to 99


class Speaker:
    """One initialised eSpeak library. It is global in its process: make one a process."""

    def __init__(self) -> None:
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self.rate_hz = self._library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, data, INITIALIZE_DONT_EXIT)
        if self.rate_hz <= 0:
            raise InputError("eSpeak NG did not start. Reinstall the package espeakng-loader.")
        # eSpeak seeds its random numbers (flutter, breath, whisper) with the clock; its Klatt synthesiser uses libc's
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(RANDOM_SEED))
        ctypes.CDLL(None).srand(RANDOM_SEED)
        self._pieces: list[np.ndarray] = []
        signature = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = signature(self._collect)  # kept: ctypes does not hold a reference for the library
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, wave: ctypes._Pointer[ctypes.c_short], n_samples: int, _events: int | None) -> int:
        if n_samples > 0 and wave:
            self._pieces.append(np.ctypeslib.as_array(wave, (n_samples,)).copy())
        return 0

    def use(self, voice: Voice) -> None:
        """Switch to ``voice``. Raises InputError where eSpeak does not know its name."""
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise InputError(f"eSpeak NG has no voice {voice.name!r}. See the package espeakng-loader, voices/!v.")
        self._library.espeak_SetParameter(PARAMETER_RATE, voice.rate_wpm, 0)
        self._library.espeak_SetParameter(PARAMETER_PITCH, voice.pitch, 0)
        self._library.espeak_SetParameter(PARAMETER_RANGE, voice.pitch_range, 0)

    def speak(self, ssml: str) -> np.ndarray:
        """Samples of ``ssml`` (plain text with SSML's break tags) as float64 (n_samples,) at ``rate_hz``."""
        self._pieces.clear()
        content = ssml.encode()
        status = self._library.espeak_Synth(
            content, ctypes.c_size_t(len(content) + 1), 0, 1, 0, CHARS_UTF8 | SSML, None, None
        )
        if status != 0:
            raise InputError(f"eSpeak NG could not speak {ssml!r} (status {status}).")
        self._library.espeak_Synchronize()
        if not self._pieces:
            return np.zeros(0)
        return np.concatenate(self._pieces).astype(np.float64) / 32768.0
