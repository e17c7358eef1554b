"""Losses against a plain float64 reference, and the properties that training relies on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from mrl.errors import InputError
from mrl.matryoshka import MatryoshkaLoss, SimilarityPreservationLoss
from mrl.matryoshka.losses import shared_prefix_cosines
from mrl.matryoshka.margin import additive_angular_logits


def reference_loss(raw: torch.Tensor, classes: torch.Tensor, labels: torch.Tensor, margin: float, scale: float) -> torch.Tensor:
    """AAM-Softmax by its definition, one utterance after the other, by angles."""
    losses = []
    for vector, label in zip(raw, labels.tolist(), strict=True):
        logits = []
        for index, center in enumerate(classes):
            cosine = vector @ center / (vector.norm() * center.norm())
            if index == label and margin > 0:
                angle = torch.acos(cosine)
                below = math.pi - margin
                cosine = torch.cos(angle + margin) if angle < below else cosine - math.sin(below) * margin
            logits.append(scale * cosine)
        losses.append(-functional.log_softmax(torch.stack(logits), dim=0)[label])
    return torch.stack(losses).mean()


@given(seed=st.integers(0, 1000), margin=st.sampled_from([0.0, 0.2, 0.5]), shared=st.booleans())
@settings(max_examples=20, deadline=None)
def test_equals_the_reference_at_every_dim_with_gradients(seed: int, margin: float, shared: bool) -> None:
    torch.manual_seed(seed)
    loss = MatryoshkaLoss([3, 8], 5, margin=margin, scale=10.0, shared_classes=shared).double()
    raw = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(5, (6,))
    output = loss(raw, labels)
    matrices = [loss.class_matrices[0][:, :3], loss.class_matrices[0]] if shared else list(loss.class_matrices)
    expected = [reference_loss(raw[:, :dim], matrix, labels, margin, 10.0) for dim, matrix in zip((3, 8), matrices, strict=True)]
    assert [output.per_dim[dim].item() for dim in (3, 8)] == pytest.approx([value.item() for value in expected], rel=1e-6)
    total = (expected[0] + expected[1]) / 2
    assert output.total.item() == pytest.approx(total.item(), rel=1e-6)
    inputs = [raw, *loss.class_matrices]
    for ours, theirs in zip(torch.autograd.grad(output.total, inputs), torch.autograd.grad(total, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


def test_gradients_by_finite_differences() -> None:
    torch.manual_seed(0)
    loss = MatryoshkaLoss([2, 4], 3, loss_type="subcenter_aam", num_subcenters=2, margin=0.3, scale=5.0).double()
    raw = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 1])
    assert torch.autograd.gradcheck(lambda vectors: loss(vectors, labels).total, (raw,))


def test_margin_beyond_pi_goes_on_falling() -> None:
    angles = torch.linspace(0.01, math.pi - 0.001, 400, dtype=torch.float64)
    logits = additive_angular_logits(torch.cos(angles).unsqueeze(1), torch.zeros(400, dtype=torch.long), 0.5, 1.0)
    assert (logits.squeeze(1).diff() < 0).all()


def test_shared_prefix_cosines_are_those_of_the_prefixes() -> None:
    torch.manual_seed(0)
    raw, classes = torch.randn(7, 32), torch.randn(11, 32)
    for dim, cosines in shared_prefix_cosines(raw, classes, (4, 5, 32)):
        expected = functional.normalize(raw[:, :dim], dim=1) @ functional.normalize(classes[:, :dim], dim=1).T
        torch.testing.assert_close(cosines, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss_type", ["aam", "subcenter_aam"])
def test_chance_level_is_the_loss_of_vectors_orthogonal_to_all_classes(loss_type: str) -> None:
    loss = MatryoshkaLoss([4], 2, loss_type=loss_type, margin=0.2, scale=30.0, num_subcenters=1)  # type: ignore[arg-type]
    with torch.no_grad():
        loss.class_matrices[0].copy_(torch.eye(4)[:2])
    raw = torch.tensor([[0.0, 0.0, 1.0, 2.0]])
    assert loss(raw, torch.tensor([1])).total.item() == pytest.approx(loss.chance_level(), rel=1e-5)


def test_class_matrices_learn() -> None:
    torch.manual_seed(0)
    centers = torch.randn(8, 16)
    labels = torch.arange(8).repeat(20)
    raw = centers[labels] + 0.3 * torch.randn(160, 16)
    loss = MatryoshkaLoss([4, 16], 8, scale=15.0)
    assert len(list(loss.parameters())) == 2
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    start = loss(raw, labels).total.item()
    for _ in range(100):
        optimizer.zero_grad()
        loss(raw, labels).total.backward()
        optimizer.step()
    output = loss(raw, labels)
    assert output.total.item() < 0.35 * start
    assert output.accuracy[16].item() > 0.95


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("loss_type", ["aam", "subcenter_aam"])
def test_class_means_are_a_good_start(loss_type: str, shared: bool) -> None:
    torch.manual_seed(0)
    labels = torch.arange(6).repeat(10)
    raw = torch.randn(7, 16)[labels] + 0.2 * torch.randn(60, 16)
    loss = MatryoshkaLoss([8, 16], 7, loss_type=loss_type, shared_classes=shared)  # type: ignore[arg-type]
    untouched = loss.class_matrices[-1].detach().clone()
    loss.initialise_from_class_means(raw, labels)
    output = loss(raw, labels)
    assert output.accuracy[16].item() == 1.0
    assert output.total.item() < 0.5 * loss.chance_level()
    per_class = loss.num_subcenters
    assert torch.equal(loss.class_matrices[-1][6 * per_class :], untouched[6 * per_class :])  # class 6 has no utterance
    mean = functional.normalize(functional.normalize(raw[labels == 2], dim=1).mean(dim=0), dim=0)
    torch.testing.assert_close(loss.class_matrices[-1][2 * per_class].detach(), mean)


@pytest.mark.parametrize("shared", [True, False])
def test_zero_rows_of_the_head_can_learn(shared: bool) -> None:
    torch.manual_seed(0)
    labels = torch.arange(6).repeat(10)
    features = torch.randn(6, 12)[labels] + 0.5 * torch.randn(60, 12)
    head = nn.Linear(12, 12, bias=False)
    with torch.no_grad():
        head.weight[8:] = 0.0
    loss = MatryoshkaLoss([8, 12], 6, shared_classes=shared)
    loss.initialise_from_class_means(head(features), labels)
    before = loss(head(features), labels)
    assert before.per_dim[12].item() == pytest.approx(before.per_dim[8].item(), rel=0.05)
    before.total.backward()
    assert head.weight.grad is not None and head.weight.grad[8:].abs().max() > 1e-4


def test_weights_and_margins_per_dim() -> None:
    loss = MatryoshkaLoss([64, 16], 4, dim_weights=[1.0, 3.0], margins={16: 0.1})
    assert loss.dim_weights == {16: 0.75, 64: 0.25}
    assert loss.margins == {64: 0.2, 16: 0.1}
    loss.set_margin(0.4)
    assert loss.margins == {64: 0.4, 16: 0.4}


def test_zero_weight_dims_get_no_gradient() -> None:
    loss = MatryoshkaLoss([2, 4], 3, dim_weights={2: 0.0})
    loss(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).total.backward()
    assert not loss.class_matrices[0].grad.any()  # type: ignore[union-attr]
    assert loss.class_matrices[1].grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"dims": []}, "dims="),
        ({"dims": [4, 4]}, "dims="),
        ({"num_classes": 1}, "at least 2"),
        ({"loss_type": "softmax"}, "expected 'aam' or 'subcenter_aam'"),
        ({"margin": -0.1}, "0 to 1.5"),
        ({"margin": math.nan}, "0 to 1.5"),
        ({"scale": 0.0}, "positive"),
        ({"dim_weights": [1.0]}, "1 values for 2 dims"),
        ({"dim_weights": {8: 1.0}}, "not among"),
        ({"dim_weights": [-1.0, 2.0]}, "none is negative"),
        ({"loss_type": "subcenter_aam", "num_subcenters": 0}, "positive"),
    ],
)
def test_unusable_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    settings_: dict[str, object] = {"dims": [2, 4], "num_classes": 3, **arguments}
    with pytest.raises(InputError, match=message):
        MatryoshkaLoss(**settings_)  # type: ignore[arg-type]


def test_shapes_that_do_not_fit_are_refused() -> None:
    loss = MatryoshkaLoss([2, 4], 3)
    with pytest.raises(InputError, match="do not fit"):
        loss(torch.randn(5, 3), torch.zeros(5, dtype=torch.long))
    with pytest.raises(InputError, match="do not fit"):
        loss(torch.randn(5, 4), torch.zeros(4, dtype=torch.long))


def test_half_precision_input_is_computed_in_full() -> None:
    torch.manual_seed(0)
    loss = MatryoshkaLoss([8], 4)
    raw = torch.randn(6, 8)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(raw, labels).total.item() == loss(raw, labels).total.item()
        half = loss(raw.bfloat16(), labels).total
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss(raw, labels).total.item(), rel=0.05)


def test_similarity_preservation_is_the_mean_square_of_cosine_differences() -> None:
    torch.manual_seed(0)
    raw, teacher = torch.randn(4, 6), torch.randn(4, 9)
    expected = 0.0
    for dim, weight in ((2, 0.25), (6, 0.75)):
        squares = []
        for first in range(4):
            for second in range(first + 1, 4):
                ours = functional.cosine_similarity(raw[first, :dim], raw[second, :dim], dim=0)
                theirs = functional.cosine_similarity(teacher[first], teacher[second], dim=0)
                squares.append((ours - theirs).item() ** 2)
        expected += weight * sum(squares) / len(squares)
    loss = SimilarityPreservationLoss([2, 6], dim_weights=[1.0, 3.0])
    assert loss(raw, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert loss(teacher[:, :6], teacher[:, :6]).item() > 0
    assert SimilarityPreservationLoss([9])(teacher, teacher).item() == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(InputError, match="at least 2"):
        loss(raw[:1], teacher[:1])


def test_similarity_preservation_trains_a_prefix_to_follow_the_teacher() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(64, 12) @ torch.diag(0.7 ** torch.arange(12)) @ torch.linalg.qr(torch.randn(12, 12)).Q
    head = nn.Linear(12, 12, bias=False)
    loss = SimilarityPreservationLoss([4])
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    start = loss(head(teacher), teacher).item()
    for _ in range(200):
        optimizer.zero_grad()
        loss(head(teacher), teacher).backward()
        optimizer.step()
    assert loss(head(teacher), teacher).item() < 0.25 * start
