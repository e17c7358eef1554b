"""Logistic regression, against scikit-learn and by its own optimality."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from mrl.errors import DataError, InputError
from mrl.scoring.logistic import fit_logistic


def some_data(seed: int, count: int = 300, features: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((count, features))
    labels = x @ generator.normal(size=features) + generator.logistic(size=count) > 0.5
    labels[:2] = True, False
    return x, labels, generator.uniform(0.1, 2.0, count)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("offset", [0.0, -4.6])
@pytest.mark.parametrize("l2", [1e-4, 1.0])
def test_against_scikit_learn(seed: int, offset: float, l2: float) -> None:
    x, labels, weights = some_data(seed)
    other = LogisticRegression(C=1 / l2, tol=1e-12, solver="newton-cholesky", max_iter=1000).fit(x, labels, weights)
    found = fit_logistic(x, labels, weights, offset=offset, l2=l2)
    np.testing.assert_allclose(found.weights, other.coef_[0], atol=1e-6)
    assert found.intercept + offset == pytest.approx(other.intercept_[0], abs=1e-6)


@given(seed=st.integers(0, 10_000), offset=st.floats(-8, 8), power=st.floats(-8, 1))
@settings(max_examples=40, deadline=None)
def test_the_gradient_vanishes(seed: int, offset: float, power: float) -> None:
    x, labels, weights = some_data(seed, count=30, features=2)
    found = fit_logistic(x, labels, weights, offset=offset, l2=10**power)
    signs = np.where(labels, 1.0, -1.0)
    wrong = 1 / (1 + np.exp(signs * (x @ found.weights + found.intercept + offset)))
    residual = -weights * signs * wrong
    assert np.abs(residual @ x + 10**power * found.weights).max() < 1e-6
    assert abs(residual.sum()) < 1e-6


@pytest.mark.parametrize("gap", [1e-3, 1.0, 100.0])
def test_separable_classes_have_a_finite_answer(gap: float) -> None:
    x = np.concatenate([np.linspace(-1, -gap / 2, 20), np.linspace(gap / 2, 1 + gap, 20)])[:, None]
    labels = x[:, 0] > 0
    found = fit_logistic(x, labels, np.full(40, 1 / 40), l2=1e-6)
    assert np.isfinite(found.weights).all() and np.isfinite(found.intercept) and found.weights[0] > 0
    softer = fit_logistic(x, labels, np.full(40, 1 / 40), l2=1e-2)
    assert 0 < softer.weights[0] < found.weights[0]


def test_no_information_gives_the_offset_back() -> None:
    labels = np.arange(10) < 5
    found = fit_logistic(np.zeros((10, 2)), labels, np.full(10, 0.1), offset=-3.0)
    assert found.weights.tolist() == [0.0, 0.0]
    assert found.intercept == pytest.approx(3.0)


def test_refusals() -> None:
    x, labels, weights = some_data(0, 10)
    with pytest.raises(DataError, match="both classes"):
        fit_logistic(x, np.ones(10, bool), weights)
    with pytest.raises(DataError, match="NaN"):
        fit_logistic(np.where(np.arange(10)[:, None] == 3, np.nan, x), labels, weights)
    with pytest.raises(DataError, match="NaN, infinite or negative"):
        fit_logistic(x, labels, -weights)
    for bad in ({"l2": 0.0}, {"row_weights": weights[:3]}, {"labels": labels[:3]}):
        with pytest.raises(InputError, match="l2 > 0"):
            fit_logistic(**{"features": x, "labels": labels, "row_weights": weights, **bad})
