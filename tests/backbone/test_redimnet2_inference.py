"""The inference copy of the second generation."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from mrl.backbone import ReDimNet2
from mrl.backbone.redimnet2.inference import FastFourierFrontEnd
from tests.backbone.networks import filled_network2, noise, relative_difference, small_model_config2
from tests.backbone.test_redimnet2_parity import VARIATIONS


def items(network: ReDimNet2) -> list[torch.Tensor]:
    return [noise(max(length, network.minimum_samples), seed=length) for length in (6000, 3501, 720)]


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("variation", VARIATIONS)
def test_same_output_as_the_network(variation: str, pack: bool) -> None:
    network = filled_network2(small_model_config2(**VARIATIONS[variation]))
    fast = network.optimize_for_inference(pack=pack)
    audio = items(network)
    with torch.no_grad():
        expected = network(audio)
        assert relative_difference(fast(audio), expected) < 1e-5
        for item, row in zip(audio, expected, strict=True):
            assert relative_difference(fast(item), row) < 1e-5


def test_batch_norms_of_any_sign_are_folded() -> None:
    network = filled_network2(small_model_config2())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight[0], module.weight[1] = 0.0, -1.3
    fast = network.optimize_for_inference()
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in fast.modules())
    audio = items(network)
    with torch.no_grad():
        assert relative_difference(fast(audio), network(audio)) < 1e-5


def test_all_outputs_have_all_frames() -> None:
    network = filled_network2(small_model_config2(return_all_outputs=True))
    audio = noise(2, 5000)
    with torch.no_grad():
        (_, expected), (_, found) = network(audio), network.optimize_for_inference()(audio)
    frames = (5000 - 240) // 160 + 1
    assert [output.shape for output in expected] == [(2, 48, frames // 4 * 4)] * 6
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_difference(ours, theirs) < 1e-5


def test_other_kernels_than_fouriers_are_kept() -> None:
    model_config = small_model_config2()
    _, state_dict = filled_network2(model_config).to_official()
    assert isinstance(filled_network2(model_config).optimize_for_inference().front_end, FastFourierFrontEnd)
    state_dict["spec.torchfbank.2.real_kernel_pt"][3] *= 1.5
    network = ReDimNet2.from_official(model_config, state_dict)
    fast = network.optimize_for_inference()
    assert not isinstance(fast.front_end, FastFourierFrontEnd)
    audio = items(network)
    with torch.no_grad():
        assert relative_difference(fast(audio), network(audio)) < 1e-5


def test_a_copy_can_be_copied_and_pickled() -> None:
    fast = filled_network2(small_model_config2()).optimize_for_inference()
    audio = noise(1, 4000)
    with torch.no_grad():
        expected = fast(audio)
        for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), fast.to("cpu")):
            assert torch.equal(other(audio), expected)
