"""The second generation: the same numbers as the official code, and golden values for checkouts without its recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrl.backbone.redimnet2.config import ReDimNet2Config
from mrl.backbone.redimnet2.network import ReDimNet2
from mrl.errors import ConfigError
from tests.backbone.networks import filled_network2, small_model_config2
from tests.backbone.test_parity import INPUTS, TOLERANCE, recorded_rule

GOLDEN = Path(__file__).parent / "golden2"
GOLDEN_CONFIGURATIONS = ("released", "two_maps", "one_dimensional")
NOT_BUILT = {
    "r2_v2_rope": "att_dos: qk_norm=True is not supported .*normalised queries",
    "r2_sdwm": "block_1d_type='sdwm_conv\\+att'.*depthwise mixers",
    "r2_stable_ws": "block_1d_type='conv\\+stable_att'.*stable attention",
    "r2_convlarge_pt": "block_1d_type='conv_large'.*dilated kernels",
}


def recorded(shared: Path, name: str) -> dict[str, Any]:
    contents: dict[str, Any] = json.loads((shared / "parity2" / f"{name}.json").read_text())
    return contents


@pytest.mark.shared
@pytest.mark.parametrize("name", ["r2_b3", "r2_b6", "r2_dual", "r2_no_gnorm_1d"])
def test_official_outputs_and_weights(shared: Path, name: str) -> None:
    record = recorded(shared, name)
    network = filled_network2(record["model_config"], recorded_rule(shared))
    assert sum(parameter.numel() for parameter in network.parameters()) == record["parameters"]

    _, state_dict = network.to_official()
    assert {key: list(tensor.shape) for key, tensor in state_dict.items()} == {k: v[0] for k, v in record["state_dict"].items()}
    again = ReDimNet2.from_official(record["model_config"], state_dict).to_official()[1]
    assert all(torch.equal(state_dict[key], again[key]) for key in state_dict)

    expected = np.load(shared / "parity2" / f"{name}.npz")
    for key in INPUTS:
        waveform = torch.from_numpy(np.load(shared / "parity" / f"input_{key}.npy"))
        with torch.inference_mode():
            mel = network.front_end(waveform)
            frames = network.frame_features(mel)
            pooled = network.pooled_statistics(waveform)
            embedding = network(waveform)
        norm = np.linalg.norm(expected[f"{key}.embedding"], axis=1).min()
        assert np.abs(mel.transpose(1, 2)[:, :, :32].numpy() - expected[f"{key}.mel"]).max() < TOLERANCE * norm
        assert np.abs(mel.abs().mean(dim=1).numpy() - expected[f"{key}.mel_mean"]).max() < 1e-4
        assert np.abs(frames.transpose(1, 2)[:, :, ::16].numpy() - expected[f"{key}.frames"]).max() < TOLERANCE * norm
        assert np.abs(pooled.numpy() - expected[f"{key}.pooled"]).max() < TOLERANCE * norm
        assert np.abs(embedding.numpy() - expected[f"{key}.embedding"]).max() < TOLERANCE * norm


@pytest.mark.shared
@pytest.mark.parametrize("name", NOT_BUILT)
def test_what_is_not_built_is_refused_by_name(shared: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=NOT_BUILT[name]):
        ReDimNet2Config.from_model_config(recorded(shared, name)["model_config"])


@pytest.mark.shared
def test_mel_front_end_of_the_first_generation(shared: Path) -> None:
    """The official second generation has it with another bound in the normalisation of the signal."""
    model_config = recorded(shared, "r2_convlarge_pt")["model_config"]
    network = ReDimNet2(
        ReDimNet2Config.from_model_config(model_config | {"block_1d_type": "fc", "block_2d_type": "basic_resnet"})
    )
    expected = np.load(shared / "parity2" / "r2_convlarge_pt.npz")
    for key in INPUTS:
        with torch.inference_mode():
            mel = network.eval().front_end(torch.from_numpy(np.load(shared / "parity" / f"input_{key}.npy")))
        assert np.abs(mel.transpose(1, 2)[:, :, :32].numpy() - expected[f"{key}.mel"]).max() < 1e-3


@pytest.mark.parametrize("name", GOLDEN_CONFIGURATIONS)
def test_golden_outputs(name: str) -> None:
    """Recorded from this network while it agreed with the official outputs by :func:`test_official_outputs_and_weights`."""
    network = filled_network2(json.loads((GOLDEN / f"{name}.json").read_text()))
    waveform = np.load(GOLDEN.parent / "golden" / "waveform.npy")
    expected = np.load(GOLDEN / f"{name}.npz")
    with torch.inference_mode():
        pooled = network.pooled_statistics(waveform)[0].numpy()
        embedding = network(waveform).numpy()
    norm = np.linalg.norm(expected["embedding"])
    assert norm > 1
    assert np.abs(pooled - expected["pooled"]).max() < TOLERANCE * norm
    assert np.abs(embedding - expected["embedding"]).max() < TOLERANCE * norm


VARIATIONS: dict[str, dict[str, Any]] = {
    "released": {},
    "two maps": {"dual_agg": True, "agg_gnorm": 8},
    "two maps without norm": {"dual_agg": True, "agg_gnorm": False},
    "one-dimensional head": {"return_2d_output": False},
    "no head": {"out_channels": None},
    "mel front end": {"feat_type": "pt", "spec_params": {"spec_norm": "bn"}},
    "no pre-emphasis": {"spec_params": {"do_preemph": False}},
    "band embedding, ungrouped": {"use_freq_pos_enc": True, "compress_tconvs": False, "emb_bn": True},
    "several kernels": {
        "block_2d_type": "convnext_like",
        "group_divisor": 2,
        "stages_setup": [[[1, 2], 1, 2, [[3, 3], [5, 1]], 6], [[2, 2], 1, 1, [[1, 7]], 6]],
    },
    "ungrouped blocks": {"group_divisor": None, "block_2d_type": "basic_resnet_fwse"},
    **{f"1-D {kind}": {"block_1d_type": kind} for kind in ("att", "conv", "fc")},
    **{
        f"pooling {kind}": {"pooling_func": kind, "out_channels": 8}
        for kind in ("TSTP", "TAP", "TMAP", "TSDP", "MHASTP", "MQMHASTP")
    },
    "later frames": {"before_pool_offset": 3, "pad_right_samples": 500},
}


@pytest.mark.parametrize("variation", VARIATIONS)
def test_conversion_round_trip_is_exact(variation: str) -> None:
    model_config = small_model_config2(**VARIATIONS[variation])
    network = filled_network2(model_config)
    spelled_out, state_dict = network.to_official()
    assert ReDimNet2Config.from_model_config(spelled_out) == ReDimNet2Config.from_model_config(model_config)
    again = ReDimNet2.from_official(spelled_out, state_dict)
    ours, theirs = network.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_kernels_of_the_file_are_kept() -> None:
    model_config = small_model_config2()
    _, state_dict = filled_network2(model_config).to_official()
    for name in ("real_kernel_pt", "image_kernel_pt", "melbanks_pt"):
        state_dict[f"spec.torchfbank.2.{name}"] *= 1.25
    network = ReDimNet2.from_official(model_config, state_dict)
    assert all(torch.equal(tensor, state_dict[name]) for name, tensor in network.to_official()[1].items())
    waveform = torch.from_numpy(np.load(GOLDEN.parent / "golden" / "waveform.npy")).float().div(2**15).unsqueeze(0)
    plain = filled_network2(model_config)
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
        ({"stages_setup": [[[1, 1], 1, 0.1, [[3, 3]], 6]]}, "does not divide a convolution of 0 channels"),
        ({"stages_setup": [[[1, 1], 1, float("nan"), [[3, 3]], 6]]}, "is not supported"),
        ({"stages_setup": [[[1, 1], 1, 1, [[2, 3]], 6]]}, "odd kernel sizes"),
        ({"aggr_gnorm": True}, "unknown key 'aggr_gnorm'; did you mean 'agg_gnorm'"),
        ({"spec_params": {"spec_norm": "mvn"}}, "spec_params: unknown key 'spec_norm'"),
    ],
)
def test_refuses_what_cannot_be_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ReDimNet2Config.from_model_config(small_model_config2(**changes))
