"""Which epochs train what, and what stage 1 draws from the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mrl.data import Corpus, Draw, Utterance, ViewSettings, build_pooled_cache, finish_pooled_cache
from mrl.matryoshka import ReDimNetMRL
from mrl.training import load_config
from mrl.training.feeds import CachedFeed
from mrl.training.stages import plan_stages


def test_two_stages() -> None:
    overrides = [
        "training.num_epochs=20",
        "loss.finetune_margin=0.4",
        "data.finetune_crop_seconds=6",
        "training.learning_rate=0.5",
    ]
    first, second = plan_stages(load_config([], overrides))
    assert (first.number, first.first_epoch, first.end_epoch, first.trains_backbone) == (1, 0, 5, False)
    assert (first.learning_rate, first.margin, first.crop_seconds) == (0.5, 0.2, 3.0)
    assert (second.number, second.first_epoch, second.end_epoch, second.trains_backbone) == (2, 5, 20, True)
    assert (second.learning_rate, second.backbone_ratio, second.margin, second.crop_seconds) == (2e-4, 0.1, 0.4, 6.0)


def test_single_stages() -> None:
    (only,) = plan_stages(load_config([], ["advanced.freeze_backbone_epochs=20"]))
    assert (only.number, only.epochs) == (1, 20)
    (only,) = plan_stages(load_config([], ["advanced.freeze_backbone_epochs=0"]))
    assert (only.number, only.first_epoch, only.epochs) == (2, 0, 20)
    (only,) = plan_stages(load_config([], ["advanced.use_pretrained=false"]))
    assert (only.number, only.epochs, only.learning_rate, only.backbone_ratio) == (2, 20, 1e-3, 1.0)


def test_each_draw_takes_its_own_view(voices: Path, tmp_path: Path, tiny_model: ReDimNetMRL) -> None:
    corpus = Corpus.of(Utterance(path, path.parent.name) for path in sorted((voices / "train").rglob("*.flac"))[:3])
    settings = ViewSettings(views=4, max_seconds=1.0, crop_seconds=0.2, seed=0)
    count = 0

    def numbered(audio: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        nonlocal count
        count += len(audio)
        return torch.arange(count - len(audio), count).float().unsqueeze(1).expand(-1, 96)

    build_pooled_cache(tmp_path, corpus, settings, numbered, 96)
    cache = finish_pooled_cache(tmp_path, corpus, settings, 96)
    feed = CachedFeed(tiny_model, cache, corpus.labels, seed=3)
    draws = [Draw(position % 3, epoch, position) for epoch in range(10) for position in range(9)]
    (inputs,) = feed.read([draws])
    assert inputs.labels.tolist() == [corpus.labels[draw.utterance] for draw in draws]
    assert set(inputs.features[:, 0].int().tolist()) == set(range(12))  # every view of every utterance, some time
    (alone,) = feed.read([draws[40:41]])
    assert np.array_equal(alone.features, inputs.features[40:41])
    raw, of_teacher = feed.embed(inputs, tiny_model)
    assert of_teacher is not None and torch.equal(raw, of_teacher) and raw.requires_grad and not of_teacher.requires_grad
