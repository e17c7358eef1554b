"""What each change did, measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.audio import add_babble, add_noise, change_gain
from mrl.audio.changes import loop_or_crop
from mrl.errors import InputError
from tests.audio.sounds import Waveform, tone


def decibels(signal: Waveform, noise: Waveform) -> float:
    return float(10 * np.log10(np.mean(signal.astype(np.float64) ** 2) / np.mean(noise.astype(np.float64) ** 2)))


@settings(max_examples=30, deadline=None)
@given(snr_db=st.floats(-10, 40), noise_samples=st.integers(1, 40000), scale=st.floats(1e-4, 10), seed=st.integers(0, 1000))
def test_the_ratio_obtained_is_the_ratio_asked_for(snr_db: float, noise_samples: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    speech = tone(16000, 1.0)
    noise = (scale * rng.standard_normal(noise_samples)).astype(np.float32)
    noisy = add_noise(speech, noise, snr_db, rng)
    assert noisy.dtype == np.float32
    assert decibels(speech, noisy - speech) == pytest.approx(snr_db, abs=0.1)


def test_noise_with_long_pauses_still_gets_its_ratio() -> None:
    speech, noise = tone(16000, 0.5), np.zeros(160000, np.float32)
    noise[100000:100400] = 0.1
    for seed in range(10):
        noisy = add_noise(speech, noise, 6.0, np.random.default_rng(seed))
        assert decibels(speech, noisy - speech) == pytest.approx(6.0, abs=0.1)


def test_short_noise_is_looped_and_long_noise_cropped_at_random() -> None:
    ramp = np.arange(1, 101, dtype=np.float32)
    rng = np.random.default_rng(0)
    looped = loop_or_crop(ramp, 250, rng)
    assert set(np.diff(looped).astype(int)) == {1, -99}
    starts = {float(loop_or_crop(ramp, 20, rng)[0]) for _ in range(400)}
    assert starts == set(range(1, 82))
    assert np.array_equal(np.diff(loop_or_crop(ramp, 20, rng)), np.ones(19))


def test_babble_has_its_ratio_and_equal_voices() -> None:
    speech = tone(16000, 1.0, 300.0)
    voices = [tone(16000, 1.0, 1000.0, amplitude=0.9), tone(16000, 1.0, 2000.0, amplitude=0.01)]
    babble = add_babble(speech, voices, 15.0, np.random.default_rng(0)) - speech
    assert decibels(speech, babble) == pytest.approx(15.0, abs=0.1)
    spectrum = np.abs(np.fft.rfft(babble))
    assert spectrum[1000] == pytest.approx(spectrum[2000], rel=0.02)


def test_gain() -> None:
    assert decibels(change_gain(tone(16000, 0.1), -7.5), tone(16000, 0.1)) == pytest.approx(-7.5, abs=1e-3)


def test_silence_has_no_ratio() -> None:
    speech, silence, rng = tone(16000, 0.1), np.zeros(100, np.float32), np.random.default_rng(0)
    with pytest.raises(InputError, match="noise is empty or silent"):
        add_noise(speech, silence, 0.0, rng)
    with pytest.raises(InputError, match="speech is empty or silent"):
        add_noise(silence, speech, 0.0, rng)
    with pytest.raises(InputError, match="at least one"):
        add_babble(speech, [], 0.0, rng)
    with pytest.raises(InputError, match="voice"):
        add_babble(speech, [speech, silence], 0.0, rng)
