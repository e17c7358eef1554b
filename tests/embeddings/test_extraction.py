"""One extraction: its settings, outputs, crops and cache."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrl.dims import default_dims
from mrl.embeddings import Crops, EmbeddingCache, Extraction, as_embedder, embed_files, extract
from mrl.errors import DataError, InputError
from tests.embeddings.fakes import SpectrumBackbone, SpectrumMatryoshka, write_corpus


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    return [tmp_path / "voices" / name for name in write_corpus(tmp_path / "voices", num_speakers=3)]


def _rows(model: SpectrumMatryoshka, files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    from mrl.audio import load_audio

    with torch.inference_mode():
        pooled = model.eval().pooled_statistics([load_audio(file) for file in files])
        return model.project(pooled).numpy(), model.backbone.embed_pooled(pooled).numpy()


def test_several_outputs_come_from_one_pass(recordings: list[Path]) -> None:
    model = SpectrumMatryoshka()
    raw, own = _rows(model, recordings)
    model.backbone.batches.clear()
    found = extract(as_embedder(model), recordings, outputs=("backbone", "embedding", "raw"), dim=4)
    assert sum(map(len, model.backbone.batches)) == len(recordings)
    np.testing.assert_allclose(found.matrices[0], own, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.matrices[1], raw[:, :4] / np.linalg.norm(raw[:, :4], axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(found.matrices[2], raw, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="SpectrumBackbone has no backbone with an embedding of its own"):
        extract(as_embedder(SpectrumBackbone()), recordings[:1], outputs=("backbone",))


def test_settings_by_keyword_or_whole_and_unknown_ones(recordings: list[Path]) -> None:
    model, how = SpectrumMatryoshka(), Extraction(batch_seconds=0.2, max_seconds=0.15, num_workers=0)
    whole = embed_files(model, recordings, how).matrix
    np.testing.assert_array_equal(
        whole, embed_files(model, recordings, batch_seconds=0.2, max_seconds=0.15, num_workers=0).matrix
    )
    assert np.abs(whole - embed_files(model, recordings).matrix).max() > 1e-3
    with pytest.raises(InputError, match="no setting batch_second; expected batch_seconds"):
        embed_files(model, recordings, batch_second=1.0)


def test_facts_name_what_decides_an_embedding_and_outlast_new_settings() -> None:
    new = {"vad": "energy", "window_seconds": 20.0}  # not what records mean that do not mention them
    assert Extraction(batch_seconds=1.0, num_workers=0, show_progress=False).facts() == {"max_seconds": None, **new}
    assert Extraction(vad="none", max_seconds=30.0).facts() == {"max_seconds": 30.0}

    @dataclasses.dataclass(frozen=True)
    class Later(Extraction):
        speech_only: bool = False

    assert Later(vad="none", max_seconds=3.0).facts() == {"max_seconds": 3.0}
    assert Later(speech_only=True).facts() == {"max_seconds": None, **new, "speech_only": True}


def test_crops_of_two_outputs_are_cut_alike(recordings: list[Path]) -> None:
    model, crops = SpectrumMatryoshka(), Crops(3, 0.25)
    found = extract(as_embedder(model), recordings, crops=crops, outputs=("embedding", "backbone"), dim=8)
    assert [matrix.shape for matrix in found.matrices] == [(9, 3, 8), (9, 3, 12)]
    alone = extract(as_embedder(model.backbone), recordings, crops=crops).matrices[0]
    np.testing.assert_allclose(found.matrices[1], alone, rtol=1e-5, atol=1e-5)
    nothing = extract(as_embedder(model), [recordings[0].with_name("absent.wav")], crops=crops)
    assert nothing.matrices[0].shape == (0, 3, 16) and len(nothing.failures) == 1


class _Louder:
    def apply(self, utterance: str, waveform: np.ndarray) -> np.ndarray:
        return waveform * np.float32(1 + len(utterance))

    def settings(self) -> dict[str, Any]:
        return {"louder": "by the name"}


@pytest.mark.parametrize("crops", [None, Crops(2, 0.2)])
@pytest.mark.parametrize("dim", [None, 5])
def test_what_is_kept_is_what_was_computed(recordings: list[Path], tmp_path: Path, crops: Crops | None, dim: int | None) -> None:
    model, cache = SpectrumMatryoshka(), EmbeddingCache(tmp_path / "cache")
    files = [recordings[0].with_name("absent.wav"), *recordings[:4]]
    settings: dict[str, Any] = {"crops": crops, "dim": dim, "change": _Louder(), "names": list("abcde")}
    expected = extract(as_embedder(model), files, **settings)
    first = extract(as_embedder(model), files, cache=cache, **settings)
    model.backbone.batches.clear()
    again = extract(as_embedder(model), files, cache=cache, **settings)
    assert model.backbone.batches == []
    for found in (first, again):
        assert (found.kept, found.paths) == ((1, 2, 3, 4), tuple(recordings[:4]))
        assert [failure.path for failure in found.failures] == [files[0]]
        np.testing.assert_allclose(found.matrices[0], expected.matrices[0], atol=1e-6)
    with pytest.raises(DataError, match="1 of 5 recordings cannot be used"):
        extract(as_embedder(model), files, cache=cache, on_error="raise", **settings)


def test_caches_of_earlier_versions_serve_on(recordings: list[Path], tmp_path: Path) -> None:
    embedder, cache = as_embedder(SpectrumMatryoshka()), EmbeddingCache(tmp_path / "cache")
    extract(embedder, recordings[:1], Extraction(max_seconds=2.0, vad="none"), outputs=("raw", "backbone"), cache=cache)
    about = {
        "format": 1,
        "network": embedder.model_hash,
        "model_config": None,
        "outputs": ["matryoshka", "backbone"],
        "max_seconds": 2.0,
        "condition": None,
        "device": "cpu",
    }
    text = json.dumps(about, sort_keys=True, ensure_ascii=False)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [hashlib.sha256(text.encode()).hexdigest()[:24]]


def test_one_rule_for_default_dims() -> None:
    assert default_dims(256) == (16, 32, 64, 128, 192, 256) and default_dims(192) == (16, 32, 64, 128, 192)
    assert default_dims(12) == (12,) and default_dims(24) == (16, 24)
    assert default_dims(1000) == (16, 32, 64, 128, 192, 256, 512, 1000)
    assert as_embedder(SpectrumMatryoshka()).default_dims == (4, 8, 16) and as_embedder(SpectrumBackbone()).default_dims == (12,)
