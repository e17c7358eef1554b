"""Recordings of unequal length in one batch: every item equals the item alone, whatever the padding holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mrl.backbone import Backbone, grouping
from mrl.errors import InputError
from tests.backbone.networks import (
    ALL_VARIATIONS,
    BOTH_GENERATIONS,
    filled_network,
    noise,
    relative_difference,
    small_model_config,
    small_model_config2,
)

TOLERANCE = 1e-4


def padded(waveforms: list[Tensor], fill: float, extra: int = 0) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    batch = torch.full((len(waveforms), int(lengths.max()) + extra), fill)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return batch, lengths


def assert_each_equals_alone(network: Backbone, waveforms: list[Tensor], fill: float) -> None:
    with torch.no_grad():
        alone = torch.stack([network(waveform) for waveform in waveforms])
        in_list = network(waveforms)
        batch, lengths = padded(waveforms, fill, extra=300)
        in_groups = network(batch, lengths=lengths)
    with torch.enable_grad():  # the whole batch at once, masked
        masked = network(batch, lengths=lengths).detach()
    for found in (in_list, in_groups, masked):
        assert relative_difference(found, alone) < TOLERANCE


@pytest.mark.parametrize("model_config", ALL_VARIATIONS.values(), ids=ALL_VARIATIONS)
def test_each_item_equals_the_item_alone(model_config: dict[str, Any]) -> None:
    network = filled_network(model_config)
    shortest = network.minimum_samples
    # For the second generation one frame more than a multiple of the time stride, one less; for both lengths between frames.
    lengths = (shortest, 8000, 720 + 160 * 9, 719 + 160 * 12, 3333, 8000)
    assert_each_equals_alone(network, [noise(max(shortest, length), seed=length) for length in lengths], float("nan"))


@BOTH_GENERATIONS
@pytest.mark.parametrize("numbers", [1, 2**40], ids=["one by one", "one group"])
def test_groups_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch, numbers: int, model_config: dict[str, Any]) -> None:
    monkeypatch.setattr(grouping, "_NUMBERS_PER_THREAD", numbers)
    network = filled_network(model_config)
    assert_each_equals_alone(network, [noise(length, seed=length) for length in (4000, 750, 2400, 2400, 7000)], 1e6)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 6000), min_size=1, max_size=4),
    model_config=st.one_of(
        st.builds(
            lambda block, norm: small_model_config(block_1d_type=block, spec_params={"spec_norm": norm, "norm_signal": True}),
            st.sampled_from(["conv+att", "att", "conv", "fc"]),
            st.sampled_from(["mn", "mvn", "bn"]),
        ),
        st.builds(lambda two_maps: small_model_config2(dual_agg=two_maps), st.booleans()),
    ),
    fill=st.sampled_from([0.0, -7.5, 1e30, float("nan"), float("inf")]),
)
def test_any_lengths_and_any_padding(lengths: list[int], model_config: dict[str, Any], fill: float) -> None:
    network = filled_network(model_config)
    assert_each_equals_alone(network, [noise(max(network.minimum_samples, length), seed=length) for length in lengths], fill)


@BOTH_GENERATIONS
def test_gradient_does_not_come_from_padding(model_config: dict[str, Any]) -> None:
    network = filled_network(model_config)
    waveforms = [noise(length, seed=length) for length in (2000, 5000)]
    batch, lengths = padded(waveforms, float("nan"))
    network(batch, lengths=lengths).square().sum().backward()
    together = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    for waveform in waveforms:
        network(waveform).square().sum().backward()
    assert set(together) == {name for name, p in network.named_parameters() if p.requires_grad}
    for name, parameter in network.named_parameters():
        if name in together:
            assert parameter.grad is not None
            # Some gradients are zero but for rounding (a bias before a normalisation): compare with the size of the sum.
            scale = max(float(parameter.grad.abs().max()), 1e-2)
            assert float((together[name] - parameter.grad).abs().max()) < 2e-3 * scale, name


def test_numpy_padding_may_hold_anything_but_its_inside_may_not() -> None:
    network = filled_network(small_model_config())
    batch, lengths = padded([noise(900, seed=1), noise(1500, seed=2)], float("nan"))
    with torch.no_grad():
        expected = network([batch[0, :900], batch[1]])
        found = network(batch.numpy(), lengths=lengths.numpy())
    assert relative_difference(found, expected) < TOLERANCE
    spoiled = batch.numpy().copy()
    spoiled[0, 899] = np.inf
    with pytest.raises(InputError, match="NaN or infinite"):
        network(spoiled, lengths=[900, 1500])


def test_full_lengths_change_nothing() -> None:
    network = filled_network(small_model_config())
    batch = noise(2, 1600)
    with torch.no_grad():
        assert torch.equal(network(batch, lengths=[1600, 1600]), network(batch))


def test_order_of_a_batch_is_kept() -> None:
    network = filled_network(small_model_config())
    waveforms = [noise(length, seed=length) for length in (700, 5000, 300, 2600)]
    with torch.no_grad():
        forwards, backwards = network(waveforms), network(waveforms[::-1])
    assert relative_difference(forwards, backwards.flip(0)) < TOLERANCE
    assert (torch.cdist(forwards, forwards) + torch.eye(4)).min() > 1e-2
