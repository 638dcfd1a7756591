"""Long recordings cut at silences: Silero's voice activity model, which comes with faster-whisper, finds the speech.

The samples pass through in windows of a minute, so hours of audio need no more memory than a minute does. Windows depend on
the samples alone, never on the blocks that they arrive in: the same recording always gives the same pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from stages.schema import SAMPLE_RATE_HZ

WINDOW_S = 60.0
"""Audio that the model hears at once: several pieces, a few MB."""

CONTEXT_S = 1.0
"""Audio that a window shares with the one before it: the model starts each window deaf, and notices speech late."""

PAUSE_S = 0.1
"""The shortest pause that is one; the closure of a plosive is shorter."""

JOIN_S = 0.6
"""The longest pause within a piece: longer ones lie between sentences."""

QUIET_S = 0.1
"""Length over which loudness is averaged where speech without a pause has to be cut."""

WINDOW, CONTEXT, JOIN, QUIET = (int(s * SAMPLE_RATE_HZ) for s in (WINDOW_S, CONTEXT_S, JOIN_S, QUIET_S))

Span = tuple[int, int]
"""First sample, and the one after the last."""


@dataclass(frozen=True)
class Piece:
    """A stretch of speech: ``samples`` is float32 (n_samples,), mono, SAMPLE_RATE_HZ; times are of the recording."""

    start_s: float
    end_s: float
    samples: np.ndarray


def cut(blocks: Iterable[np.ndarray], max_s: float = 15.0, min_s: float = 0.3, pad_s: float = 0.2) -> Iterator[Piece]:
    """The stretches of speech in a recording that comes as ``blocks``, float32 (n_samples,) each, mono, SAMPLE_RATE_HZ.

    Pieces come in order, do not overlap and last at most ``max_s``. Neighbours with a pause of up to JOIN_S between them
    become one; what gets too long is cut at its widest pause or, without any, at its quietest place. ``pad_s`` of what
    was there stays around the speech. Less than ``min_s`` of speech on its own is taken for a click and left out.

    Raises ValueError where the lengths leave no room, and passes on what ``blocks`` raises.
    """
    if not (0 <= pad_s <= CONTEXT_S and 0 < min_s < max_s - 2 * pad_s and max_s <= WINDOW_S / 2):
        raise ValueError(
            f"no pieces of {min_s} to {max_s} s with {pad_s} s around them. Pieces last up to {WINDOW_S / 2} s, padding "
            f"up to {CONTEXT_S} s."
        )
    shortest, pad = int(min_s * SAMPLE_RATE_HZ), int(pad_s * SAMPLE_RATE_HZ)
    longest = int(max_s * SAMPLE_RATE_HZ) - 2 * pad
    feed = _Feed(blocks)
    window = np.zeros(0, dtype=np.float32)
    origin = 0  # of the window in the recording
    settled = 0  # in the window: speech before this was dealt with
    free = -WINDOW  # in the window: end of the last piece, where padding may begin
    while True:
        window = np.concatenate([window, feed.take(WINDOW - window.size)])
        last = window.size < WINDOW
        groups = _grouped(_without_long_ones(_speech(window, settled), window, longest), longest)
        open_end = window.size if last else window.size - JOIN - CONTEXT  # speech behind this may go on
        # an open group waits for the next window, and so does what the model may not have noticed yet
        rest = window.size - CONTEXT
        if groups and not last and groups[-1][-1][1] > open_end:
            rest = groups[-1][0][0]
        for index, group in enumerate(groups):
            start, end = group[0][0], group[-1][1]
            if not last and start >= rest:
                break
            following = groups[index + 1][0][0] if index + 1 < len(groups) else window.size + WINDOW
            alone = start - free > JOIN and following - end > JOIN
            if alone and sum(stop - begin for begin, stop in group) < shortest:
                continue
            first = max(start - pad, free, 0)
            free = min(end + pad, (end + following) // 2, window.size)
            samples = window[first:free].copy()
            yield Piece((origin + first) / SAMPLE_RATE_HZ, (origin + free) / SAMPLE_RATE_HZ, samples)
        if last:
            return
        kept = max(rest - CONTEXT, 0)
        window, origin, settled, free = window[kept:], origin + kept, rest - kept, free - kept


class _Feed:
    """Samples in any number from blocks of any size."""

    def __init__(self, blocks: Iterable[np.ndarray]) -> None:
        self._blocks = iter(blocks)
        self._rest = np.zeros(0, dtype=np.float32)

    def take(self, count: int) -> np.ndarray:
        """The next ``count`` samples, float32 (count,), or as many as there are."""
        parts, have = [self._rest], self._rest.size
        while have < count:
            block = next(self._blocks, None)
            if block is None:
                break
            parts.append(block)
            have += block.size
        samples = np.concatenate(parts)
        self._rest = samples[count:].copy()
        return samples[:count]


def _speech(window: np.ndarray, settled: int) -> list[Span]:
    """Where the model hears speech in (n_samples,), from sample ``settled`` on."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps  # one thread, whatever the machine has

    if window.size == 0:
        return []
    options = VadOptions(min_silence_duration_ms=round(PAUSE_S * 1000), speech_pad_ms=0)
    found = get_speech_timestamps(window, options, sampling_rate=SAMPLE_RATE_HZ)
    return [(max(span["start"], settled), span["end"]) for span in found if span["end"] > settled]


def _without_long_ones(spans: list[Span], window: np.ndarray, longest: int) -> Iterator[Span]:
    """The same speech, but spans of more than ``longest`` are cut at the quietest place of their second half."""
    for start, end in spans:
        while end - start > longest:
            place = _quietest(window, start + longest // 2, start + longest)
            yield start, place
            start = place
        yield start, end


def _quietest(window: np.ndarray, first: int, last: int) -> int:
    """The middle of the QUIET_S with the least energy within window[first:last]."""
    energy = np.cumsum(np.square(window[first:last], dtype=np.float64))
    return first + int(np.argmin(energy[QUIET:] - energy[:-QUIET])) + QUIET // 2


def _grouped(spans: Iterable[Span], longest: int) -> list[list[Span]]:
    """Neighbours that make one piece; one that would last longer than ``longest`` is parted at its widest pause."""
    groups: list[list[Span]] = []
    group: list[Span] = []
    for span in spans:
        if group and span[0] - group[-1][1] > JOIN:
            groups.append(group)
            group = []
        group.append(span)
        while group[-1][1] - group[0][0] > longest:
            place = _widest_pause(group, longest)
            groups.append(group[:place])
            group = group[place:]
    return [*groups, group] if group else groups


def _widest_pause(group: list[Span], longest: int) -> int:
    """Where to part a group that is too long: what stays in front fits, and if it can be is not shorter than half."""
    start = group[0][0]
    fitting = [place for place in range(1, len(group)) if group[place - 1][1] - start <= longest]
    long_enough = [place for place in fitting if group[place - 1][1] - start >= longest // 2]
    return max(long_enough or fitting, key=lambda place: group[place][0] - group[place - 1][1])
