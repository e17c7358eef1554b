"""Augmentation from the configuration: every key does something, and resumed runs go on with the same random choices."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mrl.audio import RoomSimulation
from mrl.data import Draw
from mrl.errors import ConfigError
from mrl.matryoshka import ReDimNetMRL
from mrl.training import load_config
from mrl.training.checkpoints import CheckpointFolder
from mrl.training.config import AugmentationConfig, SimulatedRoomsConfig, SpecAugmentConfig, TrainConfig, TrainDataConfig
from mrl.training.data import build_augmenter, read_corpus
from mrl.training.feeds import draw_masks, masked_by, set_spec_augment
from mrl.training.logs import MetricsFile
from mrl.training.trainer import run_training
from tests.training.conftest import ConfigFactory

MASKS = SpecAugmentConfig(frequency_masks=2, frequency_width=4, time_masks=2, time_width=6)


def test_every_setting_arrives(voices: Path) -> None:
    corpus = read_corpus(TrainDataConfig(folder=str(voices / "train")))
    assert build_augmenter(AugmentationConfig(), corpus) is None
    settings: list[dict[str, Any]] = [
        {"babble_probability": 0.5, "babble_voices": (1, 2)},
        {"speed_probability": 0.5, "speed_factors": [0.8]},
        {"gain_probability": 0.5, "gain_db": (1.0, 2.0)},
        {"clipping_probability": 0.5, "clipping_level": (0.5, 0.6)},
        {"band_probability": 0.5, "bands": ["telephone"]},
        {"codec_probability": 0.5, "codecs": ["mp3"]},
    ]
    for one in settings:
        augmenter = build_augmenter(AugmentationConfig(**one), corpus)
        assert augmenter is not None
        for name, value in one.items():
            assert getattr(augmenter, name) == (tuple(value) if isinstance(value, list) else value)
        assert len(augmenter.active_kinds) == 1
    kilobits = {"opus": (6.0, 7.0), "aac": (20.0, 21.0), "mp3": (30.0, 31.0)}
    coded = build_augmenter(AugmentationConfig(codec_probability=1.0, codec_kilobits=kilobits), corpus)  # type: ignore[arg-type]
    assert coded is not None and coded.codec_kilobits == kilobits


def test_every_setting_of_simulated_rooms_arrives(voices: Path) -> None:
    corpus = read_corpus(TrainDataConfig(folder=str(voices / "train")))
    values: dict[str, Any] = {
        "count": 2,
        "rt60_seconds": (0.15, 0.2),
        "floor_metres": (3.0, 4.0),
        "height_metres": (2.5, 2.6),
        "distance_metres": (1.0, 1.5),
        "seed": 5,
    }
    rooms = build_augmenter(AugmentationConfig(simulated_rooms=SimulatedRoomsConfig(probability=0.3, **values)), corpus)
    assert rooms is not None and rooms.simulated_room_probability == 0.3
    assert rooms.simulated_rooms == RoomSimulation(**values)
    # a dry run checks the pool without simulating it
    large = AugmentationConfig(gain_probability=1.0, simulated_rooms=SimulatedRoomsConfig(probability=0.3, count=5000))
    planned = build_augmenter(large, corpus, simulate=False)
    assert planned is not None and planned.active_kinds == ("gain",)
    far = SimulatedRoomsConfig(probability=0.3, floor_metres=(2.0, 3.0), distance_metres=(20.0, 25.0))
    with pytest.raises(ConfigError, match=r"none was 20 to 25 m apart"):
        build_augmenter(AugmentationConfig(simulated_rooms=far), corpus, simulate=False)
    impossible = SimulatedRoomsConfig(probability=0.3, rt60_seconds=(3.0, 4.0))
    with pytest.raises(ConfigError, match=r"data\.augmentation: simulated rooms: rt60_seconds is \(3, 4\)"):
        build_augmenter(AugmentationConfig(simulated_rooms=impossible), corpus)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{gain_db: [3, -3]}", r"gain_db must be \[lowest, highest\]"),
        ("{simulated_rooms: {rt60_seconds: [0.5, 0.1]}}", r"simulated_rooms\.rt60_seconds must be \[lowest, highest\]"),
        ("{codec_kilobits: {opus: [32, 8]}}", r"codec_kilobits\.opus must be \[lowest, highest\]"),
        ("{speed_factors: [3.0]}", r"speed_factors must lie in 0\.5 to 2"),
        ("{babble_voices: [0, 2]}", r"babble_voices must be 1 or more"),
        ("{clipping_level: [0.0, 0.5]}", r"clipping_level must be shares of the peak"),
        ("{codecs: [morse]}", r"codecs.*'g711_mulaw'"),
        ("{bands: []}", r"bands"),
        ("{spec_augment: {masks: 2}}", r"unknown key data\.augmentation\.spec_augment\.masks"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.yaml").write_text(f"data: {{augmentation: {text}}}")
    with pytest.raises(ConfigError, match=message):
        load_config([tmp_path / "config.yaml"])


def test_speeds_that_do_not_go_together(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: {speeds: [0.6], augmentation: {speed_probability: 0.5, speed_factors: [0.8]}}")
    with pytest.raises(ConfigError, match=r"speeds has 0\.6 and augmentation\.speed_factors 0\.8, together outside 0\.5 to 2"):
        load_config([tmp_path / "config.yaml"])


def test_masks_follow_from_seed_and_draw(tiny_model: ReDimNetMRL) -> None:
    draws = [Draw(utterance, 3, position) for utterance, position in ((7, 0), (7, 1), (2, 2))]
    assert draw_masks(tiny_model, draws, seed=1) is None
    set_spec_augment(MASKS, tiny_model)
    numbers = draw_masks(tiny_model, draws, seed=1)
    assert numbers is not None and numbers.shape == (3, 8) and len(numbers.unique()) == 24
    assert numbers.min() >= 0.0 and numbers.max() < 1.0
    alone = draw_masks(tiny_model, draws[2:], seed=1)
    assert alone is not None and torch.equal(alone[0], numbers[2])
    for other in (draw_masks(tiny_model, draws, seed=2), draw_masks(tiny_model, [Draw(7, 4, 0)], seed=1)):
        assert other is not None and not torch.equal(other[0], numbers[0])
    audio = torch.randn(3, 8000, generator=torch.Generator().manual_seed(0)) * 0.1
    tiny_model.freeze_backbone()
    with masked_by(tiny_model, numbers):  # a frozen backbone that runs for every crop
        together = tiny_model.pooled_statistics(audio)
    with masked_by(tiny_model, alone):
        assert torch.allclose(tiny_model.pooled_statistics(audio[2:])[0], together[2], atol=1e-5)
    assert not torch.allclose(tiny_model.pooled_statistics(audio), together, atol=1e-3)


def test_without_numbers_masks_are_for_a_training_backbone_only(tiny_model: ReDimNetMRL) -> None:
    names = list(tiny_model.state_dict())
    audio = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)) * 0.1
    tiny_model.eval()
    expected = tiny_model.pooled_statistics(audio)
    tiny_model.freeze_backbone()
    tiny_model.train()
    set_spec_augment(MASKS, tiny_model)
    assert list(tiny_model.state_dict()) == names
    assert torch.equal(tiny_model.pooled_statistics(audio), expected)  # the pooled cache
    tiny_model.unfreeze_backbone()
    masked = tiny_model.pooled_statistics(audio)
    assert not torch.allclose(masked, expected, atol=1e-3)
    tiny_model.eval()
    assert torch.allclose(tiny_model.pooled_statistics(audio), expected, atol=1e-5)  # validation
    set_spec_augment(SpecAugmentConfig(), tiny_model)
    assert tiny_model.backbone.front_end.spec_augment is None


def _finetuning(make_config: ConfigFactory, output: Path, **augmentation: Any) -> TrainConfig:
    return make_config(
        **{
            "training.num_epochs": 2,
            "advanced.freeze_backbone_epochs": 1,
            "advanced.cache_views": 1,
            "advanced.ema_decay": 0.0,
            "data.validation": {},
            "training.output_dir": str(output),
            "training.keep_checkpoints": 100,
            "training.checkpoint_every_steps": 1,
            "data.draws_per_speaker": 3,
            "data.augmentation": augmentation,
        }
    )


def _losses(folder: Path, stage: int) -> list[float]:
    records = MetricsFile(folder / "metrics.jsonl").read()
    return [record["loss"] for record in records if record["kind"] == "step" and record["stage"] == stage]


def test_every_kind_changes_the_input_of_stage_2(make_config: ConfigFactory, tmp_path: Path) -> None:
    variants: dict[str, dict[str, Any]] = {
        "none": {},
        "masks": {"spec_augment": {"frequency_masks": 1, "time_masks": 1}},
        "more masks": {"spec_augment": {"frequency_masks": 2, "time_masks": 1}},
        "wide masks": {"spec_augment": {"frequency_masks": 1, "frequency_width": 3, "time_masks": 1, "time_width": 9}},
        "waveforms": {"clipping_probability": 1.0, "band_probability": 1.0},
        "faster": {"clipping_probability": 1.0, "band_probability": 1.0, "speed_probability": 1.0},
    }
    found = {
        name: run_training(_finetuning(make_config, tmp_path / name, **settings)).run_folder
        for name, settings in variants.items()
    }
    first = [_losses(folder, 1) for folder in found.values()]
    assert all(losses == first[0] for losses in first)  # only the clean view is cached
    second = [tuple(_losses(folder, 2)) for folder in found.values()]
    assert all(np.isfinite(losses).all() for losses in second)
    for one, other in itertools.combinations(range(len(second)), 2):
        assert second[one] != second[other], (list(found)[one], list(found)[other])


def test_a_resumed_run_draws_the_same_masks_and_changes(make_config: ConfigFactory, tmp_path: Path) -> None:
    config = _finetuning(
        make_config,
        tmp_path / "run",
        spec_augment=MASKS.model_dump(),
        speed_probability=0.5,
        clipping_probability=0.5,
        codec_probability=0.5,
        codecs=["opus", "g711_alaw"],
    )
    folder = run_training(config).run_folder
    losses = _losses(folder, 2)

    def last() -> dict[str, torch.Tensor]:
        latest = CheckpointFolder(folder / "checkpoints", 1).latest()
        assert latest is not None
        return load_file(latest / "state.safetensors")

    before = last()
    steps = sorted((folder / "checkpoints").iterdir())
    run_training(config, resume=str(steps[-2]))
    assert _losses(folder, 2) == losses
    after = last()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
