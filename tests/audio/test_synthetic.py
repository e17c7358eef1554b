"""Synthetic voices: each has its pitch and tract, and a trivial measure tells them apart only in part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from mrl.audio import SyntheticVoice, load_audio, write_synthetic_corpus
from mrl.errors import InputError
from tests.audio.sounds import Waveform


def mean_log_mel(samples: Waveform, bands: int = 64) -> npt.NDArray[np.float64]:
    edges_mel = np.linspace(*(2595 * np.log10(1 + np.array([20.0, 7600.0]) / 700)), bands + 2)
    edges = 700 * (10 ** (edges_mel / 2595) - 1)
    bins = np.fft.rfftfreq(512, 1 / 16000)
    rising, falling = (bins - edges[:-2, None]), (edges[2:, None] - bins)
    filters = np.clip(np.minimum(rising / np.diff(edges)[:-1, None], falling / np.diff(edges)[1:, None]), 0, None)
    frames = np.lib.stride_tricks.sliding_window_view(samples, 400)[::160] * np.hamming(400)
    return np.log(np.abs(np.fft.rfft(frames, 512)) ** 2 @ filters.T + 1e-6).mean(axis=0)


def equal_error_rate(scores: npt.NDArray[np.float64], same: npt.NDArray[np.bool_]) -> float:
    order = np.argsort(scores)
    misses = np.cumsum(same[order]) / np.sum(same)
    false_alarms = 1 - np.cumsum(~same[order]) / np.sum(~same)
    return float(np.min(np.maximum(misses, false_alarms)))


def median_pitch(samples: Waveform) -> float:
    """By the autocorrelation of 40 ms frames, over the frames that are clearly voiced."""
    found = []
    for start in range(0, len(samples) - 1280, 320):
        frame = samples[start : start + 640] - np.mean(samples[start : start + 640])
        correlation = np.correlate(np.pad(frame, (0, 320)), frame, "valid") / (np.dot(frame, frame) + 1e-9)
        lag = 40 + int(np.argmax(correlation[40:260])) if len(correlation) > 260 else 0
        if lag and correlation[lag] > 0.5:
            found.append(16000 / lag)
    return float(np.median(found))


def test_pitch_follows_the_voice() -> None:
    voice = SyntheticVoice.random(np.random.default_rng(3))
    for pitch in (100.0, 150.0, 220.0):
        spoken = replace(voice, pitch=pitch, tilt=-3.0, pitch_range=0.05).say(np.random.default_rng(1), 3.0)
        assert median_pitch(spoken) == pytest.approx(pitch, rel=0.15)


def test_a_shorter_tract_moves_the_spectrum_up() -> None:
    """The same words from a tract 1.2 times shorter have their mean spectrum moved by that factor."""
    voice = replace(SyntheticVoice.random(np.random.default_rng(4)), pitch=100.0)
    octaves = np.linspace(np.log2(350), np.log2(5000), 800)
    spectra = []
    for scale in (0.9, 1.08):
        spoken = replace(voice, tract_scale=scale).say(np.random.default_rng(5), 4.0)
        frames = np.lib.stride_tricks.sliding_window_view(spoken, 512)[::160] * np.hanning(512)
        smooth = np.convolve(np.mean(np.abs(np.fft.rfft(frames, 512)) ** 2, axis=0), np.ones(5) / 5, "same")
        log_spectrum = np.interp(octaves, np.log2(np.fft.rfftfreq(512, 1 / 16000)[1:]), np.log(smooth[1:]))
        spectra.append(log_spectrum - np.polyval(np.polyfit(octaves, log_spectrum, 2), octaves))
    shifts = range(-150, 151)
    likeness = [np.corrcoef(spectra[0][200:-200], spectra[1][200 + shift : 600 + shift])[0, 1] for shift in shifts]
    moved = 2.0 ** (shifts[int(np.argmax(likeness))] * (octaves[1] - octaves[0]))
    assert moved == pytest.approx(1.08 / 0.9, rel=0.06)


@pytest.mark.parametrize("seconds", [0.001, 0.01, 0.1, 2.3456])
def test_any_length_without_clipping_or_silence(seconds: float) -> None:
    for seed in range(5):
        spoken = SyntheticVoice.random(np.random.default_rng(seed)).say(np.random.default_rng(seed), seconds)
        assert spoken.shape == (round(seconds * 16000),)
        assert spoken.dtype == np.float32
        assert np.all(np.isfinite(spoken))
        assert 0.3 < np.max(np.abs(spoken)) < 0.7


def test_every_voice_and_every_utterance_is_new_and_repeatable() -> None:
    one, same, other = (SyntheticVoice.random(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    first, second = one.say(np.random.default_rng(7), 1.0), one.say(np.random.default_rng(8), 1.0)
    assert np.array_equal(first, same.say(np.random.default_rng(7), 1.0))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2


def test_mean_spectra_tell_speakers_apart_only_in_part() -> None:
    """Well above zero, so that there is something to learn; below 30 %, so that there is a speaker to be heard."""
    speakers, utterances = 40, 6
    embeddings = []
    for speaker in range(speakers):
        voice = SyntheticVoice.random(np.random.default_rng([11, speaker]))
        for utterance in range(utterances):
            embeddings.append(mean_log_mel(voice.say(np.random.default_rng([12, speaker, utterance]), 2.0)))
    matrix = np.array(embeddings)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    first, second = np.triu_indices(len(matrix), 1)
    same = first // utterances == second // utterances
    rate = equal_error_rate(np.sum(matrix[first] * matrix[second], axis=1), same)
    assert 0.10 < rate < 0.30


def test_corpus_is_written_once_per_speaker_and_repeatable(tmp_path: Path) -> None:
    small = write_synthetic_corpus(tmp_path / "a", num_speakers=2, utterances_per_speaker=2, seconds=(0.5, 1.0), seed=4)
    large = write_synthetic_corpus(tmp_path / "b", num_speakers=3, utterances_per_speaker=3, seconds=(0.5, 1.0), seed=4)
    assert [str(path.relative_to(tmp_path / "a")) for path in small] == [
        "speaker0000/utterance0000.flac",
        "speaker0000/utterance0001.flac",
        "speaker0001/utterance0000.flac",
        "speaker0001/utterance0001.flac",
    ]
    assert sorted(path for path in (tmp_path / "b").rglob("*") if path.is_file()) == sorted(large)
    for path in small:
        samples = load_audio(path)
        assert 8000 <= len(samples) <= 16000
        assert np.array_equal(samples, load_audio(tmp_path / "b" / path.relative_to(tmp_path / "a")))
    assert not np.array_equal(load_audio(small[0])[:8000], load_audio(small[2])[:8000])
    other = write_synthetic_corpus(tmp_path / "c", num_speakers=1, utterances_per_speaker=1, seconds=(0.5, 0.5), seed=5)
    assert len(load_audio(other[0])) == 8000


@pytest.mark.parametrize(
    "bad", [{"num_speakers": 0}, {"utterances_per_speaker": 0}, {"seconds": (2.0, 1.0)}, {"seconds": (0.0, 1.0)}, {"seed": -1}]
)
def test_corpus_faults(tmp_path: Path, bad: dict[str, object]) -> None:
    arguments = {"num_speakers": 1, "utterances_per_speaker": 1, "seed": 0} | bad
    with pytest.raises(InputError, match=next(iter(bad))):
        write_synthetic_corpus(tmp_path, **arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="seconds"):
        SyntheticVoice.random(np.random.default_rng(0)).say(np.random.default_rng(0), 0.0)


def test_a_failed_write_leaves_no_broken_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import soundfile

    def full_disk(file: str, *_: object, **__: object) -> None:
        Path(file).write_bytes(b"fLaC half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(soundfile, "write", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_synthetic_corpus(tmp_path, num_speakers=1, utterances_per_speaker=1, seed=0)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
