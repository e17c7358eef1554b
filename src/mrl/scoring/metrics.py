"""Error rates of a verification system, exact for the list at hand.

A trial is accepted when its score is at or above the threshold. Trials with equal scores are accepted or rejected together, so a
tie is one operating point, and the order of tied trials in a file can never change a figure.

The headline equal error rate of this package is the plain one: the point where the straight line between the two neighbouring
operating points crosses "false accepts = false rejects". It is what most papers quote. The rate on the convex hull
(Brümmer's ROCCH-EER), which is never higher than it but for rounding, is given beside it.

Sources: N. Brümmer, "Measuring, refining and calibrating speaker and language information extracted from speech" (PhD thesis,
Stellenbosch 2010) for the convex hull, Cllr and its minimum; NIST SRE evaluation plans for the detection cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.errors import DataError, InputError

_FEW_POINTS = 64


def lower_left_hull(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the indices of the corners of the lower-left convex hull, in order.

    Args:
        x: (points,) not decreasing.
        y: (points,) not increasing. The first and the last point are always corners.
    """
    kept = np.arange(len(x))
    # A point on or above the line between two others is no corner, so all that lie so between their present neighbours
    # can go at once. This leaves few points after a few sweeps; the exact stack below finishes the rest.
    while len(kept) > _FEW_POINTS:
        px, py = x[kept], y[kept]
        inner = _turns_left(px[:-2], py[:-2], px[1:-1], py[1:-1], px[2:], py[2:])
        if np.count_nonzero(inner) > 0.98 * len(inner):
            break
        kept = kept[np.concatenate(([True], inner, [True]))]
    px, py = x[kept], y[kept]
    corners: list[int] = []
    for point in range(len(kept)):
        while len(corners) > 1:
            a, b = corners[-2], corners[-1]
            if _turns_left(px[a], py[a], px[b], py[b], px[point], py[point]):
                break
            corners.pop()
        corners.append(point)
    return kept[corners]


def _turns_left(ax: Any, ay: Any, bx: Any, by: Any, cx: Any, cy: Any) -> Any:
    """Return whether the way a -> b -> c turns left; numbers or arrays of them."""
    return (bx - ax) * (cy - ay) > (by - ay) * (cx - ax)


FloatVector = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ErrorCurve:
    """All operating points of a set of scores, from "accept everything" to "reject everything".

    Attributes:
        thresholds: (points,) ascending; the last is +infinity. Point i accepts scores >= ``thresholds[i]``.
        false_accept: (points,) share of different-speaker trials accepted, from 1 down to 0.
        false_reject: (points,) share of same-speaker trials rejected, from 0 up to 1.
    """

    thresholds: FloatVector
    false_accept: FloatVector
    false_reject: FloatVector

    def equal_error_rate(self) -> float:
        """Return the plain equal error rate in 0..1 (linear interpolation between the two neighbouring operating points)."""
        _, _, rate = self._crossing()
        return rate

    def equal_error_threshold(self) -> float:
        """Return a threshold whose error rates are as near to equal as the list allows.

        It lies midway between the two scores that bound the operating point, so that it is not tied to one trial's last digit.
        """
        below, above, _ = self._crossing()
        gaps = np.abs(self.false_reject - self.false_accept)
        point = below if gaps[below] <= gaps[above] else above
        high = self.thresholds[point]
        low = self.thresholds[point - 1] if point > 0 else high
        if np.isinf(high):
            return float(np.nextafter(low, np.inf))
        return float((low + high) / 2)

    def convex_hull_equal_error_rate(self) -> float:
        """Return the equal error rate on the convex hull of the curve (ROCCH-EER) in 0..1."""
        false_accept, false_reject = self.convex_hull()
        return crossing_of(false_accept, false_reject)[2]

    def convex_hull(self) -> tuple[FloatVector, FloatVector]:
        """Return (false accepts, false rejects) at the corners of the convex hull, in ascending order of threshold."""
        corners = lower_left_hull(self.false_accept[::-1], self.false_reject[::-1])
        return self.false_accept[::-1][corners][::-1], self.false_reject[::-1][corners][::-1]

    def minimum_dcf(self, p_target: float, *, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
        """Return the smallest detection cost over all thresholds, divided by that of the best decision without listening.

        The cost is ``c_miss * p_target * false rejects + c_fa * (1 - p_target) * false accepts``; 1 means "no better than always
        accepting or always rejecting", which bounds it.
        """
        miss, false_alarm = cost_weights(p_target, c_miss, c_fa)
        return float(np.min(miss * self.false_reject + false_alarm * self.false_accept))

    def true_accept_rate(self, false_accept_rate: float) -> float:
        """Return the highest share of same-speaker trials accepted while false accepts stay at or below ``false_accept_rate``."""
        if not 0.0 <= false_accept_rate <= 1.0:
            raise InputError(f"a false accept rate lies in 0..1, found {false_accept_rate}")
        allowed = self.false_accept <= false_accept_rate
        return float(1.0 - self.false_reject[allowed].min())

    def minimum_cllr(self) -> float:
        """Return Cllr in bits after the best monotonic calibration of the scores (pool adjacent violators)."""
        false_accept, false_reject = self.convex_hull()
        # Each edge of the hull is one pooled group: its shares of targets and non-targets give the group's likelihood ratio.
        targets, nontargets = np.diff(false_reject), -np.diff(false_accept)
        both = (targets > 0) & (nontargets > 0)
        targets, nontargets = targets[both], nontargets[both]
        cost = np.sum(targets * np.log2(1 + nontargets / targets)) + np.sum(nontargets * np.log2(1 + targets / nontargets))
        return float(0.5 * cost)

    def _crossing(self) -> tuple[int, int, float]:
        return crossing_of(self.false_accept, self.false_reject)


def error_curve(scores: npt.ArrayLike, labels: npt.ArrayLike) -> ErrorCurve:
    """Return all operating points of ``scores`` (trials,) with ``labels`` (trials,) true for same-speaker trials.

    Raises:
        DataError: a score is NaN, or only one kind of trial is there.
        InputError: the shapes differ.
    """
    values, same = _checked(scores, labels)
    order = np.argsort(values, kind="stable")
    values, same = values[order], same[order]
    # A group of tied scores ends where the next score differs; only there can a threshold cut.
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True))
    rejected_targets = np.cumsum(same)[ends]
    rejected_nontargets = (ends + 1) - rejected_targets
    num_target = int(rejected_targets[-1])
    num_nontarget = len(values) - num_target
    starts = np.append(0, ends[:-1] + 1)
    return ErrorCurve(
        thresholds=np.append(values[starts], np.inf),
        false_accept=(num_nontarget - np.append(0, rejected_nontargets)) / num_nontarget,
        false_reject=np.append(0, rejected_targets) / num_target,
    )


def equal_error_rate(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the plain equal error rate in 0..1; see :meth:`ErrorCurve.equal_error_rate` and :func:`error_curve`."""
    return error_curve(scores, labels).equal_error_rate()


def convex_hull_equal_error_rate(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the equal error rate on the convex hull in 0..1; see :meth:`ErrorCurve.convex_hull_equal_error_rate`."""
    return error_curve(scores, labels).convex_hull_equal_error_rate()


def minimum_dcf(
    scores: npt.ArrayLike, labels: npt.ArrayLike, p_target: float, *, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """Return the normalised minimum detection cost; see :meth:`ErrorCurve.minimum_dcf`."""
    return error_curve(scores, labels).minimum_dcf(p_target, c_miss=c_miss, c_fa=c_fa)


def actual_dcf(
    log_likelihood_ratios: npt.ArrayLike, labels: npt.ArrayLike, p_target: float, *, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """Return the normalised detection cost at the threshold that Bayes' rule gives for calibrated scores.

    ``log_likelihood_ratios`` (trials,) are natural logarithms: a raw cosine is not one, and gives a meaningless figure here.
    """
    ratios, same = _checked(log_likelihood_ratios, labels)
    miss, false_alarm = cost_weights(p_target, c_miss, c_fa)
    accepted = ratios >= np.log(c_fa * (1.0 - p_target)) - np.log(c_miss * p_target)
    return float(miss * np.mean(~accepted[same]) + false_alarm * np.mean(accepted[~same]))


def true_accept_rate(scores: npt.ArrayLike, labels: npt.ArrayLike, false_accept_rate: float) -> float:
    """Return the true accept rate at a given false accept rate; see :meth:`ErrorCurve.true_accept_rate`."""
    return error_curve(scores, labels).true_accept_rate(false_accept_rate)


def cllr(log_likelihood_ratios: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the cost of log-likelihood ratios in bits: 0 is perfect, 1 is what "know nothing" (all ratios 0) costs.

    ``log_likelihood_ratios`` (trials,) are natural logarithms.
    """
    ratios, same = _checked(log_likelihood_ratios, labels)
    targets, nontargets = np.logaddexp(0.0, -ratios[same]), np.logaddexp(0.0, ratios[~same])
    return float(0.5 * (targets.mean() + nontargets.mean()) / np.log(2.0))


def minimum_cllr(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return Cllr after the best monotonic calibration; see :meth:`ErrorCurve.minimum_cllr`."""
    return error_curve(scores, labels).minimum_cllr()


def _checked(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[FloatVector, npt.NDArray[np.bool_]]:
    values = np.asarray(scores, dtype=np.float64)
    same = np.asarray(labels)
    if values.ndim != 1 or values.shape != same.shape:
        raise InputError(f"scores and labels must be 1-D and equally long; found shapes {values.shape} and {same.shape}")
    if same.dtype != np.bool_:
        if not np.isin(same, (0, 1)).all():
            raise InputError("labels must be 1 (same speaker) or 0 (different speakers)")
        same = same.astype(np.bool_)
    undefined = int(np.count_nonzero(np.isnan(values)))
    if undefined:
        raise DataError(f"{undefined} of {len(values)} scores are NaN; an error rate over them would be meaningless")
    num_target = int(np.count_nonzero(same))
    if num_target == 0 or num_target == len(same):
        raise DataError(
            f"found {num_target} same-speaker and {len(same) - num_target} different-speaker trials; "
            "an error rate needs both kinds"
        )
    return values, same


def cost_weights(p_target: float, c_miss: float, c_fa: float) -> tuple[float, float]:
    """Return the weights of false rejects and false accepts, divided by the cost of the best trivial decision."""
    if not 0.0 < p_target < 1.0 or not c_miss > 0.0 or not c_fa > 0.0:
        raise InputError(
            f"a detection cost needs 0 < p_target < 1 and positive costs; found p_target={p_target}, c_miss={c_miss}, c_fa={c_fa}"
        )
    miss, false_alarm = c_miss * p_target, c_fa * (1.0 - p_target)
    trivial = min(miss, false_alarm)
    return miss / trivial, false_alarm / trivial


def crossing_of(false_accept: FloatVector, false_reject: FloatVector) -> tuple[int, int, float]:
    """Return the points just before and at (or after) equality, and the rate where the line between them meets the diagonal."""
    gap = false_reject - false_accept
    above = int(np.searchsorted(gap, 0.0, side="left"))
    below = above - 1  # the first point accepts everything (gap -1), so there always is one before
    share = -gap[below] / (gap[above] - gap[below])
    return below, above, float(false_reject[below] + share * (false_reject[above] - false_reject[below]))
