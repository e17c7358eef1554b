"""SpecAugment: how much it hides, when, and from which random numbers."""

from __future__ import annotations

import pytest
import torch

from mrl.backbone import FrontEndConfig, SpecAugment
from mrl.backbone.frontend import LogMelFrontEnd
from mrl.errors import InputError


def hidden(masks: SpecAugment, batch: int = 400, frames: int = 100, bands: int = 60) -> torch.Tensor:
    """Booleans (batch, frames, bands)."""
    return masks(torch.ones(batch, frames, bands)) == 0.0


def test_the_share_that_is_hidden_is_that_of_the_widths() -> None:
    torch.manual_seed(0)
    bands = hidden(SpecAugment(frequency_masks=1, frequency_width=12))
    assert (bands == bands[:, :1]).all()  # whole bands
    widths = bands[:, 0].sum(dim=1)
    assert set(widths.tolist()) == set(range(13))
    assert widths.float().mean().item() == pytest.approx(6.0, abs=0.6)
    frames = hidden(SpecAugment(time_masks=1, time_width=30))
    assert (frames == frames[:, :, :1]).all()
    assert frames.float().mean().item() == pytest.approx(0.15, abs=0.015)
    both = hidden(SpecAugment(frequency_masks=2, frequency_width=12, time_masks=2, time_width=30))
    expected = 1.0 - (1.0 - 0.1) ** 2 * (1.0 - 0.15) ** 2  # masks fall independently of each other, but for the edges
    assert both.float().mean().item() == pytest.approx(expected, abs=0.04)


def test_every_place_is_hidden_sometimes_and_every_item_differently() -> None:
    torch.manual_seed(0)
    found = hidden(SpecAugment(frequency_masks=1, frequency_width=12, time_masks=1, time_width=30), batch=2000)
    assert found.any(dim=0).all()
    assert len({item.numpy().tobytes() for item in found[:50]}) > 45


def test_masks_wider_than_the_features_hide_all_of_them_at_most() -> None:
    torch.manual_seed(0)
    found = hidden(SpecAugment(time_masks=1, time_width=500), frames=10)
    widths = found[:, :, 0].sum(dim=1)
    assert set(widths.tolist()) == set(range(11))


def test_nothing_is_hidden_in_eval_mode_nor_without_masks() -> None:
    features = torch.randn(2, 50, 24)
    assert SpecAugment(frequency_masks=3, time_masks=3).eval()(features) is features
    assert torch.equal(SpecAugment()(features), features)
    with pytest.raises(InputError, match="expected 0 or more"):
        SpecAugment(time_masks=-1)


def test_given_numbers_belong_to_the_items_and_count_in_eval_mode_too() -> None:
    masks = SpecAugment(frequency_masks=2, frequency_width=6, time_masks=1, time_width=20).eval()
    features = torch.randn(5, 50, 24)
    numbers = torch.rand(5, masks.numbers_per_item, generator=torch.Generator().manual_seed(0))
    assert numbers.shape == (5, 6)
    state = torch.get_rng_state()
    with masks.drawn(numbers):
        together = masks(features)
    with masks.drawn(numbers[[3, 1]]):  # in another batch
        assert torch.equal(masks(features[[3, 1]]), together[[3, 1]])
    assert torch.equal(torch.get_rng_state(), state)
    assert (together == 0.0).any(dim=(1, 2)).all()
    assert masks(features) is features  # after the block
    with masks.drawn(torch.full((5, 6), 1.0 - 2.0**-24)):  # the largest number below 1: the widest masks, at the end
        hidden_at_the_end = masks(features)[0] == 0.0
    assert hidden_at_the_end[30:].all() and hidden_at_the_end[:, 18:].all() and not hidden_at_the_end[:30, :18].any()


def test_the_front_end_masks_in_training_only_and_keeps_its_state_dict() -> None:
    plain, masked = (LogMelFrontEnd(FrontEndConfig(bands=24)) for _ in range(2))
    masked.spec_augment = SpecAugment(frequency_masks=2, time_masks=2)
    assert list(masked.state_dict()) == list(plain.state_dict())
    masked.load_state_dict(plain.state_dict())
    waveform = torch.randn(3, 8000, generator=torch.Generator().manual_seed(0))
    expected = plain(waveform)
    torch.manual_seed(5)
    first = masked(waveform)
    state = torch.get_rng_state()
    second = masked(waveform)
    seen = first != 0.0
    assert 0.3 < seen.float().mean() < 1.0
    assert torch.equal(first[seen], expected[seen])
    assert not torch.equal(first, second)
    torch.set_rng_state(state)  # what a checkpoint does
    assert torch.equal(masked(waveform), second)
    state = torch.get_rng_state()
    assert torch.equal(masked.eval()(waveform), expected)
    assert torch.equal(torch.get_rng_state(), state)
