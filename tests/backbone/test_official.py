"""Refusing weights that do not fit."""

from __future__ import annotations

import pytest
import torch

from mrl.backbone import ReDimNet
from mrl.errors import CheckpointError
from tests.backbone.networks import filled_network, small_model_config


def test_missing_surplus_and_misshapen_entries() -> None:
    model_config = small_model_config()
    _, state_dict = filled_network(model_config).to_official()

    lacking = {key: tensor for key, tensor in state_dict.items() if not key.startswith("bn.")}
    with pytest.raises(CheckpointError, match=r"lack 5 entries: bn\.bias.* and 1 more"):
        ReDimNet.from_official(model_config, lacking)

    with pytest.raises(CheckpointError, match=r"hold 1 entries.*: cls_head\.2\.weight"):
        ReDimNet.from_official(model_config, {**state_dict, "cls_head.2.weight": torch.zeros(3, 16)})

    with pytest.raises(CheckpointError, match=r"linear\.weight has the shape \(16, 95\), expected \(16, 96\)"):
        ReDimNet.from_official(model_config, {**state_dict, "linear.weight": torch.zeros(16, 95)})

    query = next(key for key in state_dict if key.endswith("q_proj.weight"))
    with pytest.raises(CheckpointError, match=r"q_proj\.weight has the shape"):
        ReDimNet.from_official(model_config, {**state_dict, query: torch.zeros(7, 7)})


def test_loading_copies_and_ends_in_eval_mode() -> None:
    model_config = small_model_config()
    source = filled_network(model_config)
    _, state_dict = source.to_official()
    network = ReDimNet.from_official(model_config, state_dict)
    assert not network.training
    kept = state_dict["linear.weight"].clone()
    with torch.no_grad():
        network.embedding.weight.zero_()
    assert torch.equal(state_dict["linear.weight"], kept)
    assert source.embedding.weight.abs().sum() > 0


@pytest.mark.parametrize("pooling", ["ASTP", "TSTP", "TAP", "TMAP", "TSDP", "MHASTP", "MQMHASTP"])
@pytest.mark.parametrize("block_1d", ["conv+att", "att", "conv", "fc"])
def test_round_trip_of_every_kind(block_1d: str, pooling: str) -> None:
    network = filled_network(small_model_config(block_1d_type=block_1d, pooling_func=pooling, num_classes=3, emb_bn=True))
    again = ReDimNet.from_official(*network.to_official())
    ours, theirs = network.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
