"""Early exits: exact sums of the first stages, a head that follows the whole network, and every way to get them wrong."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from mrl.backbone import ReDimNet
from mrl.backbone.folding import can_pack
from mrl.embeddings import weights_sha256
from mrl.errors import CheckpointError, InputError, TrainingError
from mrl.matryoshka import ReDimNetMRL, create_mrl, get_model_info
from mrl.matryoshka.exits import EarlyExit
from tests.matryoshka.conftest import tiny_backbone

STAGES = [[1, 1, 1, [[3, 3]], 4], [2, 1, 2, [[3, 3]], 4], [1, 1, 1, [[3, 3]], 4]]


def with_exits(embed_dim: int = 16, **changes: object) -> ReDimNetMRL:
    """A model of three stages with exits after the first two, fitted to random numbers."""
    model = create_mrl(tiny_backbone(stages_setup=STAGES, **changes), embed_dim=embed_dim, mrl_dims=[4, 16])
    with torch.no_grad():
        model.backbone.encoder.final_sum.logits.normal_(generator=torch.Generator().manual_seed(3))  # type: ignore[union-attr, operator]
    model.add_exits([1, 2])
    generator = torch.Generator().manual_seed(2)
    for depth in (1, 2):
        pooled = torch.randn(40, model.pooled_dim, generator=generator) + 1
        model._exit(depth).fit(pooled, torch.randn(40, embed_dim, generator=generator))
    return model


@pytest.fixture
def model() -> ReDimNetMRL:
    return with_exits()


def test_an_exit_after_the_last_stage_would_be_the_whole_network(model: ReDimNetMRL, waveforms: torch.Tensor) -> None:
    backbone = model.backbone
    with torch.inference_mode():
        first, whole = backbone.early_statistics(waveforms, sums=[model._exit(1).weighted_sum, backbone.encoder.final_sum])
        torch.testing.assert_close(whole, backbone.pooled_statistics(waveforms), rtol=0, atol=0)
        assert (first - whole).abs().max() > 0.01


def test_an_exit_weighs_its_stages_as_the_last_layer_does(model: ReDimNetMRL, waveforms: torch.Tensor) -> None:
    backbone = model.backbone
    with torch.inference_mode():
        features = backbone.front_end(waveforms, None)
        outputs = backbone.encoder(features)[1]
        weights = backbone.encoder.final_sum.logits[:3].softmax(dim=0)  # type: ignore[union-attr]
        summed = sum(weight * output for weight, output in zip(weights, outputs[:3], strict=True))
        expected = backbone.pooling(summed)
        (found,) = backbone.early_statistics(waveforms, sums=[model._exit(2).weighted_sum])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_later_stages_are_not_run(model: ReDimNetMRL, waveforms: torch.Tensor) -> None:
    run: list[int] = []
    for number, stage in enumerate(model.backbone.encoder.stages, start=1):
        stage.register_forward_hook(lambda *_, number=number: run.append(number))
    model(waveforms[:1], depth=2)
    assert run == [1, 2]


def test_depth_changes_the_result_and_the_whole_is_as_before(model: ReDimNetMRL, waveforms: torch.Tensor) -> None:
    without = copy.deepcopy(model)
    without.remove_exits()
    assert (model.depths, without.depths) == ((1, 2, 3), (3,))
    assert get_model_info(model)["depths"] == [1, 2, 3]
    with torch.inference_mode():
        whole = model(waveforms)
        assert torch.equal(whole, without(waveforms))
        assert torch.equal(whole, model(waveforms, depth=3))
        early = model(waveforms, target_dim=4, depth=1)
        everything = model(waveforms, return_all_dims=True, depth=1)
        single = model(waveforms[0], target_dim=4, depth=1)
    assert early.shape == (5, 4)
    assert sorted(everything) == [4, 16]
    torch.testing.assert_close(everything[4], early)
    torch.testing.assert_close(single, early[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(early.norm(dim=1), torch.ones(5))
    assert (everything[16] - whole).abs().max() > 0.05


@given(samples=st.integers(2000, 7900), depth=st.sampled_from([1, 2]))
@settings(max_examples=8, deadline=None)
def test_padding_changes_nothing(samples: int, depth: int) -> None:
    model = with_exits()
    audio = torch.sin(torch.arange(8000) * 0.05) + 0.1 * torch.sin(torch.arange(8000) * 0.31)
    with torch.inference_mode():
        together = model([audio[:samples].numpy(), audio.numpy()], depth=depth)
        alone = model(audio[:samples], depth=depth)
    torch.testing.assert_close(together[0], alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"out_channels": 24}, {"pooling_func": "TSTP"}])
def test_the_inference_copy_agrees(waveforms: torch.Tensor, changes: dict[str, object]) -> None:
    model = with_exits(**changes)
    fast = model.optimize_for_inference()
    assert fast.depths == (1, 2, 3)
    with torch.inference_mode():
        for depth in fast.depths:
            expected = model(waveforms, depth=depth)
            torch.testing.assert_close(fast(waveforms, depth=depth), expected, rtol=1e-3, atol=2e-5)
        again = pickle.loads(pickle.dumps(fast))
        torch.testing.assert_close(again(waveforms, depth=1), fast(waveforms, depth=1))
    with pytest.raises(TrainingError, match="inference copy"):
        fast.add_exits([1])


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="no bfloat16 arithmetic here")
def test_the_bfloat16_copy_is_near(model: ReDimNetMRL, waveforms: torch.Tensor) -> None:
    fast = model.optimize_for_inference(dtype=torch.bfloat16)
    with torch.inference_mode():
        for depth in (1, 2):
            found, exact = fast(waveforms, depth=depth), model(waveforms, depth=depth)
            assert found.dtype == torch.float32
            assert 0.99 < (found * exact).sum(dim=1).min() < 1 - 1e-9


def test_fit_follows_the_whole_network() -> None:
    """Where the embedding is an affine map of the exit's statistics, the exit finds it."""
    exit_ = EarlyExit(tiny_backbone(), 1, 8)
    generator = torch.Generator().manual_seed(0)
    pooled = torch.randn(3000, exit_.projection.inputs, generator=generator) * 0.3 + 2
    true = torch.randn(8, exit_.projection.inputs, generator=generator)
    embeddings = (pooled - 2) @ true.T + 1
    new = torch.randn(50, exit_.projection.inputs, generator=generator) * 0.3 + 2
    with torch.no_grad():
        untrained = functional.cosine_similarity(exit_(new), (new - 2) @ true.T + 1)
        exit_.fit(pooled, embeddings, ridge=1e-4)
        fitted = functional.cosine_similarity(exit_(new), (new - 2) @ true.T + 1)
        exit_.fit(pooled, 7 * embeddings, ridge=1e-4)
        scaled = functional.cosine_similarity(exit_(new), (new - 2) @ true.T + 1)
    assert untrained.abs().mean() < 0.7
    assert fitted.min() > 0.95
    torch.testing.assert_close(fitted, scaled)


@pytest.mark.parametrize(
    ("utterances", "width", "embed_dim", "ridge", "message"),
    [
        (40, 5, 16, 0.1, "do not fit"),
        (40, None, 15, 0.1, "do not fit"),
        (9, None, 16, 0.1, "too few"),
        (40, None, 16, 0.0, "ridge"),
        (40, None, 16, float("nan"), "ridge"),
    ],
)
def test_fit_says_what_is_wrong(utterances: int, width: int | None, embed_dim: int, ridge: float, message: str) -> None:
    exit_ = EarlyExit(tiny_backbone(), 1, 16)
    pooled = torch.randn(utterances, width or exit_.projection.inputs)
    with pytest.raises(InputError, match=message):
        exit_.fit(pooled, torch.randn(utterances, embed_dim), ridge=ridge)


def test_fit_refuses_nan() -> None:
    exit_ = EarlyExit(tiny_backbone(), 1, 16)
    pooled = torch.randn(40, exit_.projection.inputs)
    pooled[3, 4] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        exit_.fit(pooled, torch.randn(40, 16))


@pytest.mark.parametrize("depth", [0, -1, 4, "1", 1.5, True, 3.0])
def test_a_depth_that_is_not_there(model: ReDimNetMRL, waveforms: torch.Tensor, depth: object) -> None:
    with pytest.raises(InputError, match="1, 2, 3 .3 is the whole network"):
        model(waveforms, depth=depth)  # type: ignore[call-overload]


@pytest.mark.parametrize("depth", [0, 3, 1.0, True])
def test_an_exit_that_cannot_be_made(model: ReDimNetMRL, depth: object) -> None:
    with pytest.raises(InputError, match="from 1 to 2"):
        model.add_exits([depth])  # type: ignore[list-item]


def test_saved_and_loaded(model: ReDimNetMRL, waveforms: torch.Tensor, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = ReDimNetMRL.from_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["exits"] == [1, 2]
    with torch.inference_mode():
        for depth in model.depths:
            assert torch.equal(loaded(waveforms, depth=depth), model(waveforms, depth=depth))
    config = json.loads((tmp_path / "config.json").read_text())
    for wrong in ([1], [7], None, 2, {"1": 2}):
        (tmp_path / "config.json").write_text(json.dumps({**config, "exits": wrong}))
        with pytest.raises(CheckpointError, match="does not hold the model|exits is .*, expected"):
            ReDimNetMRL.from_pretrained(tmp_path)


def test_folders_from_before_there_were_exits(backbone: ReDimNet, tmp_path: Path) -> None:
    create_mrl(backbone, embed_dim=16, mrl_dims=[16]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("exits") == []
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert ReDimNetMRL.from_pretrained(tmp_path).depths == (2,)


def test_exits_are_no_other_model(model: ReDimNetMRL) -> None:
    before = weights_sha256(model)
    model.remove_exits()
    assert weights_sha256(model) == before


def test_a_model_with_exits_is_not_trained(model: ReDimNetMRL) -> None:
    assert not any(parameter.requires_grad for parameter in model.exits.parameters())
    with pytest.raises(TrainingError, match="remove_exits"):
        model.train()
    model.freeze_backbone()
    with pytest.raises(TrainingError, match="remove_exits"):
        model.train()
    model.remove_exits()
    assert model.train().training


def test_the_head_of_a_model_with_exits_is_not_fitted(model: ReDimNetMRL) -> None:
    before = model.projection.weight.clone()
    pooled = torch.randn(40, model.pooled_dim)
    with pytest.raises(TrainingError, match="remove_exits"):
        model.fit_projection(pooled, method="pca")
    assert torch.equal(model.projection.weight, before)
    model.remove_exits()
    model.fit_projection(pooled, method="pca")
    assert not torch.equal(model.projection.weight, before)
