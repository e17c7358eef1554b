"""Reverberation by measured room impulse responses."""

from __future__ import annotations

import numpy as np

from mrl.audio.windows import Waveform
from mrl.errors import InputError


def reverberate(speech: Waveform, impulse_response: Waveform) -> Waveform:
    """Let ``speech`` sound as in the room of ``impulse_response``, at the same rate, length, energy and time.

    The strongest sample of the response is taken for the direct path and put at delay zero, so that the result is not shifted
    against ``speech``; what the response holds before it is dropped. The result is scaled to the energy of ``speech``.

    Args:
        speech: ``(samples,)``.
        impulse_response: ``(response_samples,)``.

    Raises:
        InputError: the response is empty or silent.
    """
    if not impulse_response.size or not impulse_response.any():
        raise InputError("the impulse response is empty or silent")
    if not speech.any():
        return speech.copy()
    direct = int(np.argmax(np.abs(impulse_response)))
    response = impulse_response[direct : direct + len(speech)].astype(np.float64)
    size = 1 << (len(speech) + len(response) - 2).bit_length()
    spectrum = np.fft.rfft(speech.astype(np.float64), size) * np.fft.rfft(response, size)
    wet = np.fft.irfft(spectrum, size)[: len(speech)]
    wet *= np.sqrt(np.sum(np.square(speech, dtype=np.float64)) / np.sum(np.square(wet)))
    return wet.astype(np.float32)


def reverberation_time(impulse_response: Waveform, sample_rate: int) -> float:
    """RT60 in seconds: twice the time in which the backward-integrated energy falls from -5 to -35 dB (T30, ISO 3382).

    Raises:
        InputError: the response does not decay by 35 dB.
    """
    tail = impulse_response[int(np.argmax(np.abs(impulse_response))) :].astype(np.float64)
    energy = np.cumsum(np.square(tail)[::-1])[::-1]
    if not energy.size or energy[0] == 0.0:
        raise InputError("the impulse response is empty or silent")
    decay = 10.0 * np.log10(np.maximum(energy / energy[0], 1e-30))
    span = (decay <= -5.0) & (decay >= -35.0)
    if decay[-1] > -35.0 or np.count_nonzero(span) < 2:
        raise InputError(f"the impulse response decays by {-decay[-1]:.0f} dB only, RT60 needs 35 dB")
    seconds = np.flatnonzero(span) / sample_rate
    slope = np.polyfit(seconds, decay[span], 1)[0]
    return float(-60.0 / slope)
