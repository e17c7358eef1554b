"""What the second generation has for itself: refusals, time strides, its front end, its inference copy, training."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mrl.backbone import ReDimNet2, ReDimNet2Config
from mrl.backbone.redimnet2.inference import FastFourierFrontEnd
from mrl.backbone.redimnet2.inference import InferenceFrameEncoder as encoder_for_inference
from mrl.errors import ConfigError, InputError
from mrl.training.feeds import recomputed_stages
from tests.backbone.networks import VARIATIONS2, filled_network, noise, relative_difference, small_model_config2
from tests.backbone.test_parity import GOLDEN, INPUTS, TOLERANCE, recorded_configuration

KINDS: list[dict[str, Any]] = [{}, {"dual_agg": True, "agg_gnorm": 8}]
NOT_BUILT = {
    "r2_v2_rope": "att_dos: qk_norm=True is not supported .*normalised queries",
    "r2_sdwm": "block_1d_type='sdwm_conv\\+att'.*depthwise mixers",
    "r2_stable_ws": "block_1d_type='conv\\+stable_att'.*stable attention",
    "r2_convlarge_pt": "block_1d_type='conv_large'.*dilated kernels",
}


@pytest.mark.shared
@pytest.mark.parametrize("name", NOT_BUILT)
def test_what_is_not_built_is_refused_by_name(shared: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=NOT_BUILT[name]):
        ReDimNet2Config.from_model_config(recorded_configuration(shared, name)["model_config"])


@pytest.mark.shared
def test_mel_front_end_of_the_first_generation(shared: Path) -> None:
    """The official second generation has it with another bound in the normalisation of the signal."""
    model_config = recorded_configuration(shared, "r2_convlarge_pt")["model_config"]
    network = ReDimNet2(
        ReDimNet2Config.from_model_config(model_config | {"block_1d_type": "fc", "block_2d_type": "basic_resnet"})
    )
    expected = np.load(shared / "parity2" / "r2_convlarge_pt.npz")
    for key in INPUTS:
        with torch.inference_mode():
            mel = network.eval().front_end(torch.from_numpy(np.load(shared / "parity" / f"input_{key}.npy")))
        assert np.abs(mel.transpose(1, 2)[:, :, :32].numpy() - expected[f"{key}.mel"]).max() < 1e-3


def test_kernels_of_the_file_are_kept() -> None:
    model_config = small_model_config2()
    _, state_dict = filled_network(model_config).to_official()
    for name in ("real_kernel_pt", "image_kernel_pt", "melbanks_pt"):
        state_dict[f"spec.torchfbank.2.{name}"] *= 1.25
    network = ReDimNet2.from_official(model_config, state_dict)
    assert all(torch.equal(tensor, state_dict[name]) for name, tensor in network.to_official()[1].items())
    waveform = torch.from_numpy(np.load(GOLDEN / "waveform.npy")).float().div(2**15).unsqueeze(0)
    plain = filled_network(model_config)
    with torch.inference_mode():
        # log(1.25**3) is the same for every frame, and the mean over time is taken off: only the bounds of power differ.
        assert torch.allclose(network.front_end(waveform), plain.front_end(waveform), atol=1e-3)
        assert not torch.equal(network.front_end.log_mel(waveform), plain.front_end.log_mel(waveform))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"causal": "full"}, "causal='full'.*causal networks are not built here"),
        ({"feat_type": "tf_spec"}, "feat_type='tf_spec'.*linear spectrograms"),
        ({"block_2d_type": "convnext_like_ws"}, "block_2d_type='convnext_like_ws'.*weight standardisation"),
        ({"block_1d_type": "v2_conv+att"}, "block_1d_type='v2_conv.*kernels that shrink"),
        ({"block_1d_type": "att-rope"}, "block_1d_type='att-rope'.*rotary"),
        ({"block_1d_type": "lstm"}, "block_1d_type='lstm' is not supported; expected one of"),
        ({"att_dos": {"qk_norm": True}}, "att_dos: qk_norm=True is not supported"),
        ({"fm_weigthing_type": "N"}, "fm_weigthing_type='N' is not supported"),
        ({"agg_gnorm": 7}, "agg_gnorm=7 groups cannot share 48 features"),
        ({"stages_setup": [[1, 1, 1, [[3, 3]], 6]]}, r"stages_setup\[0\].* is not supported; expected \[\(band stride"),
        ({"stages_setup": [[[5, 1], 1, 1, [[3, 3]], 6]]}, "12 bands cannot be split by a stride of 5"),
        (
            {"stages_setup": [[[1, 1], 1, 0.1, [[3, 3]], 6]]},
            "does not divide a convolution of 0 to 0 channels \\(conv_exp=0.1\\)",
        ),
        ({"stages_setup": [[[1, 1], 1, float("nan"), [[3, 3]], 6]]}, "is not supported"),
        ({"stages_setup": [[[1, 1], 1, 1, [[2, 3]], 6]]}, "odd kernel sizes"),
        ({"aggr_gnorm": True}, "unknown key 'aggr_gnorm'; did you mean 'agg_gnorm'"),
        ({"spec_params": {"spec_norm": "mvn"}}, "spec_params: unknown key 'spec_norm'"),
    ],
)
def test_refuses_what_cannot_be_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ReDimNet2Config.from_model_config(small_model_config2(**changes))


def test_trailing_frames_are_dropped_but_count_in_the_normalisation() -> None:
    network = filled_network(small_model_config2())
    waveform = noise(720 + 160 * 7, seed=1)  # 11 frames, of which 8 are used
    with torch.no_grad():
        mel = network.front_end(waveform.unsqueeze(0))
        assert mel.shape == (1, 11, 12)
        assert torch.allclose(mel.mean(dim=1), torch.zeros(1, 12), atol=1e-5)
        assert network.frame_features(mel).shape[1] == 8
        assert torch.equal(network.frame_features(mel), network.frame_features(mel[:, :8]))


@pytest.mark.parametrize("changes", [{}, {"dual_agg": True}, {"agg_gnorm": False}])
def test_silence_and_the_shortest_input_are_defined(changes: dict[str, Any]) -> None:
    network = filled_network(small_model_config2(**changes))
    assert network.minimum_samples == 720
    with torch.no_grad():
        for waveform in (torch.zeros(16000), torch.zeros(720), noise(720), torch.full((4000,), 1e-30)):
            assert torch.isfinite(network(waveform)).all()
    with pytest.raises(InputError, match=r"719 samples .* needs at least 720 \(45\.0 ms\)"):
        network(noise(720 - 1))


def test_one_frame_without_time_strides() -> None:
    rows = [[[1, 1], 1, 2, [[3, 3]], 6], [[2, 1], 1, 1, [[3, 3]], None]]
    network = filled_network(small_model_config2(stages_setup=rows))
    assert network.minimum_samples == 240
    with torch.no_grad():
        shortest = network(noise(240))
        assert torch.isfinite(shortest).all()
        together = network([noise(240), noise(4000)])[0]
    assert relative_difference(together, shortest) < TOLERANCE


def test_padding_and_skipping_count_towards_the_shortest_input() -> None:
    network = filled_network(small_model_config2(before_pool_offset=5, pad_right_samples=300))
    assert network.minimum_samples == 240 + 7 * 160 - 300  # eight frames, of which three are pooled
    with torch.no_grad():
        assert torch.isfinite(network(noise(network.minimum_samples))).all()


def items(network: ReDimNet2) -> list[torch.Tensor]:
    return [noise(max(length, network.minimum_samples), seed=length) for length in (6000, 3501, 720)]


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("variation", VARIATIONS2)
def test_same_output_as_the_network(variation: str, pack: bool) -> None:
    network = filled_network(small_model_config2(**VARIATIONS2[variation]))
    fast = network.optimize_for_inference(pack=pack)
    audio = items(network)
    with torch.no_grad():
        expected = network(audio)
        assert relative_difference(fast(audio), expected) < 1e-5
        for item, row in zip(audio, expected, strict=True):
            assert relative_difference(fast(item), row) < 1e-5


def test_batch_norms_of_any_sign_are_folded() -> None:
    network = filled_network(small_model_config2())
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
    network = filled_network(small_model_config2(return_all_outputs=True))
    audio = noise(2, 5000)
    with torch.no_grad():
        (_, expected), (_, found) = network(audio), network.optimize_for_inference()(audio)
    frames = (5000 - 240) // 160 + 1
    assert [output.shape for output in expected] == [(2, 48, frames // 4 * 4)] * 6
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_difference(ours, theirs) < 1e-5


def test_other_kernels_than_fouriers_are_kept() -> None:
    model_config = small_model_config2()
    _, state_dict = filled_network(model_config).to_official()
    assert isinstance(filled_network(model_config).optimize_for_inference().front_end, FastFourierFrontEnd)
    state_dict["spec.torchfbank.2.real_kernel_pt"][3] *= 1.5
    network = ReDimNet2.from_official(model_config, state_dict)
    fast = network.optimize_for_inference()
    assert not isinstance(fast.front_end, FastFourierFrontEnd)
    audio = items(network)
    with torch.no_grad():
        assert relative_difference(fast(audio), network(audio)) < 1e-5


def test_the_stem_is_not_rounded_to_bfloat16() -> None:
    encoder = filled_network(small_model_config2()).encoder
    exact, rounded = (encoder_for_inference(encoder).in_dtype(dtype) for dtype in (torch.float32, torch.bfloat16))
    assert torch.equal(rounded.stem.weight, exact.stem.weight)
    assert not torch.equal(exact.stem.weight.bfloat16().float(), exact.stem.weight)
    assert rounded.stages[0].reshape.weight.dtype == rounded.final_sum.weights.dtype == torch.bfloat16


def test_a_copy_can_be_copied_and_pickled() -> None:
    fast = filled_network(small_model_config2()).optimize_for_inference()
    audio = noise(1, 4000)
    with torch.no_grad():
        expected = fast(audio)
        for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), fast.to("cpu")):
            assert torch.equal(other(audio), expected)


@pytest.mark.parametrize("changes", KINDS)
def test_recomputed_stages_give_the_same_gradients(changes: dict[str, Any]) -> None:
    network = filled_network(small_model_config2(**changes)).train()
    batch = noise(3, 4000)
    start = copy.deepcopy(network.state_dict())
    network(batch).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    statistics = {name: value.clone() for name, value in network.named_buffers()}
    network.zero_grad()
    network.load_state_dict(start)
    with recomputed_stages(network):
        loss = network(batch).square().sum()
    loss.backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys() and len(found) > 60
    for name, gradient in found.items():
        assert torch.allclose(gradient, expected[name], rtol=1e-4, atol=1e-5), name
    assert all(torch.equal(statistics[name], value) for name, value in network.named_buffers())


def test_bfloat16_autocast_is_near_and_half_keeps_the_front_end() -> None:
    network = filled_network(small_model_config2())
    batch = noise(2, 6000)
    with torch.no_grad():
        expected = network(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = network(batch).float()
        cosine = nn.functional.cosine_similarity(found, expected).min()
        assert 0.99 < float(cosine) < 1.0
        kernels = network.front_end.real_kernels.clone()
        assert torch.equal(network.bfloat16().front_end.real_kernels, kernels)
        assert torch.isfinite(network(batch)).all()
