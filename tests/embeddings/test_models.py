"""From what a user names to a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mrl.backbone import ReDimNet
from mrl.embeddings import embed_files, is_matryoshka, open_model, weights_sha256
from mrl.errors import CheckpointError, InputError
from mrl.matryoshka import ReDimNetMRL
from tests.embeddings.tiny import write_models, write_voices


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


def test_checkpoint_and_folder(models: tuple[Path, Path], tmp_path: Path) -> None:
    backbone, matryoshka = (open_model(str(spec)) for spec in models)
    assert isinstance(backbone, ReDimNet) and not is_matryoshka(backbone)
    assert isinstance(matryoshka, ReDimNetMRL) and is_matryoshka(matryoshka)
    assert not backbone.training and not matryoshka.training
    files = [tmp_path / name for name in write_voices(tmp_path)[:7]]
    raw, unit = embed_files(backbone, files, batch_seconds=2).matrix, embed_files(matryoshka, files, batch_seconds=2).matrix
    assert raw.shape == (7, 192) and unit.shape == (7, 256)
    raw /= np.linalg.norm(raw, axis=1, keepdims=True)
    # At the start the head is a rotation: all cosines are those of the backbone.
    np.testing.assert_allclose(unit @ unit.T, raw @ raw.T, atol=1e-5)
    alone = np.stack([matryoshka(str(path), target_dim=16).detach().numpy() for path in files])
    prefixes = embed_files(matryoshka, files, target_dim=16, batch_seconds=100).matrix
    np.testing.assert_allclose(prefixes, alone, atol=1e-4)


def test_hash_is_of_the_weights_not_of_the_file(models: tuple[Path, Path]) -> None:
    first, second = open_model(models[0]), open_model(models[0])
    assert weights_sha256(first) == weights_sha256(second)
    assert len(weights_sha256(first)) == 64
    with torch.no_grad():
        next(second.parameters()).view(-1)[0] += 1e-3
    assert weights_sha256(first) != weights_sha256(second)


def test_what_cannot_be_opened(models: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "broken.pt").write_bytes(models[0].read_bytes()[:5000])
    for spec, error, message in (
        (tmp_path / "absent.pt", InputError, "does not exist"),
        (tmp_path / "broken.pt", CheckpointError, "broken.pt"),
        (tmp_path, CheckpointError, "no config.json"),
        ("b2-vox3-ft_lm", InputError, "b2-vox2-ft_lm"),
    ):
        with pytest.raises(error, match=message):
            open_model(spec)
    with pytest.raises(InputError, match="weights are for a released model's name"):
        open_model(models[0], weights=models[0])


def test_a_released_name_takes_its_weights_from_a_file(models: tuple[Path, Path]) -> None:
    assert weights_sha256(open_model("b0", weights=models[0])) == weights_sha256(open_model(models[0]))
