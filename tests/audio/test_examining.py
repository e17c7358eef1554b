"""What an examination says about good and bad recordings."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mrl.audio import examining
from mrl.audio.examining import Stretch, StretchFacts, examine, examine_all, is_same_file
from tests.audio.sounds import write_with_ffmpeg
from tests.data.recordings import RATE, noise, write


def test_level_length_and_clipping(tmp_path: Path) -> None:
    samples = noise(1, 0.5, level=0.25)
    samples[100:120] = 1.0
    samples[200] = -1.0
    facts = examine(Stretch(write(tmp_path / "a.wav", samples)))
    assert facts.error is None
    assert (facts.seconds, facts.sample_rate, facts.channels) == (0.5, RATE, 1)
    assert facts.peak == 1.0
    assert facts.clipped_share == 21 / 4000
    quiet = examine(Stretch(write(tmp_path / "b.wav", noise(1, 0.5, level=0.25))))
    assert quiet.peak == pytest.approx(0.25, abs=1e-4) and quiet.clipped_share == 0.0


def test_the_same_audio_has_the_same_content_in_any_lossless_file(tmp_path: Path) -> None:
    samples = noise(2)
    wav, flac = (examine(Stretch(write(tmp_path / name, samples))) for name in ("a.wav", "a.flac"))
    assert wav.content is not None and wav.content == flac.content and wav.size != flac.size
    other = samples.copy()
    other[17] += 0.01
    assert examine(Stretch(write(tmp_path / "c.wav", other))).content != wav.content


def test_long_recordings_are_decoded_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.wav", noise(3, 1.0))
    whole = examine(Stretch(path))
    asked: list[tuple[float, float | None]] = []
    load = examining.load_audio

    def watched(*arguments: object, offset: float, duration: float | None, **options: object) -> np.ndarray:
        asked.append((offset, duration))
        return load(*arguments, offset=offset, duration=duration, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(examining, "load_audio", watched)
    monkeypatch.setattr(examining, "_CHUNK_SECONDS", 0.25)
    assert examine(Stretch(path)) == whole
    assert asked == [(0.0, 0.25), (0.25, 0.25), (0.5, 0.25), (0.75, None)]
    asked.clear()
    part = examine(Stretch(path, 0.1, 0.6))
    assert part.seconds == pytest.approx(0.6) and part.content != whole.content
    assert asked == [(0.1, 0.25), (pytest.approx(0.35), pytest.approx(0.35))]


def test_headers_only(tmp_path: Path) -> None:
    facts = examine(Stretch(write(tmp_path / "a.wav", noise(4))), decode=False)
    assert (facts.seconds, facts.peak, facts.clipped_share, facts.content) == (0.6, None, None, None)


def test_m4a_as_voxceleb2_has_it(tmp_path: Path) -> None:
    samples = np.sin(2 * np.pi * 300 * np.arange(16000) / 16000).astype(np.float32) * 0.5
    facts = examine(Stretch(write_with_ffmpeg(tmp_path / "a.m4a", samples, 16000, "aac")))
    assert facts.error is None and facts.sample_rate == 16000
    assert facts.seconds == pytest.approx(1.0, abs=0.07)
    assert facts.peak == pytest.approx(0.5, abs=0.1)  # the codec adds a tenth of overshoot


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    good = write(tmp_path / "good.wav", noise(5))
    cut = tmp_path / "cut.wav"
    cut.write_bytes(good.read_bytes()[:-2000])
    (tmp_path / "empty.wav").write_bytes(b"")
    nan = noise(6)
    nan[5] = math.nan
    soundfile.write(tmp_path / "nan.wav", nan, RATE, subtype="FLOAT")
    names = ("cut.wav", "empty.wav", "nan.wav", "none.wav")
    found = dict(zip(names, examine_all([Stretch(tmp_path / name) for name in names]), strict=True))
    for name, said in (
        ("cut.wav", "the file is cut off: 0.47 s found of 0.60 s"),
        ("empty.wav", "the file is empty"),
        ("nan.wav", "1 of 4800 samples are NaN or infinite"),
        ("none.wav", "there is no such file"),
    ):
        error = found[name].error
        assert error is not None and said in error and str(tmp_path) not in error and "\n" not in error
        assert found[name].content is None
    assert examine(Stretch(good, 0.5, 0.3)).error == "the stretch from 0.5 s to 0.8 s is past the end, the recording has 0.60 s"
    assert examine(Stretch(good, 0.5, 0.15)).seconds == pytest.approx(0.1)  # manifests round; this is no fault


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(7))
    facts = examine(Stretch(path))
    assert is_same_file(facts, path)
    os.utime(path, ns=(1, facts.changed + 1))
    assert not is_same_file(facts, path)
    path.unlink()
    assert not is_same_file(facts, path)
    assert not is_same_file(StretchFacts(error="gone"), path)
