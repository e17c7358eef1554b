"""The label-free loss by its definition, and that it teaches."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from mrl.errors import InputError
from mrl.matryoshka import SimilarityPreservationLoss


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


def test_gradients_by_finite_differences() -> None:
    torch.manual_seed(0)
    loss = SimilarityPreservationLoss([2, 5], dim_weights={2: 3.0})
    raw, teacher = torch.randn(4, 5, dtype=torch.float64, requires_grad=True), torch.randn(4, 7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda vectors: loss(vectors, teacher), (raw,))
