"""Noise, babble and level: pure functions on (samples,) float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrl.audio.windows import Waveform
from mrl.errors import InputError


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
