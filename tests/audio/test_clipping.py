"""Clipping, measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.audio import clip, clipped_share
from mrl.audio.augment import ratio_db
from mrl.errors import InputError
from tests.audio.sounds import tone


@settings(max_examples=20, deadline=None)
@given(level=st.floats(0.05, 0.95), amplitude=st.floats(0.01, 2.0))
def test_a_sine_is_clipped_for_the_share_of_time_that_it_exceeds_the_level(level: float, amplitude: float) -> None:
    signal = tone(16000, 1.0, hertz=123.0, amplitude=amplitude)
    clipped = clip(signal, level)
    assert float(np.max(np.abs(clipped))) == pytest.approx(level * float(np.max(np.abs(signal))), rel=1e-5)
    assert clipped_share(clipped) == pytest.approx(1.0 - 2.0 / np.pi * np.arcsin(level), abs=0.01)
    below = np.abs(signal) < 0.999 * level * amplitude
    assert np.array_equal(clipped[below], signal[below])


@pytest.mark.parametrize("level", [0.9, 0.5, 0.2])
def test_the_distortion_is_that_of_the_part_cut_off(level: float) -> None:
    signal = tone(16000, 1.0, hertz=123.0)
    start = np.arcsin(level)
    rest = np.pi / 2.0 - start
    # the integral of (sin x - level)^2 over the clipped quarter of the period
    lost = rest / 2.0 + np.sin(2.0 * start) / 4.0 - 2.0 * level * np.cos(start) + level**2 * rest
    expected = 10.0 * np.log10(0.5 / (2.0 / np.pi * lost))
    assert ratio_db(signal, clip(signal, level) - signal) == pytest.approx(expected, abs=0.1)
    assert np.array_equal(clip(signal, 1.0), signal)


def test_edges() -> None:
    assert clip(np.zeros(0, np.float32), 0.5).size == 0
    assert clipped_share(np.zeros(10, np.float32)) == 0.0
    for level in (0.0, 1.1, float("nan")):
        with pytest.raises(InputError, match="share of the peak"):
            clip(tone(16000, 0.1), level)
