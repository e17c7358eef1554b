"""Error rates, against brute force, hand-made cases and scikit-learn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss, roc_auc_score, roc_curve

from mrl.errors import DataError, InputError
from mrl.scoring import (
    actual_dcf,
    cllr,
    convex_hull_equal_error_rate,
    equal_error_rate,
    error_curve,
    minimum_cllr,
    minimum_dcf,
    true_accept_rate,
)


@st.composite
def scored_trials(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores on a coarse grid (many ties) or a fine one, with both kinds of trial."""
    grid = draw(st.sampled_from([2, 5, 1000]))
    scores = draw(st.lists(st.integers(-grid, grid), min_size=2, max_size=40))
    labels = draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    assume(any(labels) and not all(labels))
    return np.array(scores) / grid, np.array(labels)


def _rates(scores: np.ndarray, labels: np.ndarray) -> list[tuple[float, float]]:
    """(false accepts, false rejects) at every threshold that makes a difference, by counting."""
    thresholds = [*sorted(set(scores.tolist())), math.inf]
    return [(float(np.mean(scores[~labels] >= t)), float(np.mean(scores[labels] < t))) for t in thresholds]


def _brute_equal_error_rate(scores: np.ndarray, labels: np.ndarray) -> float:
    points = _rates(scores, labels)
    for (a0, r0), (a1, r1) in itertools.pairwise(points):
        if r0 < a0 and r1 >= a1:
            share = (a0 - r0) / ((a0 - r0) + (r1 - a1))
            return r0 + share * (r1 - r0)
    raise AssertionError("no crossing")


def _brute_hull_equal_error_rate(scores: np.ndarray, labels: np.ndarray) -> float:
    """The lowest crossing with the diagonal of any line between two operating points."""
    points, best = _rates(scores, labels), 1.0
    for (a0, r0), (a1, r1) in itertools.product(points, points):
        if r0 <= a0 and r1 >= a1:
            gap = (a0 - r0) + (r1 - a1)
            share = (a0 - r0) / gap if gap else 0.0
            best = min(best, r0 + share * (r1 - r0))
    return best


@settings(max_examples=150, deadline=None)
@given(scored_trials())
def test_against_brute_force(trials: tuple[np.ndarray, np.ndarray]) -> None:
    scores, labels = trials
    curve, points = error_curve(scores, labels), _rates(scores, labels)
    np.testing.assert_allclose(np.stack([curve.false_accept, curve.false_reject], 1), points, rtol=0, atol=1e-15)
    assert equal_error_rate(scores, labels) == pytest.approx(_brute_equal_error_rate(scores, labels), abs=1e-12)
    hull = convex_hull_equal_error_rate(scores, labels)
    assert hull == pytest.approx(_brute_hull_equal_error_rate(scores, labels), abs=1e-12)
    assert hull <= equal_error_rate(scores, labels) + 1e-12
    for p_target, c_miss, c_fa in ((0.01, 1, 1), (0.05, 1, 1), (0.5, 10, 1), (0.9, 1, 3)):
        cost = min(c_miss * p_target * r + c_fa * (1 - p_target) * a for a, r in points) / min(
            c_miss * p_target, c_fa * (1 - p_target)
        )
        assert minimum_dcf(scores, labels, p_target, c_miss=c_miss, c_fa=c_fa) == pytest.approx(cost, abs=1e-12)
    for allowed in (0.0, 0.01, 0.1, 0.5, 1.0):
        best = max(1 - r for a, r in points if a <= allowed)
        assert true_accept_rate(scores, labels, allowed) == pytest.approx(best, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(scored_trials())
def test_threshold_at_equal_error_gives_the_more_equal_of_the_two_neighbouring_points(
    trials: tuple[np.ndarray, np.ndarray],
) -> None:
    scores, labels = trials
    threshold = error_curve(scores, labels).equal_error_threshold()
    found = abs(float(np.mean(scores[~labels] >= threshold)) - float(np.mean(scores[labels] < threshold)))
    assert found == pytest.approx(min(abs(a - r) for a, r in _rates(scores, labels)), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(scored_trials())
def test_minimum_cllr_is_that_of_isotonic_regression(trials: tuple[np.ndarray, np.ndarray]) -> None:
    """Independent: scikit-learn's isotonic regression and log loss, both kinds of trial weighing the same in all."""
    scores, labels = trials
    weights = np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum())
    posterior = IsotonicRegression(y_min=0, y_max=1).fit_transform(scores, labels.astype(float), sample_weight=weights)
    expected = log_loss(labels, np.clip(posterior, 1e-15, 1 - 1e-15), sample_weight=weights) / math.log(2)
    assert minimum_cllr(scores, labels) == pytest.approx(expected, abs=1e-9)


@given(scored_trials())
@settings(max_examples=60, deadline=None)
def test_area_under_the_curve_is_the_share_of_pairs_in_order(trials: tuple[np.ndarray, np.ndarray]) -> None:
    scores, labels = trials
    pairs = scores[labels][:, None] - scores[~labels][None, :]
    expected = np.mean((pairs > 0) + 0.5 * (pairs == 0))
    area = error_curve(scores, labels).area_under_curve()
    assert area == pytest.approx(expected, abs=1e-12) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("decimals", [8, 1])
def test_against_scikit_learn(decimals: int) -> None:
    random = np.random.default_rng(0)
    labels = random.random(5000) < 0.2
    scores = np.round(random.standard_normal(5000) + 1.7 * labels, decimals)
    false_accept, true_accept, _ = roc_curve(labels, scores, drop_intermediate=False)
    curve = error_curve(scores, labels)
    np.testing.assert_allclose(curve.false_accept[::-1], false_accept, atol=1e-12)
    np.testing.assert_allclose(curve.false_reject[::-1], 1 - true_accept, atol=1e-12)
    gap = 1 - true_accept - false_accept
    first = int(np.argmax(gap <= 0))
    share = gap[first - 1] / (gap[first - 1] - gap[first])
    expected = false_accept[first - 1] + share * (false_accept[first] - false_accept[first - 1])
    assert curve.equal_error_rate() == pytest.approx(expected, abs=1e-12)
    assert curve.minimum_dcf(0.05) == pytest.approx(np.min(0.05 * (1 - true_accept) + 0.95 * false_accept) / 0.05, abs=1e-12)


def test_hull_of_many_points_is_that_of_the_plain_stack() -> None:
    from mrl.scoring.metrics import lower_left_hull

    random = np.random.default_rng(3)
    for size in (10, 500, 20_000):
        x, y = np.sort(random.random(size)), np.sort(random.random(size))[::-1]
        corners: list[int] = []
        for point in range(size):
            while len(corners) > 1:
                a, b = corners[-2], corners[-1]
                if (x[b] - x[a]) * (y[point] - y[a]) > (y[b] - y[a]) * (x[point] - x[a]):
                    break
                corners.pop()
            corners.append(point)
        assert lower_left_hull(x, y).tolist() == corners
    quarter = np.linspace(0, np.pi / 2, 2000)  # every point of this arc is a corner
    assert len(lower_left_hull(1 - np.cos(quarter), 1 - np.sin(quarter))) == 2000


def test_hand_made_cases() -> None:
    # One target of four lies below one non-target of four: 25 % at equality.
    scores, labels = [0.9, 0.8, 0.7, 0.3, 0.4, 0.2, 0.1, 0.0], [1, 1, 1, 1, 0, 0, 0, 0]
    assert equal_error_rate(scores, labels) == 0.25
    assert convex_hull_equal_error_rate(scores, labels) == pytest.approx(0.125)
    assert true_accept_rate(scores, labels, 0.0) == 0.75
    assert true_accept_rate(scores, labels, 0.25) == 1.0
    # At prior 0.01 false accepts are dear: reject one target (0.25) rather than accept one non-target (99 / 4).
    assert minimum_dcf(scores, labels, 0.01) == pytest.approx(0.25)
    assert minimum_dcf(scores, labels, 0.99) == pytest.approx(0.25)


def test_perfect_useless_and_inverted_scores() -> None:
    labels = [True] * 3 + [False] * 5
    perfect = [3.0, 2.5, 2.0, 1.0, 0.0, -1.0, 0.5, 0.2]
    assert equal_error_rate(perfect, labels) == 0.0
    assert error_curve(perfect, labels).equal_error_threshold() == 1.5
    assert minimum_dcf(perfect, labels, 0.01) == 0.0
    assert minimum_cllr(perfect, labels) == 0.0
    tied = [0.7] * 8
    assert equal_error_rate(tied, labels) == 0.5
    assert minimum_dcf(tied, labels, 0.01) == pytest.approx(1.0)
    assert minimum_cllr(tied, labels) == pytest.approx(1.0)
    assert equal_error_rate([-score for score in perfect], labels) == 1.0
    assert convex_hull_equal_error_rate([-score for score in perfect], labels) == pytest.approx(0.5)


def test_order_of_tied_trials_does_not_matter() -> None:
    scores = np.array([0.5, 0.5, 0.5, 0.1, 0.9])
    found = {
        (equal_error_rate(scores[list(order)], labels[list(order)]), minimum_dcf(scores[list(order)], labels[list(order)], 0.05))
        for labels in [np.array([True, False, False, False, True])]
        for order in itertools.permutations(range(5))
    }
    assert len(found) == 1


def test_two_trials_and_infinite_scores() -> None:
    assert equal_error_rate([1.0, 0.0], [True, False]) == 0.0
    assert equal_error_rate([0.0, 1.0], [True, False]) == 1.0
    assert equal_error_rate([np.inf, -np.inf, 0.0], [True, False, False]) == 0.0
    assert equal_error_rate([np.inf, -np.inf, np.inf], [True, False, False]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("scores", "labels", "error", "message"),
    [
        ([1.0, 2.0], [True, True], DataError, "2 same-speaker and 0 different-speaker"),
        ([1.0], [False], DataError, "0 same-speaker and 1 different-speaker"),
        ([], [], DataError, "0 same-speaker and 0 different-speaker"),
        ([1.0, np.nan, np.nan], [True, False, True], DataError, "2 of 3 scores are NaN"),
        ([1.0, 2.0], [True], InputError, "equally long"),
        ([[1.0, 2.0]], [[True, False]], InputError, "1-D"),
        ([1.0, 2.0], [1, 2], InputError, "labels must be"),
    ],
)
def test_undefined_figures_are_refused(scores: list[float], labels: list[bool], error: type[Exception], message: str) -> None:
    for metric in (equal_error_rate, convex_hull_equal_error_rate, minimum_cllr, cllr):
        with pytest.raises(error, match=message):
            metric(scores, labels)
    for metric in (minimum_dcf, actual_dcf, true_accept_rate):
        with pytest.raises(error, match=message):
            metric(scores, labels, 0.05)


def test_actual_cost_and_cllr_of_known_ratios() -> None:
    labels = [True, True, False, False]
    assert cllr([0.0] * 4, labels) == pytest.approx(1.0)
    assert cllr([50.0, 60.0, -50.0, -60.0], labels) == pytest.approx(0.0, abs=1e-12)
    assert cllr([math.log(3), math.log(3), -math.log(3), -math.log(3)], labels) == pytest.approx(math.log2(4 / 3))
    assert cllr([-1e4, 1e4, 0.0, 0.0], labels) > 1000  # a confident error costs much, and does not overflow
    # Bayes' threshold at prior 0.01 is ln 99 = 4.595: one target is rejected.
    assert actual_dcf([5.0, 4.0, 4.0, -1.0], labels, 0.01) == pytest.approx(0.5)
    assert actual_dcf([5.0, 4.0, 4.6, -1.0], labels, 0.01) == pytest.approx(0.5 + 99 / 2)


@settings(max_examples=60, deadline=None)
@given(scored_trials())
def test_what_was_chosen_knowing_the_labels_is_never_worse(trials: tuple[np.ndarray, np.ndarray]) -> None:
    scores, labels = trials
    assert minimum_cllr(scores, labels) <= cllr(scores, labels) + 1e-12
    assert minimum_dcf(scores, labels, 0.05) <= actual_dcf(scores, labels, 0.05) + 1e-12
    assert minimum_dcf(scores, labels, 0.05) <= 1 + 1e-12


@pytest.mark.parametrize(("p_target", "c_miss", "c_fa"), [(0.0, 1, 1), (1.0, 1, 1), (0.5, 0, 1), (0.5, 1, -1)])
def test_unusable_costs(p_target: float, c_miss: float, c_fa: float) -> None:
    with pytest.raises(InputError, match="p_target"):
        minimum_dcf([1.0, 0.0], [True, False], p_target, c_miss=c_miss, c_fa=c_fa)


def test_false_accept_rate_out_of_range() -> None:
    with pytest.raises(InputError, match=r"0\.\.1"):
        true_accept_rate([1.0, 0.0], [True, False], 1.5)


def test_exactly_the_allowed_rate_is_allowed() -> None:
    """1 - 0.99 is more than 0.01 in floating point; the count behind it is not."""
    labels = np.array([False] * 99 + [True] * 20 + [False] + [True] * 30)
    assert true_accept_rate(np.arange(150.0), labels, 0.01) == 1.0
    assert true_accept_rate(np.arange(150.0), labels, 0.0099) == pytest.approx(0.6)
