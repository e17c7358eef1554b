"""Embedder.encode: lists of paths and arrays in, one matrix out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mrl.audio import load_audio
from mrl.embeddings import Extraction, as_embedder, extract
from mrl.errors import AudioLoadingError, CheckpointError, InputError
from tests.audio.sounds import sweep
from tests.embeddings.fakes import FunctionEmbedder, SpectrumBackbone, SpectrumMatryoshka, write_tone


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [write_tone(tmp_path / f"{number}.wav", hertz=300 + 200 * number, seconds=0.3 + 0.1 * number) for number in range(5)]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_paths_and_arrays_in_any_batches(files: list[Path], batch_size: int) -> None:
    embedder = as_embedder(SpectrumMatryoshka())
    expected = extract(embedder, files, dim=4).matrices[0]
    arrays = [str(files[0]), files[1].read_bytes(), load_audio(files[2]), torch.from_numpy(load_audio(files[3])), files[4]]
    for recordings in (files, arrays, tuple(files)):
        found = embedder.encode(recordings, batch_size=batch_size, truncate_dim=4)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)
    single = embedder.encode(files[2], truncate_dim=4, convert_to_numpy=False)
    assert isinstance(single, torch.Tensor) and single.shape == (4,)
    np.testing.assert_allclose(single, expected[2], atol=1e-5)


def test_lengths_rates_and_settings(files: list[Path]) -> None:
    embedder = as_embedder(SpectrumBackbone())
    raw = embedder.encode(files)
    np.testing.assert_allclose(
        embedder.encode(files, normalize_embeddings=True), raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-5
    )
    np.testing.assert_allclose(
        embedder.encode([sweep(44100, 1.0)], sample_rate=44100), embedder.encode([sweep(16000, 1.0)]), rtol=0.02
    )
    cut = embedder.encode(files, Extraction(max_seconds=0.2))
    np.testing.assert_allclose(cut, embedder.encode([load_audio(file, duration=0.2) for file in files]), atol=1e-5)
    assert embedder.encode([]).shape == (0, 12)


def test_what_encode_refuses(files: list[Path]) -> None:
    embedder = as_embedder(SpectrumBackbone())
    with pytest.raises(InputError, match="batch_size must be a whole number from 1 up, found 0"):
        embedder.encode(files, batch_size=0)
    with pytest.raises(InputError, match=r"target_dim must lie in 1\.\.12"):
        embedder.encode(files, truncate_dim=13)
    with pytest.raises(AudioLoadingError, match="there is no such file"):
        embedder.encode([*files, files[0].with_name("absent.wav")])
    with pytest.raises(InputError, match="digital silence"):
        embedder.encode(np.zeros(8000))
    broken = FunctionEmbedder("broken", 3, lambda waveform: [np.nan] * 3)
    with pytest.raises(CheckpointError, match="broken gave NaN or infinity"):
        broken.encode(files)
