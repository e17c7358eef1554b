"""Where a recording is not quiet."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from mrl.audio.decoded import Waveform
from mrl.audio.reading import SAMPLE_RATE

_FRAME = SAMPLE_RATE // 50
_QUIET_DB = 35.0
_LOUD_FRAMES = 25  # the loudest half second


def measure_speech(blocks: Iterable[Waveform]) -> tuple[float, float]:
    """Return how long audio at 16 kHz is that comes in blocks (samples,), and how long it is not quiet, in seconds.

    Not quiet are frames of 20 ms within 35 dB of the loud ones: those at the 95th percentile of power, or the loudest half second
    where that is less. This tells pauses from speech in a clean recording; it takes loud steady noise for speech.
    """
    samples, power = frame_powers(blocks)
    if not len(power):
        return samples / SAMPLE_RATE, samples / SAMPLE_RATE
    return samples / SAMPLE_RATE, float(np.count_nonzero(power >= quiet_limit(power)) * _FRAME / SAMPLE_RATE)


def frame_powers(blocks: Iterable[Waveform]) -> tuple[int, npt.NDArray[np.float64]]:
    """Return the number of samples of audio in blocks, and the power of its whole frames of 20 ms."""
    samples, powers, rest = 0, [np.empty(0)], np.empty(0, dtype=np.float32)
    for block in blocks:
        samples += len(block)
        audio = np.concatenate([rest, block]) if len(rest) else block
        whole = len(audio) // _FRAME
        frames, rest = audio[: whole * _FRAME].reshape(whole, _FRAME).astype(np.float64), audio[whole * _FRAME :]
        powers.append(np.einsum("nf,nf->n", frames, frames))
    return samples, np.concatenate(powers)


def quiet_limit(power: npt.NDArray[np.float64]) -> float:
    """Return the power below which frames are quiet."""
    loud = power[power > 0]
    if not len(loud):
        return math.inf
    place = max(0.95 * (len(loud) - 1), len(loud) - _LOUD_FRAMES)
    below, above = math.floor(place), math.ceil(place)
    ordered = np.partition(loud, (below, above))  # np.quantile would import numpy.ma, which a short command waits for
    level = ordered[below] + (place - below) * (ordered[above] - ordered[below])
    return float(level * 10 ** (-_QUIET_DB / 10))
