"""Evenly spaced crops, and the mean cosine over pairs of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.audio import SAMPLE_RATE, load_audio
from mrl.embeddings import Crops, Extraction, as_embedder, embed_files, extract
from mrl.errors import DataError, InputError
from mrl.scoring import score_crops, score_prefixes
from mrl.trials import TrialList
from tests.embeddings.fakes import SpectrumMatryoshka, write_corpus, write_tone


@given(length=st.integers(1, 500), samples=st.integers(1, 100), num_crops=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_crops_are_evenly_spaced(length: int, samples: int, num_crops: int) -> None:
    crops = Crops(num_crops, samples / SAMPLE_RATE).cut(np.arange(length, dtype=np.float32))
    if length <= samples:
        assert len(crops) == 1 and crops[0].tolist() == list(range(length))
        return
    starts = [int(crop[0]) for crop in crops]
    assert len(crops) == num_crops and all(len(crop) == samples for crop in crops)
    if num_crops == 1:
        assert abs(starts[0] - (length - samples) / 2) <= 0.5
        return
    assert starts[0] == 0 and starts[-1] == length - samples
    assert np.ptp(np.diff(starts)) <= 1


def test_crops_are_embedded_as_the_network_would_alone(tmp_path: Path) -> None:
    model = SpectrumMatryoshka().eval()
    names = write_corpus(tmp_path, num_speakers=3, per_speaker=2)
    write_tone(tmp_path / "long.wav", hertz=500, seconds=0.9)
    files = [tmp_path / "long.wav", *(tmp_path / name for name in names)]
    found = extract(as_embedder(model), files, Extraction(batch_seconds=1.0), crops=Crops(3, 0.25), dim=8)
    array = found.matrices[0]
    assert found.paths == tuple(files) and array.shape == (7, 3, 8) and not found.failures
    whole = embed_files(model, files, target_dim=8).matrix
    for row, file in enumerate(files):
        waveform = load_audio(file)
        if len(waveform) <= 4000:
            np.testing.assert_allclose(array[row], np.repeat(whole[row : row + 1], 3, axis=0), atol=1e-6)
            continue
        for column, crop in enumerate(Crops(3, 0.25).cut(waveform)):
            raw = model.project(model.pooled_statistics([crop])).detach().numpy()[0, :8]
            np.testing.assert_allclose(array[row, column], raw / np.linalg.norm(raw), atol=1e-5)
    lengths = {len(load_audio(file)) <= 4000 for file in files}
    assert lengths == {True, False}


def test_unusable_recordings_are_counted(tmp_path: Path) -> None:
    good = write_tone(tmp_path / "good.wav", hertz=500, seconds=0.5)
    short = write_tone(tmp_path / "short.wav", hertz=500, seconds=0.01)
    files = [short, good, tmp_path / "absent.wav"]
    embedder, crops = as_embedder(SpectrumMatryoshka()), Crops(2, 0.2)
    found = extract(embedder, files, crops=crops)
    assert found.paths == (good,) and found.matrices[0].shape == (1, 2, 16)
    assert [failure.path.name for failure in found.failures] == ["short.wav", "absent.wav"]
    with pytest.raises(DataError, match="of 3 recordings cannot be used"):
        extract(embedder, files, crops=crops, on_error="raise")
    assert extract(embedder, files[2:], crops=crops).matrices[0].shape == (0, 2, 16)


def test_mean_over_pairs_against_a_plain_loop() -> None:
    generator = np.random.default_rng(0)
    array = generator.standard_normal((6, 4, 10)) * generator.uniform(0.1, 10, (6, 4, 1))
    enrol, test = generator.integers(6, size=(2, 15)).astype(np.int32)
    trials = TrialList(tuple("abcdef"), enrol, test, generator.random(15) < 0.5)
    found = score_crops(array, trials, [10, 3])
    assert list(found) == [3, 10]
    for dim, scores in found.items():
        for first, second, score in zip(enrol, test, scores, strict=True):
            cosines = [
                a[:dim] @ b[:dim] / np.linalg.norm(a[:dim]) / np.linalg.norm(b[:dim]) for a in array[first] for b in array[second]
            ]
            assert score == pytest.approx(np.mean(cosines), abs=1e-6)


def test_one_crop_is_plain_scoring() -> None:
    array = np.random.default_rng(1).standard_normal((3, 1, 6)).astype(np.float32)
    trials = TrialList.from_pairs([(True, "a", "b"), (False, "a", "c"), (False, "c", "b")])
    np.testing.assert_allclose(score_crops(array, trials, [4])[4], score_prefixes(array[:, 0], trials, [4])[4], atol=1e-6)


def test_refusals() -> None:
    trials = TrialList.from_pairs([(True, "a", "b"), (False, "a", "c")])
    with pytest.raises(InputError, match="crops, dim"):
        score_crops(np.ones((3, 4)), trials, [4])
    with pytest.raises(DataError, match="NaN"):
        score_crops(np.full((3, 2, 4), np.nan), trials, [4])
    for count, seconds in ((0, 4.0), (10, 0.0)):
        with pytest.raises(InputError, match="num_crops"):
            Crops(count, seconds)
