"""Exported files in the place of networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrl.embeddings import embed_files, embed_to_file, load_embeddings, open_model, weights_sha256
from mrl.embeddings.embedder import ExportedEmbedder
from mrl.errors import InputError
from tests.embeddings.tiny import write_voices
from tests.runtime.golden.record import EXPORTED, golden_model


def test_the_same_embeddings_of_files(tmp_path: Path) -> None:
    files = [tmp_path / name for name in write_voices(tmp_path)[:6]]
    exported, network = open_model(EXPORTED), golden_model()
    assert isinstance(exported, ExportedEmbedder) and exported.unit_length and exported.backbone is None
    assert exported.mrl_dims == (8, 16, 24) and exported.embed_dim == 24
    assert weights_sha256(exported) == weights_sha256(network)
    for dim in (None, 8):
        found = embed_files(exported, files, target_dim=dim, show_progress=False)
        expected = embed_files(network, files, target_dim=dim, show_progress=False)
        np.testing.assert_allclose(found.matrix, expected.matrix, atol=2e-5)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    embedded = embed_to_file(exported, [*files, tmp_path / "broken.wav"], tmp_path / "e.npz", model_name="tiny.onnx")
    assert len(embedded.failures) == 1 and len(embedded.paths) == 6
    metadata = load_embeddings(tmp_path / "e.npz").metadata
    assert metadata["unit_length"] is True and metadata["model_sha256"] == weights_sha256(network)


def test_raw_embeddings_of_a_plain_network(tmp_path: Path) -> None:
    files = [tmp_path / name for name in write_voices(tmp_path)[:3]]
    exported, plain = open_model(EXPORTED), open_model(EXPORTED)
    assert isinstance(plain, ExportedEmbedder)
    plain.mrl_dims = ()  # as in the file of a plain network
    assert not plain.unit_length and plain.default_dims == (16, 24)
    found = embed_files(plain, files, target_dim=8, show_progress=False).matrix
    unit = embed_files(exported, files, target_dim=8, show_progress=False).matrix
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    assert abs(lengths - 1).min() > 0.01
    np.testing.assert_allclose(found / lengths, unit, atol=1e-6)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent.onnx does not exist"):
        open_model(tmp_path / "absent.onnx")
    with pytest.raises(InputError, match="weights are for a released model's name"):
        open_model(EXPORTED, weights=EXPORTED)
    with pytest.raises(InputError, match="runs on the CPU"):
        open_model(EXPORTED, device="meta")
