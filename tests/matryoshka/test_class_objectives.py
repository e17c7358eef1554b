"""Losses on class cosines against plain float64 references, written from the papers' formulas one utterance after the other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from mrl.errors import InputError
from mrl.matryoshka import MatryoshkaLoss
from mrl.matryoshka.class_objectives import MarginSoftmax, SphereFace2

AAM: dict[str, Any] = {"loss_type": "aam", "scale": 10.0}
TOPK: dict[str, Any] = {**AAM, "topk_penalty": 0.1, "topk": 2}
SUBCENTER: dict[str, Any] = {**AAM, "loss_type": "subcenter_aam", "num_subcenters": 2}
SPHEREFACE2_C: dict[str, Any] = {"loss_type": "sphereface2", "scale": 8.0}
SPHEREFACE2_A: dict[str, Any] = {**SPHEREFACE2_C, "sphereface2_margin_type": "A", "sphereface2_t": 2.0, "sphereface2_lambda": 0.6}
LOSSES = {
    "aam": AAM,
    "topk": TOPK,
    "subcenter": SUBCENTER,
    "subcenter topk": {**SUBCENTER, "topk_penalty": 0.1, "topk": 2},
    "sphereface2 C": SPHEREFACE2_C,
    "sphereface2 A": SPHEREFACE2_A,
}


def reference(
    raw: Tensor, classes: Tensor, labels: Tensor, margin: float, bias: Tensor | None, options: dict[str, Any]
) -> Tensor:
    """One length's loss by angles and sums."""
    losses = []
    for vector, label in zip(raw, labels.tolist(), strict=True):
        cosines = torch.stack([vector @ center / (vector.norm() * center.norm()) for center in classes])
        cosines = torch.stack([max(centers) for centers in cosines.view(-1, options.get("num_subcenters", 1))])
        if options["loss_type"] == "sphereface2":
            assert bias is not None
            losses.append(_sphereface2(cosines, label, margin, bias, options))
        else:
            losses.append(_aam(cosines, label, margin, options))
    return torch.stack(losses).mean()


def _aam(cosines: Tensor, label: int, margin: float, options: dict[str, Any]) -> Tensor:
    others = [(cosine.item(), index) for index, cosine in enumerate(cosines) if index != label]
    hard = {index for _, index in sorted(others, reverse=True)[: options.get("topk", 0)]}
    logits = []
    for index, cosine in enumerate(cosines):
        value = cosine
        if index == label and margin > 0:
            angle = torch.acos(cosine)
            below = math.pi - margin
            value = torch.cos(angle + margin) if angle < below else cosine - math.sin(below) * margin
        elif index in hard:
            value = _nearer(cosine, options["topk_penalty"])
        logits.append(options["scale"] * value)
    return -functional.log_softmax(torch.stack(logits), dim=0)[label]


def _nearer(cosine: Tensor, margin: float) -> Tensor:
    """At an angle smaller by the margin; what lies nearer goes on linearly (ours: the papers stop or turn back)."""
    angle = torch.acos(cosine)
    return torch.cos(angle - margin) if angle > margin else cosine + 1 - math.cos(margin)


def _sphereface2(cosines: Tensor, label: int, margin: float, bias: Tensor, options: dict[str, Any]) -> Tensor:
    share, exponent = options.get("sphereface2_lambda", 0.7), options.get("sphereface2_t", 3.0)
    total = torch.zeros((), dtype=cosines.dtype)
    for index, cosine in enumerate(cosines):
        sign = 1.0 if index == label else -1.0
        if options.get("sphereface2_margin_type", "C") == "C":
            similarity = 2 * ((cosine + 1) / 2) ** exponent - 1 - sign * margin
        elif index == label:
            similarity = 2 * ((torch.cos((torch.acos(cosine) + margin).clamp(max=math.pi)) + 1) / 2) ** exponent - 1
        else:
            similarity = 2 * ((_nearer(cosine, margin) + 1) / 2) ** exponent - 1
        weight = share if index == label else 1 - share
        total = total + weight * torch.log(1 + torch.exp(-sign * (options["scale"] * similarity + bias)))
    return total


@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES.keys())
@given(seed=st.integers(0, 1000), margin=st.sampled_from([0.0, 0.2, 0.4]), shared=st.booleans())
@settings(max_examples=8, deadline=None)
def test_equals_the_reference_at_every_dim_with_gradients(
    options: dict[str, Any], seed: int, margin: float, shared: bool
) -> None:
    torch.manual_seed(seed)
    loss = MatryoshkaLoss([3, 8], 5, margin=margin, shared_classes=shared, dim_weights=[0.25, 0.75], **options).double()
    raw = torch.randn(6, 10, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(5, (6,))
    output = loss(raw, labels)
    matrices = [loss.class_matrices[0][:, :3], loss.class_matrices[0]] if shared else list(loss.class_matrices)
    biases = [None, None] if loss.biases is None else list(loss.biases)
    expected = [
        reference(raw[:, :dim], matrix, labels, margin, bias, options)
        for dim, matrix, bias in zip((3, 8), matrices, biases, strict=True)
    ]
    assert [output.per_dim[dim].item() for dim in (3, 8)] == pytest.approx([value.item() for value in expected], rel=1e-8)
    total = 0.25 * expected[0] + 0.75 * expected[1]
    assert output.total.item() == pytest.approx(total.item(), rel=1e-8)
    inputs = [raw, *loss.parameters()]
    assert len(inputs) == 1 + len(matrices) - shared + (loss.biases is not None)
    for ours, theirs in zip(torch.autograd.grad(3 * output.total, inputs), torch.autograd.grad(total, inputs), strict=True):
        torch.testing.assert_close(ours, 3 * theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES.keys())
def test_gradients_by_finite_differences(options: dict[str, Any], shared: bool) -> None:
    torch.manual_seed(0)
    loss = MatryoshkaLoss([2, 4], 4, margin=0.3, shared_classes=shared, **options).double()
    raw = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 1])
    names = [name for name, _ in loss.named_parameters()]

    def total(vectors: Tensor, *values: Tensor) -> Tensor:
        called = torch.func.functional_call(loss, dict(zip(names, values, strict=True)), (vectors, labels))
        return called.total  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(total, (raw, *loss.parameters()))


@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES.keys())
def test_chance_level_is_the_loss_of_vectors_orthogonal_to_all_classes(options: dict[str, Any]) -> None:
    loss = MatryoshkaLoss([8, 16], 7, margin=0.2, **options)
    with torch.no_grad():
        for matrix in loss.class_matrices:
            matrix[:, -1] = 0.0
    raw = torch.zeros(2, 16)
    raw[:, [7, 15]] = torch.tensor([0.0, 1.0])
    raw[:, 7] = 1.0
    with torch.no_grad():
        loss.class_matrices[1][:, 7] = 0.0
    output = loss(raw, torch.tensor([1, 4]))
    assert output.total.item() == pytest.approx(loss.chance_level(), rel=1e-5)
    assert output.accuracy[16].item() == 0.0  # a tie with everything is no hit


@pytest.mark.parametrize("margin_type", ["C", "A"])
@pytest.mark.parametrize("num_classes", [2, 5, 6000])
def test_the_first_bias_is_the_best_one_without_knowledge(margin_type: str, num_classes: int) -> None:
    objective = SphereFace2(32.0, margin_type=margin_type)
    start = objective.initial_bias(num_classes, 0.2)
    cosines = torch.zeros(1, num_classes, dtype=torch.float64)

    def loss(bias: float) -> float:
        return objective.evaluate(cosines, torch.tensor([1]), 0.2, torch.tensor(bias, dtype=torch.float64)).loss.item()

    assert loss(start) == pytest.approx(objective.uninformed_loss(num_classes, 0.2), rel=1e-9)
    assert loss(start) < min(loss(start - 0.05), loss(start + 0.05))
    found = objective.evaluate(cosines, torch.tensor([1]), 0.2, torch.tensor(start, dtype=torch.float64))
    assert found.bias_gradient is not None and abs(found.bias_gradient.item()) < 1e-9


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES.keys())
def test_extreme_logits_stay_finite(options: dict[str, Any], margin: float) -> None:
    loss = MatryoshkaLoss([4], 6, margin=margin, **{**options, "scale": 64.0})
    centers = torch.eye(4).repeat_interleave(loss.num_subcenters, dim=0)
    with torch.no_grad():
        rows = torch.cat([centers, -centers[: 2 * loss.num_subcenters]])
        loss.class_matrices[0].copy_(rows)
    # on the own class, opposite to it, on another's, and nearly nothing
    raw = torch.stack([torch.eye(4)[0], -torch.eye(4)[1], torch.eye(4)[2], torch.full((4,), 1e-20)]).requires_grad_()
    output = loss(raw, torch.tensor([0, 1, 3, 3]))
    output.total.backward()
    assert torch.isfinite(output.total) and output.total.item() > 0
    assert raw.grad is not None and torch.isfinite(raw.grad).all()
    assert all(value.grad is not None and torch.isfinite(value.grad).all() for value in loss.parameters())


def test_the_penalty_raises_the_hardest_classes_of_others_only() -> None:
    cosines = torch.tensor([[0.9, 0.5, 0.1, 0.4, -0.2]], dtype=torch.float64)
    label = torch.tensor([2])
    plain = MarginSoftmax(10.0).evaluate(cosines, label, 0.0)
    hard = MarginSoftmax(10.0, topk_penalty=0.06, topk=2).evaluate(cosines, label, 0.0)
    logits = [math.cos(math.acos(0.9) - 0.06), math.cos(math.acos(0.5) - 0.06), 0.1, 0.4, -0.2]
    expected = math.log(sum(math.exp(10 * value) for value in logits)) - 1.0
    assert hard.loss.item() == pytest.approx(expected, rel=1e-12)
    assert plain.loss.item() < hard.loss.item()
    assert cosines.tolist() == [[0.9, 0.5, 0.1, 0.4, -0.2]]  # left as they were
    more = MarginSoftmax(10.0, topk_penalty=0.06, topk=50).evaluate(cosines, label, 0.0)
    assert more.loss.item() > hard.loss.item()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_type": "sphereface2", "sphereface2_lambda": 1.0}, "sphereface2_lambda=1.0"),
        ({"loss_type": "sphereface2", "sphereface2_t": 0.5}, "sphereface2_t=0.5"),
        ({"loss_type": "sphereface2", "sphereface2_margin_type": "M"}, "expected 'A' or 'C'"),
        ({"loss_type": "sphereface2", "topk_penalty": 0.06}, "no meaning for sphereface2"),
        ({"topk_penalty": -0.1}, "topk_penalty=-0.1"),
        ({"topk": 0}, "topk=0"),
    ],
)
def test_unusable_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MatryoshkaLoss([4], 5, **options)
