"""Weighted, slightly regularised logistic regression by Newton's method, in float64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mrl.errors import DataError, InputError

FloatVector = npt.NDArray[np.float64]
FloatMatrix = npt.NDArray[np.float64]

_MOST_STEPS = 200

# A Newton step that would lower the cost by less than this share of it is in the region of quadratic convergence.
_NEAR = 1e-10

# Keeps the step finite where every probability is 0 or 1 in float64.
_INTERCEPT_RIDGE = 1e-14


class LogisticFit(NamedTuple):
    """Log-odds of a row x are ``x @ weights + intercept + offset``."""

    weights: FloatVector
    intercept: float


def fit_logistic(
    features: npt.ArrayLike, labels: npt.ArrayLike, row_weights: npt.ArrayLike, *, offset: float = 0.0, l2: float = 1e-6
) -> LogisticFit:
    """Minimise ``sum_i w_i log(1 + exp(-y_i (x_i @ b + b0 + offset))) + l2 / 2 * |b|^2`` with y = +1 or -1, by Newton's method.

    The penalty (not on the intercept b0) makes the problem strictly convex, so that separable classes have a finite solution too.

    Args:
        features: (rows, features); best standardised, for the penalty treats all columns alike.
        labels: (rows,) true for the class whose log-odds rise.
        row_weights: (rows,) at or above 0.
        offset: a known part of the log-odds, such as those of a prior.
        l2: strength of the penalty, above 0.

    Raises:
        DataError: a value is not finite, or only one class has weight.
        InputError: shapes do not fit or l2 is not above 0.
    """
    x = np.asarray(features, dtype=np.float64)
    same = np.asarray(labels, dtype=np.bool_)
    weights = np.asarray(row_weights, dtype=np.float64)
    if x.ndim != 2 or same.shape != (len(x),) or weights.shape != (len(x),) or not l2 > 0:
        raise InputError(
            f"expected features (rows, n), one label and weight per row, and l2 > 0; found {x.shape}, {same.shape}, "
            f"{weights.shape} and l2={l2}"
        )
    if not (np.isfinite(x).all() and np.isfinite(weights).all() and (weights >= 0).all()):
        raise DataError("a feature or weight is NaN, infinite or negative; a regression over them would be meaningless")
    if not (weights[same].sum() > 0 and weights[~same].sum() > 0):
        raise DataError("a logistic regression needs rows of both classes")
    design = np.column_stack([x, np.ones(len(x))])
    signs = np.where(same, 1.0, -1.0)
    penalty = np.append(np.full(x.shape[1], l2), 0.0)
    solution = np.zeros(design.shape[1])
    cost = _cost(solution, design, signs, weights, penalty, offset)
    last_gradient = np.inf
    for _ in range(_MOST_STEPS):
        wrong = _sigmoid(-signs * (design @ solution + offset))
        gradient = design.T @ (-weights * signs * wrong) + penalty * solution
        largest = float(np.abs(gradient).max())
        curvature = weights * wrong * (1.0 - wrong)
        hessian = (design.T * curvature) @ design + np.diag(penalty)
        hessian[-1, -1] += _INTERCEPT_RIDGE
        step = np.linalg.solve(hessian, gradient)
        decrement = float(gradient @ step)
        # Where the cost can fall by its own rounding only, it cannot judge steps any more: the gradient does.
        near = decrement <= _NEAR * cost
        if largest == 0.0 or (near and largest >= 0.5 * last_gradient):
            return LogisticFit(solution[:-1], float(solution[-1]))
        last_gradient = largest if near else np.inf
        length = 1.0
        while not near:
            trial_cost = _cost(solution - length * step, design, signs, weights, penalty, offset)
            if trial_cost <= cost - 1e-4 * length * decrement:
                break
            length /= 2
        solution = solution - length * step
        cost = _cost(solution, design, signs, weights, penalty, offset)
    raise DataError(f"the logistic regression has not converged in {_MOST_STEPS} steps; scale the features or raise l2 ({l2:g})")


def _cost(
    solution: FloatVector, design: FloatMatrix, signs: FloatVector, weights: FloatVector, penalty: FloatVector, offset: float
) -> float:
    margins = signs * (design @ solution + offset)
    return float(weights @ np.logaddexp(0.0, -margins) + 0.5 * (penalty * solution) @ solution)


def _sigmoid(values: FloatVector) -> FloatVector:
    return np.exp(-np.logaddexp(0.0, -values))
