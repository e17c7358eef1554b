"""The second generation with recordings of unequal length in one batch, and with hardly any."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.backbone import grouping
from mrl.errors import InputError
from tests.backbone.networks import filled_network2, noise, relative_difference, small_model_config2
from tests.backbone.test_lengths import TOLERANCE, assert_each_equals_alone, padded
from tests.backbone.test_redimnet2_parity import VARIATIONS

SHORTEST = 720  # four frames: the time stride of the small network


@pytest.mark.parametrize("variation", VARIATIONS)
def test_each_item_equals_the_item_alone(variation: str) -> None:
    network = filled_network2(small_model_config2(**VARIATIONS[variation]))
    shortest = network.minimum_samples
    # One frame more than a multiple of the stride, one less, exactly one, and lengths between frames.
    lengths = (shortest, 8000, 720 + 160 * 9, 719 + 160 * 12, 3333, 8000)
    assert_each_equals_alone(network, [noise(max(shortest, length), seed=length) for length in lengths], float("nan"))


@pytest.mark.parametrize("numbers", [1, 2**40], ids=["one by one", "one group"])
def test_groups_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch, numbers: int) -> None:
    monkeypatch.setattr(grouping, "_NUMBERS_PER_THREAD", numbers)
    network = filled_network2(small_model_config2())
    assert_each_equals_alone(network, [noise(length, seed=length) for length in (4000, 750, 2400, 2400, 7000)], 1e6)


@settings(max_examples=10, deadline=None)
@given(
    lengths=st.lists(st.integers(SHORTEST, 6000), min_size=1, max_size=4),
    two_maps=st.booleans(),
    fill=st.sampled_from([0.0, -7.5, 1e30, float("nan"), float("inf")]),
)
def test_any_lengths_and_any_padding(lengths: list[int], two_maps: bool, fill: float) -> None:
    network = filled_network2(small_model_config2(dual_agg=two_maps))
    assert_each_equals_alone(network, [noise(length, seed=length) for length in lengths], fill)


def test_gradient_does_not_come_from_padding() -> None:
    network = filled_network2(small_model_config2(dual_agg=True))
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
            scale = max(float(parameter.grad.abs().max()), 1e-2)
            assert float((together[name] - parameter.grad).abs().max()) < 2e-3 * scale, name


def test_trailing_frames_are_dropped_but_count_in_the_normalisation() -> None:
    network = filled_network2(small_model_config2())
    waveform = noise(720 + 160 * 7, seed=1)  # 11 frames, of which 8 are used
    with torch.no_grad():
        mel = network.front_end(waveform.unsqueeze(0))
        assert mel.shape == (1, 11, 12)
        assert torch.allclose(mel.mean(dim=1), torch.zeros(1, 12), atol=1e-5)
        assert network.frame_features(mel).shape[1] == 8
        assert torch.equal(network.frame_features(mel), network.frame_features(mel[:, :8]))


@pytest.mark.parametrize("changes", [{}, {"dual_agg": True}, {"agg_gnorm": False}])
def test_silence_and_the_shortest_input_are_defined(changes: dict[str, Any]) -> None:
    network = filled_network2(small_model_config2(**changes))
    assert network.minimum_samples == SHORTEST
    with torch.no_grad():
        for waveform in (torch.zeros(16000), torch.zeros(SHORTEST), noise(SHORTEST), torch.full((4000,), 1e-30)):
            assert torch.isfinite(network(waveform)).all()
    with pytest.raises(InputError, match=r"719 samples .* needs at least 720 \(45\.0 ms\)"):
        network(noise(SHORTEST - 1))


def test_one_frame_without_time_strides() -> None:
    rows = [[[1, 1], 1, 2, [[3, 3]], 6], [[2, 1], 1, 1, [[3, 3]], None]]
    network = filled_network2(small_model_config2(stages_setup=rows))
    assert network.minimum_samples == 240
    with torch.no_grad():
        shortest = network(noise(240))
        assert torch.isfinite(shortest).all()
        together = network([noise(240), noise(4000)])[0]
    assert relative_difference(together, shortest) < TOLERANCE


def test_padding_and_skipping_count_towards_the_shortest_input() -> None:
    network = filled_network2(small_model_config2(before_pool_offset=5, pad_right_samples=300))
    assert network.minimum_samples == 240 + 7 * 160 - 300  # eight frames, of which three are pooled
    with torch.no_grad():
        assert torch.isfinite(network(noise(network.minimum_samples))).all()
