"""Losses that compare crops with each other, against plain references written from the papers' formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mrl.errors import InputError
from mrl.matryoshka import MatryoshkaLoss
from mrl.matryoshka.objectives import PAIR_LOSSES


def cosine(one: Tensor, other: Tensor) -> Tensor:
    return torch.dot(one, other) / (one.norm() * other.norm())


def with_margin(value: Tensor, margin: float) -> Tensor:
    return torch.cos(torch.acos(value) + margin) if value > math.cos(math.pi - margin) else value - math.sin(margin) * margin


def angular_prototypical(vectors: Tensor, labels: list[int], margin: float, scale: Tensor) -> Tensor:
    """Chung et al.: query j, the last crop; prototype, the mean of the others; softmax over all prototypes."""
    members = {label: [i for i, one in enumerate(labels) if one == label] for label in sorted(set(labels))}
    prototypes = {
        label: torch.stack([vectors[i] for i in (places[:-1] or places)]).mean(dim=0) for label, places in members.items()
    }
    losses = []
    for label, places in members.items():
        if len(places) > 1:
            query = vectors[places[-1]]
            logits = {other: scale * cosine(query, prototype) for other, prototype in prototypes.items()}
            logits[label] = scale * with_margin(cosine(query, prototypes[label]), margin)
            losses.append(-torch.log(torch.exp(logits[label]) / sum(torch.exp(logit) for logit in logits.values())))
    return torch.stack(losses).mean()


def supervised_contrastive(vectors: Tensor, labels: list[int], margin: float, scale: Tensor) -> Tensor:
    """Khosla et al., equation 2, with the margin on the angles of positives."""
    losses = []
    for i, label in enumerate(labels):
        positives = [j for j, other in enumerate(labels) if other == label and j != i]
        if not positives:
            continue
        values = {j: cosine(vectors[i], vectors[j]) for j in range(len(labels)) if j != i}
        values |= {j: with_margin(values[j], margin) for j in positives}
        below = sum(torch.exp(scale * value) for value in values.values())
        shares = torch.stack([torch.log(torch.exp(scale * values[j]) / below) for j in positives])
        losses.append(-shares.sum() / len(positives))
    return torch.stack(losses).mean()


REFERENCES = {"angular_prototypical": angular_prototypical, "supervised_contrastive": supervised_contrastive}


@pytest.mark.parametrize("loss_type", PAIR_LOSSES)
@given(
    seed=st.integers(0, 1000),
    margin=st.sampled_from([0.0, 0.3]),
    labels=st.lists(st.integers(0, 3), min_size=3, max_size=8).filter(lambda one: len(set(one)) < len(one)),
)
@settings(max_examples=15, deadline=None)
def test_equals_the_reference_at_every_dim_with_gradients(loss_type: str, seed: int, margin: float, labels: list[int]) -> None:
    torch.manual_seed(seed)
    loss = MatryoshkaLoss([3, 8], 4, loss_type=loss_type, margin=margin, scale=6.0, dim_weights=[1.0, 3.0]).double()
    raw = torch.randn(len(labels), 9, dtype=torch.float64, requires_grad=True)
    output = loss(raw, torch.tensor(labels))
    scales = torch.full((2,), 6.0, dtype=torch.float64) if loss.scales is None else loss.scales
    expected = [REFERENCES[loss_type](raw[:, :dim], labels, margin, scale) for dim, scale in zip((3, 8), scales, strict=True)]
    assert [output.per_dim[dim].item() for dim in (3, 8)] == pytest.approx([value.item() for value in expected], abs=1e-10)
    total = 0.25 * expected[0] + 0.75 * expected[1]
    inputs = [raw, *loss.parameters()]
    for ours, theirs in zip(torch.autograd.grad(output.total, inputs), torch.autograd.grad(total, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("loss_type", PAIR_LOSSES)
def test_gradients_by_finite_differences(loss_type: str) -> None:
    torch.manual_seed(0)
    loss = MatryoshkaLoss([2, 4], 4, loss_type=loss_type, margin=0.2, scale=5.0).double()
    raw = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 0, 1, 2])
    assert torch.autograd.gradcheck(lambda vectors: loss(vectors, labels).total, (raw,))


@pytest.mark.parametrize("loss_type", PAIR_LOSSES)
@pytest.mark.parametrize("crops", [2, 3])
def test_chance_level_is_the_loss_of_crops_orthogonal_to_each_other(loss_type: str, crops: int) -> None:
    loss = MatryoshkaLoss([12], 99, loss_type=loss_type, speakers_per_batch=4, crops_per_speaker=crops)
    output = loss(torch.eye(4 * crops, 12), torch.arange(4).repeat_interleave(crops))
    assert output.total.item() == pytest.approx(loss.chance_level(), rel=1e-5)
    assert output.accuracy[12].item() == 0.0


@pytest.mark.parametrize("loss_type", PAIR_LOSSES)
def test_separated_speakers_are_found(loss_type: str) -> None:
    torch.manual_seed(0)
    labels = torch.arange(6).repeat(3)
    raw = torch.randn(6, 16)[labels] + 0.1 * torch.randn(18, 16)
    loss = MatryoshkaLoss([8, 16], 6, loss_type=loss_type, margin=0.1, speakers_per_batch=6, crops_per_speaker=3)
    output = loss(raw, labels)
    assert output.accuracy[16].item() == 1.0
    assert output.total.item() < 0.5 * loss.chance_level()
    assert not list(loss.class_matrices)
    loss.initialise_from_class_means(raw, labels)  # nothing to start


@pytest.mark.parametrize("loss_type", PAIR_LOSSES)
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_extreme_logits_stay_finite(loss_type: str, margin: float) -> None:
    loss = MatryoshkaLoss([4], 3, loss_type=loss_type, margin=margin, scale=64.0)
    raw = torch.cat([torch.eye(4)[:2], -torch.eye(4)[:1], torch.eye(4)[1:2], torch.full((1, 4), 1e-20)]).requires_grad_()
    output = loss(raw, torch.tensor([0, 1, 0, 2, 2]))
    output.total.backward()
    assert torch.isfinite(output.total) and output.total.item() > 10
    assert raw.grad is not None and torch.isfinite(raw.grad).all()


def test_the_scale_learns_in_the_prototypical_loss_only() -> None:
    arguments: dict[str, Any] = {"dims": [2, 4], "num_classes": 3}
    prototypical = MatryoshkaLoss(**arguments, loss_type="angular_prototypical")
    assert [tuple(one.shape) for one in prototypical.parameters()] == [(2,)]
    torch.manual_seed(0)
    prototypical(torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])).total.backward()
    assert prototypical.scales is not None and prototypical.scales.grad is not None and prototypical.scales.grad.all()
    assert not list(MatryoshkaLoss(**arguments, loss_type="supervised_contrastive").parameters())


@pytest.mark.parametrize("loss_type", PAIR_LOSSES)
def test_a_batch_without_pairs_is_refused(loss_type: str) -> None:
    loss = MatryoshkaLoss([4], 5, loss_type=loss_type)
    with pytest.raises(InputError, match=r"no speaker stands twice in this batch of 3.*data\.crops_per_speaker"):
        loss(torch.randn(3, 4), torch.tensor([0, 1, 2]))
