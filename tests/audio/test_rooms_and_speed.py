from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import fftconvolve

from mrl.audio import change_speed, resample, reverberate, reverberation_time
from mrl.errors import InputError
from tests.audio.sounds import Waveform, frequency_and_amplitude, tone


def decaying_room(rt60: float, seconds: float = 1.2, predelay: int = 300) -> Waveform:
    """A direct path after ``predelay`` samples, then noise that falls by 60 dB in ``rt60`` seconds."""
    t = np.arange(round(seconds * 16000)) / 16000
    tail = 0.3 * np.random.default_rng(2).standard_normal(len(t)) * 10.0 ** (-3.0 * t / rt60)
    tail[0] = 2.0
    return np.concatenate([np.zeros(predelay), tail]).astype(np.float32)


def test_reverberation_keeps_length_energy_and_time() -> None:
    speech = np.random.default_rng(1).standard_normal(16000).astype(np.float32) * 0.1
    wet = reverberate(speech, decaying_room(0.4))
    assert wet.shape == speech.shape
    assert wet.dtype == np.float32
    assert np.sum(wet.astype(np.float64) ** 2) == pytest.approx(np.sum(speech.astype(np.float64) ** 2), rel=1e-5)
    lags = np.fft.irfft(np.fft.rfft(wet, 32768) * np.conj(np.fft.rfft(speech, 32768)))
    assert int(np.argmax(np.abs(lags))) == 0


def test_reverberation_is_convolution_with_the_response_from_its_peak() -> None:
    speech, room = tone(16000, 0.3), decaying_room(0.3)
    expected = fftconvolve(speech.astype(np.float64), room[300:].astype(np.float64))[: len(speech)]
    expected *= np.sqrt(np.sum(speech**2) / np.sum(expected**2))
    assert np.max(np.abs(reverberate(speech, room) - expected)) < 1e-5


def test_a_click_comes_back_as_the_room_with_its_reverberation_time() -> None:
    click = np.zeros(24000, np.float32)
    click[100] = 0.5
    wet = reverberate(click, decaying_room(0.5))
    assert np.argmax(np.abs(wet)) == 100
    assert not np.any(np.abs(wet[:100]) > 1e-6)
    assert reverberation_time(wet[100:19000], 16000) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("rt60", [0.2, 0.6, 1.0])
def test_reverberation_time(rt60: float) -> None:
    assert reverberation_time(decaying_room(rt60, seconds=2.0), 16000) == pytest.approx(rt60, rel=0.05)


def test_useless_responses() -> None:
    with pytest.raises(InputError, match="silent"):
        reverberate(tone(16000, 0.1), np.zeros(10, np.float32))
    with pytest.raises(InputError, match="silent"):
        reverberation_time(np.zeros(10, np.float32), 16000)
    with pytest.raises(InputError, match="35 dB"):
        reverberation_time(np.ones(100, np.float32), 16000)
    assert not reverberate(np.zeros(10, np.float32), decaying_room(0.2)).any()


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.1, 2.0])
def test_speed_changes_length_and_pitch_by_its_factor(factor: float) -> None:
    faster = change_speed(tone(16000, 1.0), factor)
    assert abs(len(faster) - 16000 / factor) <= 1
    hertz, amplitude = frequency_and_amplitude(faster[500:-500], 16000)
    assert hertz == pytest.approx(440.0 * factor, abs=0.2)
    assert amplitude == pytest.approx(0.25, rel=5e-3)


def test_speed_up_does_not_alias() -> None:
    fast = change_speed(tone(16000, 1.0, hertz=7800.0), 1.5)
    assert np.sqrt(np.mean(fast[500:-500] ** 2)) < 1e-3


@pytest.mark.parametrize("factor", [0.0, 0.4, 2.1, float("nan")])
def test_speed_out_of_range(factor: float) -> None:
    with pytest.raises(InputError, match="speed factor"):
        change_speed(tone(16000, 0.1), factor)


def test_resample_to_the_same_rate_is_the_identity() -> None:
    samples = tone(16000, 0.1)
    assert resample(samples, 16000, 16000) is samples
