"""Telephone lines and codecs, measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.audio.changes import power
from mrl.audio.channel import CODECS, a_law, code_and_decode, g711, mu_law, narrowband, telephone, telephone_band
from mrl.audio.decoded import Waveform
from mrl.audio.synthetic import SyntheticVoice
from mrl.errors import InputError
from tests.audio.sounds import tone

RATE = 16000


def snr_db(clean: Waveform, changed: Waveform) -> float:
    return 10 * np.log10(power(clean) / power(changed - clean))


def level_db(samples: Waveform, low: float, high: float) -> float:
    """Level of the part of a signal between two frequencies."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / RATE)
    return float(10 * np.log10(spectrum[(hertz >= low) & (hertz < high)].mean() + 1e-30))


@pytest.fixture(scope="module")
def speech() -> Waveform:
    rng = np.random.default_rng(0)
    return SyntheticVoice.random(rng).say(rng, 2.0)


@pytest.fixture(scope="module")
def white() -> Waveform:
    return (0.1 * np.random.default_rng(1).standard_normal(2 * RATE)).astype(np.float32)


@pytest.mark.parametrize("law", [mu_law, a_law])
def test_g711_keeps_its_ratio_over_a_wide_range_of_levels(law: object) -> None:
    """Uniform 8 bits would lose 6 dB for every halving of the level; companding holds 33 to 40 dB over 30 dB."""
    for amplitude in (0.9, 0.3, 0.1, 0.03):
        signal = tone(RATE, 1.0, 997.0, amplitude)
        assert 33.0 < snr_db(signal, law(signal)) < 41.0  # type: ignore[operator]


@pytest.mark.parametrize("law", [mu_law, a_law])
def test_g711_has_256_levels_and_is_idempotent(law: object) -> None:
    ramp = np.linspace(-1, 1, 20001, dtype=np.float32)
    coded = law(ramp)  # type: ignore[operator]
    assert len(np.unique(coded)) == 256
    assert coded[0] == -1.0 and coded[-1] == 1.0
    assert (np.diff(coded) >= 0).all()
    np.testing.assert_allclose(law(coded), coded, atol=1e-6)  # type: ignore[operator]


@settings(max_examples=30, deadline=None)
@given(st.floats(-1, 1, width=32))
def test_g711_error_is_a_small_share_of_the_sample(value: float) -> None:
    sample = np.array([value], dtype=np.float32)
    for law in (mu_law, a_law):
        # Half a step: relative to the sample for large ones, absolute near zero.
        assert abs(float(law(sample)[0]) - value) <= 0.023 * abs(value) + 2.5e-4


def test_narrowband_ends_at_4_khz(white: Waveform) -> None:
    out = narrowband(white)
    assert len(out) == len(white)
    assert abs(level_db(out, 100, 3400) - level_db(white, 100, 3400)) < 0.1
    assert level_db(out, 4300, 8000) < level_db(white, 4300, 8000) - 60


def test_telephone_passes_300_to_3400_hz(white: Waveform) -> None:
    out = telephone(white)
    assert len(out) == len(white)
    assert abs(level_db(out, 450, 3200) - level_db(white, 450, 3200)) < 0.3
    # Outside, only the quantisation noise of the 8 bits is left, 30 dB and more below the speech.
    assert level_db(out, 0, 150) < level_db(white, 0, 150) - 30
    assert level_db(out, 4300, 8000) < level_db(white, 4300, 8000) - 60
    assert telephone(white, law="a").tobytes() != out.tobytes()


def test_telephone_does_not_shift_in_time() -> None:
    signal = tone(RATE, 1.0, 1000.0, 0.5)
    assert snr_db(signal[800:-800], telephone(signal)[800:-800]) > 25.0


@pytest.mark.parametrize("codec", CODECS)
def test_codecs_keep_length_time_and_most_of_the_signal(codec: str, speech: Waveform) -> None:
    out = code_and_decode(speech, codec, kilobits=64)
    assert out.dtype == np.float32 and out.shape == speech.shape
    assert snr_db(speech, out) > 9.0  # a shift by one sample in ten would already make this negative for consonants
    assert np.corrcoef(speech, out)[0, 1] > 0.94


@pytest.mark.parametrize("codec", CODECS)
def test_fewer_bits_make_more_error(codec: str, speech: Waveform) -> None:
    rich, poor = (snr_db(speech, code_and_decode(speech, codec, kilobits=rate)) for rate in (64, 12))
    assert rich > poor + 3.0


@pytest.mark.parametrize(("codec", "kilobits"), [("opus", 6), ("opus", 24), ("aac", 16), ("aac", 64), ("mp3", 16), ("mp3", 64)])
def test_codecs_do_not_shift_in_time(codec: str, kilobits: float, speech: Waveform, white: Waveform) -> None:
    """The peak of the cross-correlation lies at delay zero to 0.5 ms; noise has a sharp one, whatever the codec makes of it."""
    for signal in (speech, white, speech[:6400]):
        out = code_and_decode(signal, codec, kilobits=kilobits)
        assert out.shape == signal.shape
        size = 2 * len(signal)
        correlation = np.fft.irfft(np.fft.rfft(out, size) * np.conj(np.fft.rfft(signal, size)))
        lag = int(np.argmax(correlation))
        assert abs(lag if lag < len(signal) else lag - size) <= 8


def test_a_tone_does_not_mislead_the_alignment(speech: Waveform) -> None:
    """Every period of a tone fits every other; only the known delay of the encoder puts its beginning where it was."""
    signal = np.concatenate([np.zeros(4000, np.float32), tone(RATE, 1.0, 200.0, 0.3)])
    out = code_and_decode(signal, "aac", kilobits=64)
    assert power(out[:3500]) < 1e-5 * power(signal)
    assert snr_db(signal[5000:-2000], out[5000:-2000]) > 20.0


@pytest.mark.parametrize("law", ["mu", "a"])
def test_g711_is_narrow_and_in_place(law: str, white: Waveform) -> None:
    signal = tone(RATE, 1.0, 1000.0, 0.5)
    assert snr_db(signal[800:-800], g711(signal, law=law)[800:-800]) > 30.0
    out = g711(white, law=law)
    assert level_db(out, 4300, 8000) < level_db(white, 4300, 8000) - 60
    assert abs(level_db(out, 50, 250) - level_db(white, 50, 250)) < 0.3  # no filter below: that is the telephone's
    with pytest.raises(InputError, match="'mu' or 'a'"):
        g711(white, law="b")


def test_the_telephone_band_alone_adds_no_noise(white: Waveform) -> None:
    out = telephone_band(white)
    assert abs(level_db(out, 450, 3200) - level_db(white, 450, 3200)) < 0.1
    assert level_db(out, 0, 150) < level_db(white, 0, 150) - 60
    assert level_db(out, 3600, 8000) < level_db(white, 3600, 8000) - 60


def test_settings_that_cannot_be_used(speech: Waveform) -> None:
    with pytest.raises(InputError, match="opus, aac, mp3"):
        code_and_decode(speech, "morse")
    with pytest.raises(InputError, match="4 to 512"):
        code_and_decode(speech, "opus", kilobits=1)
    with pytest.raises(InputError, match="no samples"):
        code_and_decode(speech[:0], "opus")
    with pytest.raises(InputError, match="'mu' or 'a'"):
        telephone(speech, law="b")
