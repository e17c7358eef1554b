"""Audio in memory: every way to hand over one recording gives the same waveform."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrl.audio import as_waveform, load_audio, resample
from mrl.audio.memory import as_recordings
from mrl.errors import AudioLoadingError, InputError
from tests.audio.sounds import sweep, write_with_soundfile


@pytest.fixture(scope="module")
def audio() -> np.ndarray:
    return sweep(16000, 1.5)


def _forms(audio: np.ndarray) -> dict[str, Any]:
    pcm = np.round(audio * 32768)
    return {
        "float32": audio,
        "float64": audio.astype(np.float64),
        "int16": pcm.astype(np.int16),
        "int32": np.round(audio.astype(np.float64) * 2**31).astype(np.int32),
        "channels last": np.stack([audio, audio], axis=1),
        "channels first": np.stack([1.5 * audio, 0.5 * audio]),
        "int16 stereo": np.stack([pcm, pcm], axis=1).astype(np.int16),
        "torch": torch.from_numpy(audio),
        "torch int16 (1, n)": torch.from_numpy(pcm.astype(np.int16))[None],
        "needs gradient": torch.from_numpy(audio).requires_grad_(),
        "not contiguous": np.repeat(audio, 2)[::2],
    }


@pytest.mark.parametrize("form", _forms(np.zeros(10, dtype=np.float32)))
def test_arrays_of_any_type_and_shape(audio: np.ndarray, form: str) -> None:
    found = as_waveform(_forms(audio)[form], 16000)
    assert found.dtype == np.float32 and found.shape == audio.shape
    np.testing.assert_allclose(found, audio, atol=2e-5)


def test_eight_bits_signed_and_unsigned(audio: np.ndarray) -> None:
    np.testing.assert_allclose(as_waveform(np.round(audio * 128).astype(np.int8)), audio, atol=5e-3)
    np.testing.assert_allclose(as_waveform(np.round(audio * 128 + 128).astype(np.uint8)), audio, atol=5e-3)


def test_rates_are_converted_as_those_of_files_are(tmp_path: Path, audio: np.ndarray) -> None:
    high = sweep(44100, 1.5)
    file = write_with_soundfile(tmp_path / "high.wav", high, 44100, subtype="FLOAT")
    np.testing.assert_array_equal(as_waveform(high, 44100), load_audio(file))
    np.testing.assert_allclose(as_waveform(high, 44100)[500:-500], audio[500:-500], atol=1e-3)
    np.testing.assert_array_equal(as_waveform(torch.from_numpy(high), 44100), load_audio(file))


def test_encoded_audio_comes_in_every_way(tmp_path: Path, audio: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_with_soundfile(tmp_path / "a.flac", audio, 16000)
    data, expected = file.read_bytes(), load_audio(file)
    for form in (file, str(file), data, bytearray(data), memoryview(data), io.BytesIO(data)):
        np.testing.assert_array_equal(as_waveform(form), expected)
    with file.open("rb") as stream:
        np.testing.assert_array_equal(as_waveform(stream), expected)
    for name in ("-", "/dev/stdin"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        np.testing.assert_array_equal(as_waveform(name), expected)
    with pytest.raises(InputError, match="a file states its own"):
        as_waveform(file, 16000)
    with file.open(encoding="latin-1") as text, pytest.raises(AudioLoadingError, match="gives str instead of bytes"):
        as_waveform(text)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (np.zeros(16000, dtype=np.float32), "digital silence"),
        (np.array([0.0, np.nan]), "NaN or infinite"),
        (1000.0 * np.ones(100), "samples reach 1000, full scale is 1; divide"),
        (np.ones(100, dtype=np.int64), "an array of int64"),
        (np.ones(100, dtype=complex), "an array of complex128"),
        (np.ones((30, 40), dtype=np.float32), r"the shape \(30, 40\)"),
        (np.ones((2, 2, 100), dtype=np.float32), r"the shape \(2, 2, 100\)"),
        (object(), "audio is a object"),
    ],
)
def test_what_is_refused(bad: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        as_waveform(bad)


@pytest.mark.parametrize("rate", [0, -1, 10**7])
def test_rates_that_no_recording_has(audio: np.ndarray, rate: int) -> None:
    with pytest.raises(InputError, match="sample_rate: a sample rate of"):
        as_waveform(audio, rate)


def _voice(rate: int, seconds: float = 2.0) -> np.ndarray:
    """Harmonics of 140 Hz that fall off as those of a voice do."""
    time = np.arange(round(seconds * rate)) / rate
    tones = sum(np.sin(2 * np.pi * 140 * number * time) / number**0.5 for number in range(1, 25))
    return (0.05 * tones + 0.001 * np.random.default_rng(0).standard_normal(len(time))).astype(np.float32)


def test_another_rate_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="mrl"):
        as_waveform(_voice(16000))
        as_waveform(_voice(44100), 44100)
        assert not caplog.records
        slowed = _voice(44100, 3.0)[: 3 * 44100]
        as_waveform(np.convolve(slowed, np.ones(8) / 8, mode="same").astype(np.float32))
    assert "sounds slowed down (a voice of 51 Hz)" in caplog.text


def test_a_batch_that_looks_like_two_channels_is_warned_of(audio: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    with caplog.at_level(logging.WARNING, logger="mrl"):
        as_recordings(np.stack([audio, rng.permutation(audio)]))
        as_recordings(np.stack([audio, audio]))
        as_recordings(np.stack([audio, 0.5 * audio, audio]))
        assert not caplog.records
        as_recordings(np.stack([audio, 0.5 * audio + 0.01 * rng.permutation(audio)]))
    assert "as alike as the channels of one" in caplog.text


def test_batches_and_lists_keep_their_form(audio: np.ndarray) -> None:
    tensor = torch.zeros(2, 100)
    assert as_recordings(tensor) is tensor and as_recordings([tensor, audio])[0] is tensor
    assert as_recordings(tensor, padded=True) is tensor
    with pytest.raises(InputError, match=r"a padded batch \(lengths=\) has the network's rate, 16000 Hz"):
        as_recordings(tensor, 8000, padded=True)
    batch = np.stack([audio, audio[::-1]])
    np.testing.assert_allclose(as_recordings((batch * 32768).astype(np.int16)), batch, atol=1e-4)
    high = as_recordings(np.stack([sweep(44100, 1.0)] * 2)[:, None], 44100)
    assert high.shape == (2, 1, 16000)
    np.testing.assert_array_equal(high[1, 0], resample(sweep(44100, 1.0), 44100, 16000))
