"""The Matryoshka model: step 0 is the pretrained model, prefixes are prefixes, frozen means frozen."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from mrl.backbone import ReDimNet
from mrl.errors import InputError
from mrl.matryoshka import ReDimNetMRL, create_mrl, freeze_backbone, get_model_info, unfreeze_backbone
from tests.matryoshka.conftest import tiny_backbone


def cosines(vectors: torch.Tensor) -> torch.Tensor:
    unit = functional.normalize(vectors.double(), dim=1)
    return unit @ unit.T


@pytest.mark.parametrize("changes", [{}, {"emb_bn": True}, {"pooling_func": "TSTP"}])
@pytest.mark.parametrize("embed_dim", [192, 256, 512])
def test_step_zero_scores_as_the_pretrained_model(waveforms: torch.Tensor, embed_dim: int, changes: dict[str, object]) -> None:
    backbone = tiny_backbone(**changes)
    model = create_mrl(backbone, embed_dim=embed_dim)
    with torch.inference_mode():
        expected = cosines(backbone(waveforms))
        for dim in {192, embed_dim}:
            assert (cosines(model(waveforms, target_dim=dim)) - expected).abs().max() < 1e-5
    spread = expected[0, 1:].abs()
    assert spread.min() < 0.999  # the waveforms differ, so the comparison means something


def test_extra_rows_change_nothing_until_trained(backbone: ReDimNet, waveforms: torch.Tensor) -> None:
    model = create_mrl(backbone, embed_dim=256)
    assert not model.projection.weight[192:].any()
    assert not model.projection.bias[192:].any()
    with torch.no_grad():
        model.projection.weight[192:].normal_()
    assert (cosines(model(waveforms)) - cosines(backbone(waveforms))).abs().max() > 1e-3


def test_data_free_rotation_orders_the_assumed_variance(backbone: ReDimNet) -> None:
    model = create_mrl(backbone, embed_dim=192)
    gains = backbone.pooled_norm.weight.detach().square()
    variance = (model.projection.weight.detach().square() * gains).sum(dim=1)
    assert (variance.diff() <= 1e-6).all()
    original = (backbone.embedding.weight.detach().square() * gains).sum()
    assert variance.sum().item() == pytest.approx(original.item(), rel=1e-5)


@given(target_dim=st.integers(1, 200))
@settings(max_examples=15, deadline=None)
def test_any_prefix_is_the_normalised_start_of_the_full_embedding(target_dim: int) -> None:
    model = create_mrl(tiny_backbone(), embed_dim=200)
    audio = torch.sin(torch.arange(6000) * 0.2).reshape(1, -1)
    with torch.inference_mode():
        full = model(audio)
        prefix = model(audio, target_dim=target_dim)
    assert prefix.shape == (1, target_dim)
    torch.testing.assert_close(prefix, functional.normalize(full[:, :target_dim], dim=1), rtol=1e-4, atol=1e-6)
    assert prefix.norm().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("target_dim", [0, -1, 193, 1.5, "64", True])
def test_wrong_target_dim_says_what_is_allowed(backbone: ReDimNet, waveforms: torch.Tensor, target_dim: object) -> None:
    model = create_mrl(backbone, embed_dim=192)
    with pytest.raises(InputError, match="from 1 to 192"):
        model(waveforms, target_dim=target_dim)  # type: ignore[call-overload]


def test_all_dims_at_once_equal_each_alone(backbone: ReDimNet, waveforms: torch.Tensor) -> None:
    model = create_mrl(backbone, embed_dim=192, mrl_dims=[128, 16, 64, 16])
    assert model.mrl_dims == (16, 64, 128, 192)
    with torch.inference_mode():
        together = model(waveforms, return_all_dims=True)
        assert list(together) == [16, 64, 128, 192]
        for dim, embedding in together.items():
            torch.testing.assert_close(embedding, model(waveforms, target_dim=dim), rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="exclude each other"):
        model(waveforms, target_dim=16, return_all_dims=True)


@pytest.mark.parametrize("embed_dim, mrl_dims", [(16, [16]), (32, [8, 32]), (512, [512, 16, 192]), (48, None)])
def test_unusual_lengths(backbone: ReDimNet, waveforms: torch.Tensor, embed_dim: int, mrl_dims: list[int] | None) -> None:
    model = create_mrl(backbone, embed_dim=embed_dim, mrl_dims=mrl_dims)
    assert model(waveforms).shape == (5, embed_dim)
    assert model.mrl_dims[-1] == embed_dim


@pytest.mark.parametrize("mrl_dims", [[], [0, 16], [300], [16.0]])
def test_unusable_lengths_are_refused(backbone: ReDimNet, mrl_dims: list[int]) -> None:
    with pytest.raises(InputError, match="from 1 to embed_dim=192"):
        create_mrl(backbone, embed_dim=192, mrl_dims=mrl_dims)


def test_single_waveform_and_list_and_lengths(backbone: ReDimNet, waveforms: torch.Tensor) -> None:
    model = create_mrl(backbone)
    short, long = waveforms[0, :5000], waveforms[1]
    with torch.inference_mode():
        alone = torch.stack([model(short, target_dim=64), model(long.numpy(), target_dim=64)])
        assert model(short, target_dim=64).shape == (64,)
        as_list = model([short, long], target_dim=64)
        padded = torch.full((2, 8000), 7.0)
        padded[0, :5000], padded[1] = short, long
        as_batch = model(padded, lengths=[5000, 8000], target_dim=64)
    torch.testing.assert_close(as_list, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(as_batch, alone, rtol=1e-4, atol=1e-5)


def train_a_little(model: ReDimNetMRL, waveforms: torch.Tensor) -> None:
    model.train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (-model(waveforms)[0] @ model(waveforms)[1]).backward()
        optimizer.step()


def test_frozen_means_bit_identical_even_in_train_mode(backbone: ReDimNet, waveforms: torch.Tensor) -> None:
    model = create_mrl(backbone)
    freeze_backbone(model)
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    head = model.projection.weight.clone()
    train_a_little(model, waveforms)
    assert model.training and not model.backbone.training
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not torch.equal(model.projection.weight, head)
    assert model.backbone_is_unmodified


@pytest.mark.parametrize("statistics", ["frozen", "update"])
def test_unfreezing_trains_weights_and_statistics_as_asked(backbone: ReDimNet, waveforms: torch.Tensor, statistics: str) -> None:
    model = create_mrl(backbone, freeze_backbone=True)
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    unfreeze_backbone(model, statistics)  # type: ignore[arg-type]
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    train_a_little(model, waveforms)
    after = model.backbone.state_dict()
    assert not torch.equal(after["encoder.stem.weight"], before["encoder.stem.weight"])
    moved = [name for name in before if "running_" in name and not torch.equal(after[name], before[name])]
    assert bool(moved) == (statistics == "update")
    assert torch.equal(after["embedding.weight"], before["embedding.weight"])  # the teacher stays
    assert not model.backbone_is_unmodified
    with pytest.raises(InputError, match="'frozen' or 'update'"):
        unfreeze_backbone(model, "sometimes")  # type: ignore[arg-type]


@pytest.mark.parametrize("frozen", [True, False])
def test_what_asks_for_gradient_is_what_gets_it(backbone: ReDimNet, waveforms: torch.Tensor, frozen: bool) -> None:
    model = create_mrl(backbone, freeze_backbone=frozen).train()
    model(waveforms).square()[:, :7].sum().backward()
    with_gradient = {id(parameter) for parameter in model.parameters() if parameter.grad is not None}
    assert with_gradient == {id(parameter) for parameter in model.trainable_parameters()}
    assert with_gradient == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def test_copies_and_pickles_give_the_same_numbers(backbone: ReDimNet, waveforms: torch.Tensor) -> None:
    model = create_mrl(backbone)
    with torch.inference_mode():
        expected = model(waveforms)
        assert torch.equal(copy.deepcopy(model)(waveforms), expected)
        assert torch.equal(pickle.loads(pickle.dumps(model))(waveforms), expected)


def test_compiles_without_graph_breaks(backbone: ReDimNet, waveforms: torch.Tensor) -> None:
    model = create_mrl(backbone)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(waveforms, target_dim=64), model(waveforms, target_dim=64))


def test_to_backbone_carries_the_head_into_the_official_format(backbone: ReDimNet, waveforms: torch.Tensor) -> None:
    model = create_mrl(backbone, embed_dim=192)
    again = ReDimNet.from_official(*model.to_backbone().to_official())
    with torch.inference_mode():
        torch.testing.assert_close(again(waveforms), model.project(model.pooled_statistics(waveforms)))


def test_model_info_counts(backbone: ReDimNet) -> None:
    info = get_model_info(create_mrl(backbone, embed_dim=256, freeze_backbone=True))
    head = 256 * (backbone.pooled_dim + 1)
    assert info["projection_parameters"] == info["trainable_parameters"] == head
    assert info["parameters"] == info["backbone_parameters"] + head
    assert get_model_info(backbone)["kind"] == "ReDimNet"


def test_helpers_refuse_other_models(backbone: ReDimNet) -> None:
    with pytest.raises(InputError, match="expected a ReDimNetMRL"):
        unfreeze_backbone(backbone)  # type: ignore[arg-type]
