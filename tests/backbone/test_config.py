"""The typed form of an official model_config, and errors that name the key or value."""

from __future__ import annotations

from typing import Any

import pytest

from mrl.backbone import SCRATCH_NAMES, ReDimNetConfig, family_of, scratch_backbone, scratch_config
from mrl.errors import ConfigError, InputError
from tests.backbone.networks import small_model_config

SIZES = {
    "redimnet2-b3": 4_205_768,
    "redimnet2-b6": 12_459_296,
    "b0": 1_004_251,
    "b1": 2_126_937,
    "b2": 5_067_057,
    "b3": 3_225_021,
    "b4": 6_441_521,
    "b5": 7_659_761,
    "b6": 15_015_473,
    "M": 4_811_745,
}


def test_defaults_are_those_of_the_official_constructor() -> None:
    config = ReDimNetConfig.from_model_config({})
    assert (config.bands, config.channels, config.block_1d, config.block_2d) == (72, 16, "att", "convnext_like")
    assert [(s.stride, s.num_blocks, s.expansion, s.context_reduction) for s in config.stages] == [
        (1, 2, 1, 12),
        (2, 2, 1, 12),
        (1, 3, 1, 12),
        (2, 4, 1, 8),
        (1, 4, 1, 8),
        (2, 4, 1, 4),
    ]
    assert (config.group_divisor, config.frame_dim, config.embed_dim, config.front_end.hop_length) == (4, None, 192, 160)
    assert (config.front_end.band_mask_width, config.front_end.frame_mask_width) == ((0, 6), (0, 8))
    # Given without these keys, spec_params has the defaults of the front end, not of the whole network.
    given = ReDimNetConfig.from_model_config({"spec_params": {}}).front_end
    assert (given.band_mask_width, given.frame_mask_width) == ((0, 8), (0, 10))


def test_spelling_out_and_reading_back() -> None:
    config = ReDimNetConfig.from_model_config(
        small_model_config(
            out_channels=24,
            num_classes=7,
            class_dropout=0.1,
            feat_agg_dropout=0.2,
            head_activation="nn.Sigmoid()",
            emb_bn=True,
            return_all_outputs=True,
            group_divisor=None,
            spec_params={
                "do_spec_aug": True,
                "num_apply_spec_aug": 2,
                "freq_start_bin": 3,
                "time_mask_width": [1, 5],
                "f_min": 50,
            },
        )
    )
    spelled_out = config.to_model_config()
    assert ReDimNetConfig.from_model_config(spelled_out) == config
    assert spelled_out["spec_params"]["time_mask_width"] == [1, 5]
    assert config.replace(embed_dim=8).embed_dim == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dims": 192}, "unknown key 'embed_dims'; did you mean 'embed_dim'"),
        ({"zzz": 1}, "unknown key 'zzz'; known keys: C, F"),
        ({"spec_params": {"win_len": 400}}, "spec_params: unknown key 'win_len'; did you mean 'win_length'"),
        ({"spec_params": None}, "spec_params=None"),
        ({"F": 0}, "F=0"),
        ({"F": True}, "F=True"),
        ({"C": 1.5}, "C=1.5"),
        ({"block_1d_type": "gru"}, "block_1d_type='gru'.*'conv\\+att'"),
        ({"block_2d_type": "resnet"}, "block_2d_type='resnet'"),
        ({"pooling_func": "XASTP"}, "pooling_func='XASTP'"),
        ({"feat_type": "tf"}, "feat_type='tf'"),
        ({"tf_optimized_arch": True}, "tf_optimized_arch=True"),
        ({"head_activation": "os.system('true')"}, "head_activation="),
        ({"group_divisor": 0}, "group_divisor=0"),
        ({"group_divisor": 3}, r"stages_setup\[1\]: group_divisor=3 does not divide"),
        ({"class_dropout": 1.5}, "class_dropout=1.5"),
        ({"global_context_att": 1}, "global_context_att=1"),
        ({"stages_setup": []}, "stages_setup="),
        ({"stages_setup": [[1, 1, 1]]}, r"stages_setup\[0\]=\[1, 1, 1\]"),
        ({"stages_setup": [[4, 1, 1, [[3, 3]], None]]}, r"stages_setup\[0\].*a stride of 1, 2 or 3"),
        ({"stages_setup": [[1, 1, 1, [[3, 3]], 5]]}, "leaves 9 of 48 features, which 4 attention heads"),
        (
            {"stages_setup": [[2, 1, 1, [[3, 3]], None], [2, 1, 1, [[3, 3]], None], [2, 1, 1, [[3, 3]], None]]},
            "3 bands .* stride of 2",
        ),
        ({"pooling_func": "MQMHASTP", "out_channels": 12}, "MQMHASTP has 8 heads, which 12 features"),
        ({"spec_params": {"spec_norm": "cmvn"}}, "spec_norm='cmvn'"),
        ({"spec_params": {"win_length": 600}}, "win_length=600 .* up to n_fft=512"),
        ({"spec_params": {"f_min": 5000, "f_max": 400}}, "f_min=5000 must lie below f_max=400"),
        ({"spec_params": {"freq_mask_width": [6, 0]}}, r"freq_mask_width=\[6, 0\]"),
    ],
)
def test_unknown_or_unsupported_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ReDimNetConfig.from_model_config(small_model_config(**changes))


def test_not_a_mapping() -> None:
    with pytest.raises(ConfigError, match="model_config is a list"):
        ReDimNetConfig.from_model_config([1, 2])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SCRATCH_NAMES)
def test_scratch_configurations(name: str) -> None:
    config = scratch_config(name)
    network = scratch_backbone(name)
    assert network.config == config and family_of(config.to_model_config()) is type(network)
    assert network.size_name() == name
    if name in SIZES:
        assert sum(parameter.numel() for parameter in network.parameters()) == SIZES[name]
    assert config.embed_dim == 192


def test_tiny_is_tiny() -> None:
    for name in ("tiny", "redimnet2-tiny"):
        assert sum(parameter.numel() for parameter in scratch_backbone(name).parameters()) < 100_000


def test_unknown_scratch_configuration() -> None:
    with pytest.raises(InputError, match=r"'b7'.*There are .*b0, b1, b2.*tiny"):
        scratch_config("b7")
