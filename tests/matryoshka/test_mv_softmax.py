"""MV-Arc-Softmax: against autograd, by hand, and where it becomes another loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from mrl.errors import InputError
from mrl.matryoshka import MatryoshkaLoss
from mrl.matryoshka.class_objectives import MarginSoftmax
from mrl.matryoshka.mv_softmax import MisclassifiedVectorSoftmax


def _cosines(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(6, 9, generator=random, dtype=torch.float64) * 1.6 - 0.8, torch.arange(6) % 4


@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_are_those_of_autograd(weighted: bool) -> None:
    cosines, labels = _cosines()
    objective = MisclassifiedVectorSoftmax(scale=7.0, emphasis=0.3)
    weights = torch.linspace(1.0, 3.0, 9, dtype=torch.float64) if weighted else torch.ones(9, dtype=torch.float64)
    objective = objective.with_weighted_negatives(weights) if weighted else objective
    untouched = cosines.clone()
    value = objective.evaluate(cosines, labels, 0.2)
    assert torch.equal(cosines, untouched)
    variable = cosines.clone().requires_grad_()
    own = torch.cos(torch.acos(variable.gather(1, labels.unsqueeze(1))) + 0.2)
    mistaken = variable > own
    assert 5 < int(mistaken.sum()) < 45
    logits = 7.0 * torch.where(mistaken, 1.3 * variable + 0.3, variable) + weights.log()
    logits = logits.scatter(1, labels.unsqueeze(1), 7.0 * own)
    expected = functional.cross_entropy(logits, labels)
    expected.backward()
    assert value.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(value.gradient * value.row_factor, variable.grad, rtol=1e-9, atol=1e-12)


def test_without_emphasis_it_is_aam_softmax() -> None:
    cosines, labels = _cosines(1)
    plain = MarginSoftmax(scale=12.0).evaluate(cosines.clone(), labels, 0.3)
    found = MisclassifiedVectorSoftmax(scale=12.0, emphasis=0.0).evaluate(cosines, labels, 0.3)
    assert found.loss.item() == pytest.approx(plain.loss.item(), rel=1e-12) and found.accuracy == plain.accuracy
    torch.testing.assert_close(found.gradient * found.row_factor, plain.gradient * plain.row_factor, rtol=1e-9, atol=1e-12)


def test_by_hand() -> None:
    """One class is mistaken for the own one, one is not; no margin."""
    value = MisclassifiedVectorSoftmax(scale=2.0, emphasis=0.5).evaluate(
        torch.tensor([[0.1, 0.4, -0.2]], dtype=torch.float64), torch.tensor([0]), 0.0
    )
    expected = math.log(sum(map(math.exp, (0.2, 2 * (1.5 * 0.4 + 0.5), -0.4)))) - 0.2
    assert value.loss.item() == pytest.approx(expected) and value.accuracy == 0.0


@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_at_every_prefix_by_name_and_by_object(margin: float) -> None:
    torch.manual_seed(0)
    by_name = MatryoshkaLoss([4, 8], 12, loss_type="mv_softmax", mv_emphasis=0.2, margin=margin)
    torch.manual_seed(0)
    by_object = MatryoshkaLoss([4, 8], 12, MisclassifiedVectorSoftmax(emphasis=0.2), margin=margin)
    raw, labels = torch.randn(5, 8), torch.arange(5)
    assert torch.equal(by_name(raw, labels).total, by_object(raw, labels).total)
    with torch.no_grad():
        for matrix in by_name.class_matrices:
            matrix[:, ::2] = 0.0
        raw[:, 1::2] = 0.0  # orthogonal to every class
    assert by_name(raw, labels).total.item() == pytest.approx(by_name.chance_level(), rel=1e-5)


def test_unusable_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"mv_emphasis=-0\.1 cannot be used"):
        MatryoshkaLoss([4], 3, loss_type="mv_softmax", mv_emphasis=-0.1)
    with pytest.raises(InputError, match=r"mv_emphasis cannot be set for aam; it knows margin, scale, topk, topk_penalty"):
        MatryoshkaLoss([4], 3, mv_emphasis=0.1)
