"""A Matryoshka model on the second generation: everything that works on the first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mrl.backbone import ReDimNet2
from mrl.errors import CheckpointError, TrainingError
from mrl.matryoshka import ReDimNetMRL, create_mrl
from tests.backbone.networks import filled_network, noise, relative_difference, small_model_config2

TWO_MAPS = pytest.mark.parametrize("changes", [{}, {"dual_agg": True, "agg_gnorm": 8}], ids=["one map", "two maps"])


def items() -> list[torch.Tensor]:
    """Lengths that are no multiple of the time stride."""
    return [noise(length, seed=length) for length in (5003, 7200, 2077)]


def with_exits(**changes: Any) -> ReDimNetMRL:
    model = create_mrl(filled_network(small_model_config2(**changes)), embed_dim=24, mrl_dims=[4, 16, 24])
    model.add_exits([1, 2, 3])
    generator = torch.Generator().manual_seed(2)
    for depth in (1, 2, 3):
        pooled = torch.randn(40, model.pooled_dim, generator=generator) + 1
        model._exit(depth).fit(pooled, torch.randn(40, 24, generator=generator))
    return model


def test_step_0_scores_as_the_pretrained_network() -> None:
    backbone = filled_network(small_model_config2())
    model = create_mrl(backbone, embed_dim=24, mrl_dims=[4, 16, 24])
    with torch.no_grad():
        raw = torch.nn.functional.normalize(backbone(items()), dim=1)
        for dim in (16, 24):
            embedded = model(items(), target_dim=dim)
            torch.testing.assert_close(embedded @ embedded.T, raw @ raw.T, atol=1e-5, rtol=0)


@TWO_MAPS
def test_a_saved_folder_gives_the_same_model(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = with_exits(**changes)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["family"] == "redimnet2"
    again = ReDimNetMRL.from_pretrained(tmp_path)
    assert isinstance(again.backbone, ReDimNet2) and again.depths == (1, 2, 3, 4)
    with torch.no_grad():
        for depth in again.depths:
            assert torch.equal(again(items(), depth=depth), model(items(), depth=depth))


def test_an_unknown_family_is_named(tmp_path: Path) -> None:
    with_exits().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "family": "redimnet9"}))
    with pytest.raises(CheckpointError, match="family 'redimnet9' is unknown; this version has redimnet, redimnet2"):
        ReDimNetMRL.from_pretrained(tmp_path)


@TWO_MAPS
def test_a_cut_network_gives_what_the_exit_gives(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Although a network of its first stages alone would have another time stride and another head."""
    model = with_exits(**changes)
    for depth in (1, 2, 3):
        cut = model.at_depth(depth)
        cut.save_pretrained(tmp_path / str(depth))
        again = ReDimNetMRL.from_pretrained(tmp_path / str(depth))
        assert again.backbone.num_stages == depth and again.backbone.minimum_samples == model.backbone.minimum_samples
        with torch.no_grad():
            expected = model(items(), depth=depth)
            assert relative_difference(cut(items()), expected) < 1e-5
            assert torch.equal(again(items()), cut(items()))
        with pytest.raises(TrainingError, match=f"cut after {depth} stages cannot be converted"):
            cut.backbone.to_official()


@TWO_MAPS
@pytest.mark.parametrize("pack", [True, False])
def test_the_inference_copy_gives_the_same(changes: dict[str, Any], pack: bool) -> None:
    model = with_exits(**changes)
    fast = model.optimize_for_inference(pack=pack)
    with torch.no_grad():
        for depth in model.depths:
            expected = model(items(), depth=depth)
            assert relative_difference(fast(items(), depth=depth), expected) < 1e-4
            assert relative_difference(fast(items()[0], depth=depth), expected[0]) < 1e-4


def test_a_trained_model_becomes_an_official_file() -> None:
    model = with_exits(dual_agg=True)
    backbone = model.to_backbone()
    again = ReDimNet2.from_official(*backbone.to_official())
    with torch.no_grad():
        raw = torch.nn.functional.normalize(again(items()), dim=1)
        assert relative_difference(raw, model(items())) < 1e-5


def test_the_backbone_trains() -> None:
    model = create_mrl(filled_network(small_model_config2()), embed_dim=24, mrl_dims=[4, 24])
    model.unfreeze_backbone()
    model.train()
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.trainable_parameters(), lr=1e-3)
    model(torch.stack([noise(4000, seed=seed) for seed in range(4)]))[:, 0].sum().backward()
    assert all(parameter.grad is not None for parameter in model.trainable_parameters())
    optimizer.step()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert any("stages.2.reshape" in name for name in moved) and any("frame_projection" in name for name in moved)
