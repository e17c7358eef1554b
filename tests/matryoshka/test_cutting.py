"""An exit as a model of its own: the same results from less, saved, loaded and traceable to the whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mrl.embeddings import weights_sha256
from mrl.errors import CheckpointError, InputError, TrainingError
from mrl.matryoshka import ReDimNetMRL
from tests.matryoshka.test_exits import with_exits


@pytest.mark.parametrize("changes", [{}, {"out_channels": 24, "emb_bn": True}, {"pooling_func": "TSTP"}])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_results_are_those_of_the_exit(waveforms: torch.Tensor, depth: int, changes: dict[str, object]) -> None:
    model = with_exits(**changes)
    cut = model.at_depth(depth)
    assert cut.depths == (depth,) and len(cut.backbone.encoder.stages) == depth and not cut.training
    assert sum(one.numel() for one in cut.parameters()) < sum(one.numel() for one in model.parameters())
    with torch.inference_mode():
        expected = model(waveforms, depth=depth)
        torch.testing.assert_close(cut(waveforms), expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(cut(waveforms, target_dim=4), model(waveforms, target_dim=4, depth=depth))
        fast = cut.optimize_for_inference()
        torch.testing.assert_close(fast(waveforms), expected, rtol=1e-3, atol=2e-5)
        own = torch.nn.functional.normalize(cut.backbone(waveforms), dim=1)
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-6)
    assert fast.cut == cut.cut
    # a copy: what happens to one does not happen to the other
    with torch.no_grad():
        cut.projection.weight.zero_()
    torch.testing.assert_close(model(waveforms, depth=depth).detach(), expected)


def test_it_says_where_it_comes_from(tmp_path: Path, waveforms: torch.Tensor) -> None:
    model = with_exits()
    cut = model.at_depth(2)
    assert cut.cut == {"depth": 2, "stages": 3, "whole_sha256": weights_sha256(model)}
    assert len({weights_sha256(one) for one in (model, cut, model.at_depth(1))}) == 3
    cut.save_pretrained(tmp_path)
    loaded = ReDimNetMRL.from_pretrained(tmp_path)
    assert loaded.cut == cut.cut and not loaded.backbone_is_unmodified
    with torch.inference_mode():
        assert torch.equal(loaded(waveforms), cut(waveforms))
    assert "the first 2 of 3 stages" in (tmp_path / "README.md").read_text()
    # cut once more, it still is the beginning of the same whole
    loaded.add_exits([1])
    assert loaded.at_depth(1).cut == {**cut.cut, "depth": 1}


def test_the_whole_depth_is_a_copy_without_exits(waveforms: torch.Tensor) -> None:
    model = with_exits()
    whole = model.at_depth(3)
    assert whole.depths == (3,) and whole.cut is None and model.depths == (1, 2, 3)
    assert weights_sha256(whole) == weights_sha256(model)
    with torch.inference_mode():
        assert torch.equal(whole(waveforms), model(waveforms))


@pytest.mark.parametrize("depth", [0, 4, True, "1"])
def test_a_depth_that_is_not_there(depth: object) -> None:
    with pytest.raises(InputError, match="1, 2, 3 .3 is the whole network"):
        with_exits().at_depth(depth)  # type: ignore[arg-type]


def test_an_inference_copy_is_not_cut() -> None:
    with pytest.raises(TrainingError, match="inference copy"):
        with_exits().optimize_for_inference().at_depth(1)


@pytest.mark.parametrize(
    "cut", [7, {}, {"depth": 1, "stages": 3, "whole_sha256": "x"}, {"depth": 2, "stages": 2, "whole_sha256": "x"}]
)
def test_a_damaged_cut(cut: object, tmp_path: Path) -> None:
    with_exits().at_depth(2).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "cut": cut}))
    with pytest.raises(CheckpointError, match="does not fit a model of 2 stages"):
        ReDimNetMRL.from_pretrained(tmp_path)
