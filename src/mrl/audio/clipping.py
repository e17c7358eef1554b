"""Overloaded microphones and recorders: what is above a level is cut off."""

from __future__ import annotations

import numpy as np

from mrl.audio.windows import Waveform
from mrl.errors import InputError


def clip(speech: Waveform, level: float) -> Waveform:
    """Cut off what exceeds ``level`` times the peak of ``speech``; ``(samples,)``, the rest is unchanged.

    Args:
        speech: ``(samples,)``.
        level: share of the peak, above 0 up to 1; 1 changes nothing, 0.5 takes 6 dB off the peaks.

    Raises:
        InputError: ``level`` is outside that range.
    """
    if not 0.0 < level <= 1.0:
        raise InputError(f"clipping level is {level}, expected a share of the peak above 0 and up to 1")
    if not speech.size:
        return speech.copy()
    ceiling = np.float32(level) * np.max(np.abs(speech))
    clipped: Waveform = np.clip(speech, -ceiling, ceiling).astype(np.float32)
    return clipped


def clipped_share(samples: Waveform) -> float:
    """Return which share of the samples stands at the peak: about 0 for a clean recording, the clipped part of a clipped one."""
    if not samples.size or not samples.any():
        return 0.0
    magnitude = np.abs(samples)
    return float(np.mean(magnitude >= 0.9999 * magnitude.max()))
