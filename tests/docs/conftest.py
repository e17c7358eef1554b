"""A user's folder: recordings, a mirror with every released file (a small network in the official format), an empty cache."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from mrl.audio import write_synthetic_corpus
from mrl.backbone import ReDimNet, ReDimNetConfig
from mrl.pretrained import list_pretrained, registry, write_official_checkpoint
from tests.backbone.networks import filled_network, small_model_config2
from tests.docs.markdown import ROOT
from tests.pretrained.small import SMALL_CONFIG
from tests.runtime.golden.record import EXPORTED


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file for every released name; the networks are small, but their embeddings have 192 numbers."""
    folder = tmp_path_factory.mktemp("released")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = ReDimNet(ReDimNetConfig.from_model_config({**SMALL_CONFIG, "embed_dim": 192})).eval()
    networks = {"redimnet": network, "redimnet2": filled_network(small_model_config2(embed_dim=192))}
    for checkpoint in list_pretrained():
        write_official_checkpoint(folder / checkpoint.file_name, *networks[checkpoint.family].to_official())
    return folder


@pytest.fixture(scope="session")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data/train`` and ``data/validation`` as config.yaml names them, ``recordings``, and the two recordings of the pages."""
    folder = tmp_path_factory.mktemp("voices")
    write_synthetic_corpus(folder / "data" / "train", num_speakers=4, utterances_per_speaker=2, seconds=(0.4, 0.6), seed=1)
    write_synthetic_corpus(folder / "data" / "validation", num_speakers=3, utterances_per_speaker=2, seconds=(0.4, 0.6), seed=2)
    files = write_synthetic_corpus(folder / "recordings", num_speakers=2, utterances_per_speaker=1, seconds=(0.4, 0.9), seed=3)
    for name, file in zip(("speaker.wav", "other.wav"), files, strict=True):
        shutil.copy(file, folder / name)  # the contents tell the format, not the name
    return folder


@pytest.fixture
def user(released: Path, voices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of somebody who follows the pages."""
    shutil.copytree(voices, tmp_path, dirs_exist_ok=True)
    shutil.copytree(released, tmp_path / "downloads")
    shutil.copy(ROOT / "config.yaml", tmp_path / "config.yaml")
    shutil.copy(EXPORTED, tmp_path / "model.onnx")
    (tmp_path / "redimnet-mrl").symlink_to(ROOT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MRL_MIRROR", str(released))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    # The real files' published hashes would rightly refuse the small ones.
    unhashed = tuple(dataclasses.replace(checkpoint, sha256=None, num_bytes=None) for checkpoint in list_pretrained())
    monkeypatch.setattr(registry, "_CHECKPOINTS", unhashed)
    return tmp_path


@pytest.fixture
def train_loader() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Three batches an epoch, of hums of four pitches."""
    labels = torch.arange(8) % 4
    times = torch.arange(3200) / 16000
    hum = 0.3 * torch.sin(2 * torch.pi * (200.0 + 400.0 * labels[:, None]) * times)
    noise = torch.randn(hum.shape, generator=torch.Generator().manual_seed(0))
    return [(hum + 0.02 * noise, labels)] * 3
