"""Speech found, and what is kept of a recording."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.audio import SpeechDetector, find_speech, load_audio
from mrl.audio.speech import check_detector
from mrl.errors import InputError, MissingDependencyError

RATE = 16000


def _tone(seconds: float, amplitude: float = 0.2) -> np.ndarray:
    return (amplitude * np.sin(0.3 * np.arange(round(seconds * RATE)))).astype(np.float32)


def _noise(seconds: float, amplitude: float = 1e-3) -> np.ndarray:
    return (amplitude * np.random.default_rng(0).standard_normal(round(seconds * RATE))).astype(np.float32)


def test_long_gaps_are_cut_and_short_ones_kept() -> None:
    parts = [_noise(2.0), _tone(1.0), _noise(0.8), _tone(0.5), _noise(3.0), _tone(0.7), _noise(0.9)]
    audio = np.concatenate(parts)
    speech = find_speech([audio], "energy")
    seconds = [(start / RATE, end / RATE) for start, end in speech.stretches]
    np.testing.assert_allclose(seconds, [(1.8, 4.5), (7.1, 8.9)], atol=0.021)
    assert speech.speech_seconds == pytest.approx(2.2, abs=0.07) and speech.kept_seconds == pytest.approx(4.5, abs=0.05)
    kept = np.concatenate(list(speech.keep([audio])))
    np.testing.assert_array_equal(kept, np.concatenate([audio[start:end] for start, end in speech.stretches]))


def test_a_few_seconds_in_minutes_of_faint_noise_are_found() -> None:
    """Of speech so short, most loud frames are noise; the loudest half second is not."""
    speech = find_speech([_noise(30.0), _tone(0.8), _noise(30.0)], "energy")
    assert speech.kept_seconds == pytest.approx(1.2, abs=0.05) and speech.speech_seconds == pytest.approx(0.8, abs=0.05)


def test_clicks_are_no_speech_and_silence_leaves_nothing() -> None:
    click = _tone(0.04)
    speech = find_speech([_noise(3.0), click, _noise(3.0), _tone(1.0), _noise(3.0)], "energy")
    assert len(speech.stretches) == 1 and speech.stretches[0][0] == pytest.approx(5.84 * RATE, abs=400)
    assert find_speech([np.zeros(RATE, dtype=np.float32)], "energy").stretches == ()
    assert find_speech([np.zeros(RATE, dtype=np.float32)], "none").stretches == ((0, RATE),)


@settings(max_examples=30, deadline=None)
@given(block=st.integers(1, 70_000), detector=st.sampled_from(["none", "energy"]))
def test_blocks_make_no_difference(block: int, detector: SpeechDetector) -> None:
    audio = np.concatenate([_tone(0.6), np.zeros(30_000, dtype=np.float32), _tone(0.4), _noise(1.7)])
    blocks = [audio[start : start + block] for start in range(0, len(audio), block)]
    speech = find_speech(blocks, detector)
    assert speech == find_speech([audio], detector)
    kept = np.concatenate(list(speech.keep(blocks)))
    np.testing.assert_array_equal(kept, np.concatenate(list(speech.keep([audio]))))
    assert len(kept) == pytest.approx(speech.kept_seconds * RATE)


silero = pytest.mark.skipif(importlib.util.find_spec("silero_vad") is None, reason="silero-vad is not installed")


@silero
def test_silero_takes_no_noise_for_speech() -> None:
    noise = _noise(4.0, amplitude=0.1)
    assert find_speech([noise], "energy").speech_seconds == pytest.approx(4.0)
    assert find_speech([noise], "silero").speech_seconds < 0.3
    assert (
        "torch" not in subprocess.run([sys.executable, "-c", _WITHOUT_TORCH], check=True, capture_output=True, text=True).stdout
    )


_WITHOUT_TORCH = """
import sys
import numpy
from mrl.audio import find_speech
find_speech([numpy.zeros(16000, dtype=numpy.float32)], "silero")
print(*sys.modules)
"""


@silero
def test_silero_finds_speech_in_noise_whatever_the_blocks(shared: Path) -> None:
    files = sorted((shared / "corpora/eval/libri_test_other").rglob("*.opus"))[:2]
    noise = sorted((shared / "corpora/noise").glob("sc_running_tap*"))[0]
    speech = np.concatenate([load_audio(file, duration=3.0) for file in files])
    audio = (
        np.pad(speech, (5 * RATE, 4 * RATE)) + 0.3 * np.resize(load_audio(noise), len(speech) + 9 * RATE) * np.std(speech) / 0.1
    )
    whole = find_speech([audio.astype(np.float32)], "silero")
    (start, _), (_, end) = whole.stretches[0], whole.stretches[-1]
    assert start / RATE == pytest.approx(5.0, abs=1.0) and end / RATE == pytest.approx(11.0, abs=1.0)
    blocks = [audio[place : place + 7777].astype(np.float32) for place in range(0, len(audio), 7777)]
    assert find_speech(blocks, "silero") == whole


def test_silero_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from mrl.audio import speech

    speech._silero_session.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"redimnet-mrl\[vad\]"):
        find_speech([_tone(1.0)], "silero")
    with pytest.raises(MissingDependencyError, match="vad=silero needs Silero VAD and ONNX Runtime"):
        check_detector("silero")


def test_a_detector_that_is_unknown() -> None:
    with pytest.raises(InputError, match="vad must be one of none, energy, silero; found 'webrtc'"):
        check_detector("webrtc")
