"""Speed perturbation: faster and higher, or slower and lower, as a tape would be."""

from __future__ import annotations

import numpy as np

from mrl.audio.windows import Waveform
from mrl.errors import InputError


def change_speed(speech: Waveform, factor: float) -> Waveform:
    """Play ``speech`` ``factor`` times as fast: ``(samples,)`` to about ``(samples / factor,)``, frequencies times ``factor``.

    Pitch and formants change with it, so recipes that use 0.9 and 1.1 often count the results as new speakers.

    Raises:
        InputError: ``factor`` is outside [0.5, 2].
    """
    if not 0.5 <= factor <= 2.0:
        raise InputError(f"speed factor is {factor}, expected 0.5 to 2")
    if factor == 1.0:
        return speech.copy()
    import soxr

    return np.asarray(soxr.resample(speech, factor, 1.0, quality="HQ"), dtype=np.float32)
