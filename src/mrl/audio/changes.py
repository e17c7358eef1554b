"""Noise, babble and level: pure functions on (samples,) float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrl.audio.decoded import Waveform
from mrl.errors import InputError

# Reverberation by measured room impulse responses.


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


# Overloaded microphones and recorders: what is above a level is cut off.


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


# Speed perturbation: faster and higher, or slower and lower, as a tape would be.


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


def power(samples: Waveform) -> float:
    """Mean square of a waveform; the level in dB is ten times its decimal logarithm."""
    return float(np.mean(np.square(samples, dtype=np.float64)))


def loop_or_crop(noise: Waveform, length: int, rng: np.random.Generator) -> Waveform:
    """Return ``length`` samples of ``noise`` from a random place: a part of it, or, if it is shorter, itself over and over."""
    if len(noise) >= length:
        start = int(rng.integers(len(noise) - length + 1))
        return noise[start : start + length]
    start = int(rng.integers(len(noise)))
    return np.resize(np.roll(noise, -start), length)


def add_noise(speech: Waveform, noise: Waveform, snr_db: float, rng: np.random.Generator) -> Waveform:
    """Add ``noise`` at a signal-to-noise ratio of ``snr_db`` dB.

    The ratio is that of the mean power of all of ``speech`` to the mean power of the very stretch of noise that is added, so what
    is asked for is what is obtained. The sum may exceed full scale; nothing is clipped.

    Args:
        speech: ``(samples,)``.
        noise: ``(noise_samples,)``, looped or cropped from a random place to the length of ``speech``.
        snr_db: in dB; 0 makes both equally strong.
        rng: source of the random place.

    Raises:
        InputError: ``speech`` or ``noise`` is silent or empty, so that the ratio is not defined.
    """
    if not noise.size or not noise.any():
        raise InputError("the noise is empty or silent, a signal-to-noise ratio needs noise with some power")
    if not speech.size or not speech.any():
        raise InputError("the speech is empty or silent, a signal-to-noise ratio needs speech with some power")
    part = loop_or_crop(noise, len(speech), rng)
    if not part.any():  # a pause in the noise: begin at its loudest sample instead
        part = np.resize(np.roll(noise, -int(np.argmax(np.abs(noise)))), len(speech))
    gain = np.sqrt(power(speech) / power(part) / 10.0 ** (snr_db / 10.0))
    return (speech + np.float32(gain) * part).astype(np.float32)


def add_babble(speech: Waveform, voices: Sequence[Waveform], snr_db: float, rng: np.random.Generator) -> Waveform:
    """Add other people's voices, each equally strong, together at ``snr_db`` dB below ``speech``.

    Raises:
        InputError: no voices are given, or a voice or the speech is silent.
    """
    if not voices:
        raise InputError("no voices are given, babble needs at least one")
    babble = np.zeros(len(speech), dtype=np.float32)
    for voice in voices:
        part = loop_or_crop(voice, len(speech), rng) if voice.size else voice
        strength = power(part) if part.size else 0.0
        if strength == 0.0:
            raise InputError("a voice for the babble is empty or silent over the stretch chosen, leave it out")
        babble += part / np.float32(np.sqrt(strength))
    return add_noise(speech, babble, snr_db, rng)


def change_gain(speech: Waveform, gain_db: float) -> Waveform:
    """Make ``speech`` louder (positive) or softer (negative) by ``gain_db`` dB; nothing is clipped."""
    return (speech * np.float32(10.0 ** (gain_db / 20.0))).astype(np.float32)
