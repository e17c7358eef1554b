"""From the configuration to corpus, augmentation and device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mrl.errors import ConfigError, DataError, ProcessError
from mrl.processes import ProcessPlace
from mrl.training import load_config
from mrl.training.building import choose_device
from mrl.training.config import AugmentationConfig, TrainDataConfig
from mrl.training.data import build_augmenter, read_corpus

ROOT = Path(__file__).resolve().parents[2]


def test_augmentation_takes_what_it_is_given(voices: Path) -> None:
    corpus = read_corpus(TrainDataConfig(folder=str(voices / "train")))
    assert build_augmenter(AugmentationConfig(), corpus) is None  # no folders, no augmentation
    folder = [str(voices / "validation")]
    only_noise = build_augmenter(AugmentationConfig(noise_folders=folder, noise_probability=0.3, noise_snr_db=(1.0, 2.0)), corpus)
    assert only_noise is not None
    assert (only_noise.noise_probability, only_noise.room_probability, only_noise.noise_snr_db) == (0.3, 0.0, (1.0, 2.0))
    assert len(only_noise.noise_files) == 9
    rooms = build_augmenter(AugmentationConfig(rir_folders=folder, rir_probability=0.7, exclude=["utterance0000*"]), corpus)
    assert rooms is not None and (rooms.room_probability, len(rooms.room_files)) == (0.7, 6)
    babble = build_augmenter(AugmentationConfig(babble_probability=0.2, babble_snr_db=(5.0, 6.0)), corpus)
    assert babble is not None and (babble.babble_probability, babble.babble_snr_db, len(babble.babble_files)) == (
        0.2,
        (5.0, 6.0),
        20,
    )
    assert build_augmenter(AugmentationConfig(noise_folders=folder, noise_probability=0.0), corpus) is None
    with pytest.raises(DataError, match="does not exist"):
        build_augmenter(AugmentationConfig(noise_folders=[str(voices / "nowhere")]), corpus)


def test_no_data_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"set data\.train\.folder .* or data\.train\.manifest"):
        read_corpus(TrainDataConfig())


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ConfigError, match=r"training\.device: 'quantum' cannot be used here"):
        choose_device("quantum")


def test_several_processes_never_guess_their_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ProcessError, match="LOCAL_RANK is not set"):
        choose_device("cuda", ProcessPlace(rank=1, world_size=2))
    with pytest.raises(ConfigError, match=r"process 5 of 8 is number 2 on its machine, which has 2 GPUs"):
        choose_device("auto", ProcessPlace(rank=5, world_size=8, local_rank=2))
    with pytest.raises(ConfigError, match="cuda:1 would be shared by 2 processes"):
        choose_device("cuda:1", ProcessPlace(rank=0, world_size=2, local_rank=0))


@pytest.mark.shared
def test_the_real_config_leaves_out_non_commercial_noise(shared: Path) -> None:
    config = load_config([ROOT / "configs" / "real-speech.yaml"])
    augmenter = build_augmenter(config.data.augmentation, read_corpus(config.data.train))
    assert augmenter is not None
    assert (len(augmenter.noise_files), len(augmenter.room_files)) == (22, 15)
    assert not any(path.name.startswith("sb_esc50") for path in augmenter.noise_files)
    assert config.advanced.weights is not None and Path(config.advanced.weights).is_file()
