"""Long recordings: cut into windows, streamed, averaged."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import mrl.embeddings.extraction as extraction
from mrl.audio import load_audio
from mrl.embeddings import Extraction, as_embedder, embed_recording, embed_to_file, embed_to_folder, extract, load_embeddings
from mrl.embeddings import windows as windows_module
from mrl.embeddings.windows import cut
from mrl.errors import InputError
from tests.embeddings.fakes import FunctionEmbedder, SpectrumBackbone, SpectrumMatryoshka, write_tone

SHORT_WINDOWS = Extraction(window_seconds=0.5, num_workers=0)


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(0, 90),
    size=st.integers(2, 20),
    overlap=st.integers(0, 19),
    block=st.integers(1, 40),
)
def test_windows_are_of_one_length_and_count_every_sample_once(length: int, size: int, overlap: int, block: int) -> None:
    overlap, whole = min(overlap, size - 1), size + size // 2
    audio = np.arange(length, dtype=np.float32)
    found = list(cut([audio[start : start + block] for start in range(0, length, block)], size, overlap, whole))
    assert sum(weight for _, weight in found) == length
    if length <= whole:
        np.testing.assert_array_equal(found[0][0], audio)
        return
    ends = np.cumsum([weight for _, weight in found])
    for (window, _), end in zip(found, ends, strict=True):
        np.testing.assert_array_equal(window, audio[end - size : end])
    assert [weight for _, weight in found[1:-1]] == [size - overlap] * (len(found) - 2)


def test_windows_come_before_the_audio_ends() -> None:
    read = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield np.zeros(10, dtype=np.float32)

    windows = cut(blocks(), 20, 0, 30)
    for number in range(1, 100):
        next(windows)
        assert read <= 2 * number + 3


def _speech(path: Path, seconds: float, rate: int = 16000) -> Path:
    """A tone that rises from window to window, so that windows differ."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal(len(time))
    soundfile.write(path, (0.3 * np.sin(2 * np.pi * (300 * time + 200 * time**2)) + 0.02 * noise).astype(np.float32), rate)
    return path


def test_a_long_recording_is_the_weighted_mean_of_its_windows(tmp_path: Path) -> None:
    file = _speech(tmp_path / "long.wav", 2.2)
    audio, model = load_audio(file), SpectrumMatryoshka()
    parts = [audio[start : start + 8000] for start in range(0, 32000, 8000)] + [audio[-8000:]]
    weights = np.array([0.5, 0.5, 0.5, 0.5, 0.2]) / 2.2
    embedder = as_embedder(model)
    with embedder.ready():
        raw, own = embedder.outputs(parts, ("raw", "backbone"), 16)
    expected = weights @ raw
    found = extract(embedder, [file], SHORT_WINDOWS, outputs=("embedding", "raw", "backbone"), dim=4)
    np.testing.assert_allclose(found.matrices[0][0], expected[:4] / np.linalg.norm(expected[:4]), atol=1e-5)
    np.testing.assert_allclose(found.matrices[1][0], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.matrices[2][0], weights @ own, rtol=1e-4, atol=1e-4)
    assert found.seconds[0] == pytest.approx(2.2) and found.speech_seconds[0] == pytest.approx(2.2, abs=0.05)
    single = embed_recording(embedder, file, SHORT_WINDOWS)
    np.testing.assert_allclose(single.embedding, expected / np.linalg.norm(expected), atol=1e-5)
    assert single.seconds == pytest.approx(2.2)
    # One rule for every kind of embedder.
    other = FunctionEmbedder("by function", 16, lambda waveform: embedder.embed([waveform])[0])
    units = [row / np.linalg.norm(row) for row in raw]
    np.testing.assert_allclose(extract(other, [file], SHORT_WINDOWS).matrices[0][0], weights @ np.stack(units), atol=1e-4)


def test_batches_blocks_rates_and_the_way_in_make_no_difference(tmp_path: Path) -> None:
    files = [
        _speech(tmp_path / "a.wav", 3.1),
        _speech(tmp_path / "b.flac", 1.9, 44100),
        write_tone(tmp_path / "c.wav", hertz=500),
    ]
    embedder = as_embedder(SpectrumMatryoshka())
    expected = extract(embedder, files, SHORT_WINDOWS).matrices[0]
    for how in (
        Extraction(window_seconds=0.5, batch_seconds=0.1),
        Extraction(window_seconds=0.5, batch_seconds=1.7, num_workers=1),
    ):
        np.testing.assert_allclose(extract(embedder, files, how).matrices[0], expected, atol=1e-5)
    for file, row in zip(files, expected, strict=True):
        for recording in (file, file.read_bytes(), load_audio(file)):
            np.testing.assert_allclose(embed_recording(embedder, recording, SHORT_WINDOWS).embedding, row, atol=1e-4)
    folder = embed_to_folder(embedder, files, tmp_path / "shards", SHORT_WINDOWS, model_name="m")
    assert folder is not None
    np.testing.assert_allclose(folder.embeddings.load().matrix, expected, atol=1e-5)


def test_a_recording_that_is_not_long_is_embedded_as_before(tmp_path: Path) -> None:
    files = [_speech(tmp_path / f"{number}.wav", 0.3 + 0.1 * number) for number in range(5)]
    model = SpectrumBackbone()
    expected = as_embedder(model).embed([load_audio(file) for file in files])
    model.batches.clear()
    np.testing.assert_array_equal(extract(as_embedder(model), files, SHORT_WINDOWS).matrices[0], expected)
    assert sorted(map(len, model.batches)) == [5]
    longer = extract(as_embedder(model), files, Extraction(window_seconds=0.4, num_workers=0)).matrices[0]
    np.testing.assert_array_equal(longer[:4], expected[:4])
    assert np.abs(longer[4] - expected[4]).max() > 1e-3


def test_a_long_recording_says_how_far_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _speech(tmp_path / "long.wav", 2.0)
    monkeypatch.setattr(windows_module, "_REPORT_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, logger="mrl"):
        extract(as_embedder(SpectrumBackbone()), [file], Extraction(window_seconds=0.5, batch_seconds=1.0))
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"{file}: 1 of 2 s embedded, about 0 s left", f"{file}: 2 of 2 s embedded, about 0 s left"]


@pytest.mark.parametrize(("window", "overlap"), [(0.0, 0.0), (1.0, 1.0), (1.0, -0.1), (float("inf"), 0.0), (float("nan"), 0.0)])
def test_windows_that_cannot_be(window: float, overlap: float) -> None:
    with pytest.raises(InputError, match="overlap_seconds must be from 0 s to less than window_seconds"):
        Extraction(window_seconds=window, overlap_seconds=overlap)


def test_a_file_of_many_recordings_resumes_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "_RECORDINGS_PER_PART", 2)
    files = [_speech(tmp_path / f"{number}.wav", 0.3 + 0.1 * number) for number in range(6)]
    output, model = tmp_path / "out.npz", SpectrumBackbone()
    expected = as_embedder(model).encode(files)

    class Stopped(SpectrumBackbone):
        def pooled_statistics(self, audio: Any) -> Any:
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().pooled_statistics(audio)

    with pytest.raises(KeyboardInterrupt):
        embed_to_file(Stopped(), files, output, model_name="m", num_workers=0)
    assert not output.exists() and (tmp_path / "out.npz.partial").is_dir()
    model.batches.clear()
    embed_to_file(model, files, output, model_name="m", num_workers=0)
    assert sum(map(len, model.batches)) == 2
    table = load_embeddings(output)
    np.testing.assert_allclose(table.matrix, expected, rtol=1e-5)
    assert table.metadata["seconds"] == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8] and len(table.metadata["speech_seconds"]) == 6
    assert not (tmp_path / "out.npz.partial").exists()
    model.batches.clear()
    monkeypatch.setattr(extraction, "_RECORDINGS_PER_PART", 6)
    embed_to_file(model, files, output, model_name="m", num_workers=0)  # a single part is not kept anywhere
    assert sorted(map(len, model.batches)) == [6]
