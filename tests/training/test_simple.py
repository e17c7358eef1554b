"""Training with one's own loader, as users were shown it."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from mrl.errors import DataError, TrainingError
from mrl.matryoshka import ReDimNetMRL, unfreeze_backbone
from mrl.training import train_full_model, train_projection_head


def _loader(count: int = 12, classes: int = 4, shuffle: bool = False) -> DataLoader[tuple[torch.Tensor, ...]]:
    """Hums of different pitch."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    times = torch.arange(4800) / 16000
    hum = torch.sin(2 * torch.pi * (200.0 + 400 * labels[:, None]) * times) * 0.3
    audio = hum + 0.02 * torch.randn(count, 4800, generator=random)
    return DataLoader(TensorDataset(audio, labels), batch_size=5, shuffle=shuffle)


def _state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("frozen_before", [True, False])
def test_stage_1_trains_the_head_and_leaves_the_backbone_bit_for_bit(tiny_model: ReDimNetMRL, frozen_before: bool) -> None:
    if frozen_before:
        tiny_model.freeze_backbone()
    tiny_model.train()
    trainable = {name for name, parameter in tiny_model.named_parameters() if parameter.requires_grad}
    backbone, head = _state(tiny_model.backbone), _state(tiny_model.projection)
    history = train_projection_head(tiny_model, _loader(shuffle=True), num_epochs=4, learning_rate=0.01)
    assert all(torch.equal(value, backbone[name]) for name, value in tiny_model.backbone.state_dict().items())
    assert not torch.equal(tiny_model.projection.weight, head["weight"])
    assert history.num_classes == 4 and len(history.loss) == 4
    assert history.loss[-1] < history.loss[0] and history.loss[-1] < 0.5 * history.chance_level
    assert set(history.accuracy[-1]) == {4, 16, 32}
    assert tiny_model.backbone_frozen is frozen_before and tiny_model.training
    assert {name for name, parameter in tiny_model.named_parameters() if parameter.requires_grad} == trainable


def test_both_stages_as_shown(tiny_model: ReDimNetMRL) -> None:
    tiny_model.freeze_backbone()
    loader = _loader()
    train_projection_head(tiny_model, loader, num_epochs=2)
    with pytest.raises(TrainingError, match=r"call unfreeze_backbone\(model\) first"):
        train_full_model(tiny_model, loader, num_epochs=1)
    unfreeze_backbone(tiny_model)
    before = _state(tiny_model.backbone)
    history = train_full_model(tiny_model, loader, num_epochs=3, learning_rate=0.01)
    assert history.loss[-1] < history.loss[0]
    after = tiny_model.backbone.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert "pooled_norm.weight" in changed and any(name.startswith("encoder.") for name in changed)
    assert not any("running_" in name or "num_batches" in name for name in changed)  # BatchNorm statistics stay by default
    assert not any(name.startswith("embedding.") for name in changed)  # the pretrained layer is the teacher


def test_what_a_loader_must_yield(tiny_model: ReDimNetMRL) -> None:
    audio = torch.randn(4, 4000)
    for loader, message in [
        ([], "yields no batches"),
        ([audio], r"yields a Tensor; expected pairs"),
        ([(audio, torch.rand(4))], r"labels torch\.float32"),
        ([(audio, torch.tensor([0, 1, 2, -1]))], "whole numbers from 0"),
        ([(audio, torch.tensor([0, 1]))], "one per waveform"),
    ]:
        with pytest.raises(DataError, match=message):
            train_projection_head(tiny_model, loader, num_epochs=1)
    with pytest.raises(TrainingError, match="num_epochs must be 1 or more"):
        train_projection_head(tiny_model, _loader(), num_epochs=0)


def test_a_dataset_may_know_more_speakers_than_one_pass_meets(tiny_model: ReDimNetMRL) -> None:
    loader = _loader()
    loader.dataset.num_classes = 9  # type: ignore[attr-defined]
    assert train_projection_head(tiny_model, loader, num_epochs=1).num_classes == 9
