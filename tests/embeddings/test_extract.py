"""Embeddings of many recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mrl.audio import load_audio
from mrl.embeddings import embed_files, evaluation_mode
from mrl.errors import DataError, InputError
from tests.embeddings.fakes import SpectrumBackbone, SpectrumMatryoshka, write_corpus


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    return [tmp_path / name for name in write_corpus(tmp_path, num_speakers=3)]


def test_backbone_gives_raw_embeddings_as_one_by_one(recordings: list[Path]) -> None:
    model = SpectrumBackbone().eval()
    embedded = embed_files(model, recordings, batch_seconds=0.5)
    one_by_one = [model([load_audio(path)])[0].detach().numpy() for path in recordings]
    assert embedded.paths == tuple(recordings)
    np.testing.assert_allclose(embedded.matrix, np.stack(one_by_one), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(embed_files(model, recordings, batch_seconds=0.5, target_dim=5).matrix, embedded.matrix[:, :5])


def test_matryoshka_gives_unit_prefixes(recordings: list[Path]) -> None:
    model = SpectrumMatryoshka().eval()
    whole, prefix = embed_files(model, recordings).matrix, embed_files(model, recordings, target_dim=3).matrix
    assert whole.shape == (9, 16)
    np.testing.assert_allclose(np.linalg.norm(prefix, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(prefix, whole[:, :3] / np.linalg.norm(whole[:, :3], axis=1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("target_dim", [0, 17, -1, True])
def test_target_dim_out_of_range(target_dim: int, recordings: list[Path]) -> None:
    with pytest.raises(InputError, match=r"1\.\.16"):
        embed_files(SpectrumMatryoshka(), recordings, target_dim=target_dim)


def test_evaluation_mode_holds_meanwhile_and_every_mode_returns(recordings: list[Path]) -> None:
    model = SpectrumMatryoshka().train()
    model.head.eval()
    first, second = embed_files(model, recordings).matrix, embed_files(model, recordings).matrix
    np.testing.assert_array_equal(first, second)  # dropout would make them differ
    assert model.training and model.backbone.dropout.training and not model.head.training


def test_evaluation_mode_returns_after_an_error() -> None:
    model = SpectrumBackbone().train()
    with pytest.raises(ValueError, match="stop"), evaluation_mode(model):
        assert not model.dropout.training
        raise ValueError("stop")
    assert model.dropout.training


def test_no_usable_recording_leaves_an_empty_matrix_of_the_right_width(tmp_path: Path) -> None:
    embedded = embed_files(SpectrumMatryoshka(), [tmp_path / "absent.wav"], target_dim=8)
    assert embedded.matrix.shape == (0, 8)
    assert len(embedded.failures) == 1
    with pytest.raises(DataError, match="1 of 1"):
        embed_files(SpectrumMatryoshka(), [tmp_path / "absent.wav"], on_error="raise")


def test_no_graph_is_built(recordings: list[Path]) -> None:
    model = SpectrumBackbone()
    embed_files(model, recordings[:2])
    assert model.mixture.weight.grad is None
    assert torch.is_grad_enabled()
