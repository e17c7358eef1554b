"""The cache: nothing is computed twice, an interruption loses one part at most, and what has changed is computed again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrl.embeddings import EmbeddingCache, Extraction, as_embedder, extraction
from mrl.embeddings.embedder import Output
from mrl.errors import DataError
from mrl.evaluation.conditions import Condition, Shortened
from mrl.evaluation.settings import EmbeddingSettings
from tests.embeddings.fakes import SpectrumBackbone, SpectrumMatryoshka, write_corpus, write_tone


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus")
    return tmp_path / "corpus"


def _names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.wav"))


def _embed(model: Any, root: Path, cache: Path | None, *, own: bool = False, condition: Condition | None = None) -> Any:
    names = _names(root)
    how = EmbeddingSettings(Extraction(batch_seconds=2.0, num_workers=0, show_progress=False), cache)
    outputs: tuple[Output, ...] = ("raw", "backbone") if own else ("embedding",)
    return how.embed(as_embedder(model), names, [root / name for name in names], outputs=outputs, change=condition)


def _computed(model: SpectrumBackbone) -> int:
    return sum(len(batch) for batch in model.batches)


def test_the_second_time_nothing_is_computed_and_all_is_equal(root: Path, tmp_path: Path) -> None:
    plain = _embed(SpectrumBackbone(), root, None)[0]
    first, second = SpectrumBackbone(), SpectrumBackbone()
    np.testing.assert_allclose(_embed(first, root, tmp_path / "cache")[0], plain, atol=1e-5)
    kept = _embed(second, root, tmp_path / "cache")[0]
    assert (_computed(first), _computed(second)) == (18, 0)
    np.testing.assert_allclose(kept, plain, atol=1e-5)


def test_both_outputs_of_a_matryoshka_model_are_kept(root: Path, tmp_path: Path) -> None:
    model = SpectrumMatryoshka()
    first = _embed(model, root, tmp_path / "cache", own=True)
    second = _embed(model, root, tmp_path / "cache", own=True)
    assert [matrix.shape for matrix in second] == [(18, 16), (18, 12)]
    assert _computed(model.backbone) == 18
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_other_weights_conditions_and_outputs_are_not_mixed_up(root: Path, tmp_path: Path) -> None:
    model, other = SpectrumBackbone(), SpectrumBackbone()
    with torch.no_grad():
        other.mixture.weight.mul_(-2.0)
    whole = _embed(model, root, tmp_path / "cache")[0]
    np.testing.assert_allclose(_embed(other, root, tmp_path / "cache")[0], -2.0 * whole, rtol=1e-5)
    cut = _embed(model, root, tmp_path / "cache", condition=Shortened(0.1))[0]
    assert not np.allclose(cut, whole, atol=1e-3)
    np.testing.assert_allclose(cut, _embed(model, root, None, condition=Shortened(0.1))[0], atol=1e-5)
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_killed_in_the_middle_it_resumes(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "_RECORDINGS_PER_PART", 4)
    model = SpectrumBackbone()
    pooled = model.pooled_statistics

    def stop_after_ten(audio: Any) -> Any:
        if _computed(model) >= 10:
            raise KeyboardInterrupt
        return pooled(audio)

    monkeypatch.setattr(model, "pooled_statistics", stop_after_ten)
    with pytest.raises(KeyboardInterrupt):
        _embed(model, root, tmp_path / "cache")
    fresh = SpectrumBackbone()
    matrix = _embed(fresh, root, tmp_path / "cache")[0]
    assert 6 <= _computed(fresh) <= 10  # 8 of 18 were kept, in two parts of 4
    np.testing.assert_allclose(matrix, _embed(SpectrumBackbone(), root, None)[0], atol=1e-5)
    assert not list((tmp_path / "cache").rglob("*.tmp*"))


def test_a_changed_recording_is_computed_again(root: Path, tmp_path: Path) -> None:
    _embed(SpectrumBackbone(), root, tmp_path / "cache")
    write_tone(root / "speaker0/0.wav", hertz=5000, seconds=0.3)
    os.utime(root / "speaker1/1.wav", ns=(1, 1))
    model = SpectrumBackbone()
    matrix = _embed(model, root, tmp_path / "cache")[0]
    assert _computed(model) == 2
    np.testing.assert_allclose(matrix, _embed(SpectrumBackbone(), root, None)[0], atol=1e-5)


def test_a_damaged_part_is_named_and_computed_again(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = _embed(SpectrumBackbone(), root, tmp_path / "cache")[0]
    part = next((tmp_path / "cache").rglob("part-*.npz"))
    part.write_bytes(part.read_bytes()[:200])
    model = SpectrumBackbone()
    np.testing.assert_allclose(_embed(model, root, tmp_path / "cache")[0], expected, atol=1e-6)
    assert _computed(model) == 18 and "is damaged" in caplog.text


def test_unreadable_recordings_are_counted_and_the_others_kept(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "_RECORDINGS_PER_PART", 5)
    for name in ("speaker0/0.wav", "speaker3/2.wav"):
        (root / name).write_text("not audio")
    with pytest.raises(DataError, match=r"2 of 18 recordings cannot be used"):
        _embed(SpectrumBackbone(), root, tmp_path / "cache")
    for name in ("speaker0/0.wav", "speaker3/2.wav"):
        write_tone(root / name, hertz=900)
    model = SpectrumBackbone()
    _embed(model, root, tmp_path / "cache")
    assert _computed(model) == 2


def test_a_cache_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        EmbeddingCache(tmp_path / "file")
