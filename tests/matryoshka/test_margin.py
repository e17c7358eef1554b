"""Margins by their definition, and the slopes that go with them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from mrl.matryoshka.class_objectives import lowered, raised

Move = Callable[[torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]]


@pytest.mark.parametrize("margin", [0.0, 0.06, 0.5])
def test_margins_move_the_angle(margin: float) -> None:
    angles = torch.linspace(margin + 0.01, math.pi - margin - 0.01, 200, dtype=torch.float64)
    torch.testing.assert_close(lowered(angles.cos(), margin)[0], (angles + margin).cos())
    torch.testing.assert_close(raised(angles.cos(), margin)[0], (angles - margin).cos())


@pytest.mark.parametrize("move", [lowered, raised])
def test_order_is_kept_over_the_whole_circle(move: Move) -> None:
    cosines = torch.linspace(0.01, math.pi - 0.01, 800, dtype=torch.float64).cos()
    moved, slopes = move(cosines, 0.5)
    assert (moved.diff() < 0).all()
    assert (slopes > 0).all()


@pytest.mark.parametrize("move", [lowered, raised])
def test_slopes_are_those_of_the_values(move: Move) -> None:
    cosines = torch.linspace(-0.999, 0.999, 300, dtype=torch.float64)
    step = 1e-7
    numeric = (move(cosines + step, 0.3)[0] - move(cosines - step, 0.3)[0]) / (2 * step)
    torch.testing.assert_close(move(cosines, 0.3)[1], numeric, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("move", [lowered, raised])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_are_finite(move: Move, dtype: torch.dtype) -> None:
    values, slopes = move(torch.tensor([-1.0000002, -1.0, 0.0, 1.0, 1.0000002], dtype=dtype), 0.2)
    assert torch.isfinite(values).all() and torch.isfinite(slopes).all()
