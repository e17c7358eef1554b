"""From raw cosines to log-likelihood ratios, one calibration per prefix length.

The log-likelihood ratio of a trial is a weighted sum of its cosine and, with durations as quality measures, of the
logarithm of the shorter recording's duration and the absolute difference of both logarithms:

    llr = a * cosine + b + c * min(log t1, log t2) + d * |log t1 - log t2|

:mod:`mrl.scoring.calibration_fit` fits the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mrl.bounded import brief, record, said
from mrl.errors import CheckpointError, DataError, InputError

FloatVector = npt.NDArray[np.float64]


Quality = Literal["duration", "none"]

FORMAT = "redimnet-mrl-calibration/1"


@dataclass(frozen=True)
class FalseAcceptThreshold:
    """The threshold that held false accepts at or below a rate on the calibration trials.

    Attributes:
        false_accept_rate: the rate asked for, in 0..1.
        threshold: log-likelihood ratio from which on trials are accepted.
        false_reject_rate: share of same-speaker trials that it rejected.
    """

    false_accept_rate: float
    threshold: float
    false_reject_rate: float


@dataclass(frozen=True)
class DimCalibration:
    """The calibration of one prefix length, and its figures on the trials that it was fitted on.

    Attributes:
        dim: prefix length.
        score_weight, intercept: of the cosine; natural logarithms.
        shorter_weight: of the logarithm of the shorter duration (0 without durations).
        difference_weight: of the absolute difference of the logarithms (0 without durations).
        cllr_raw: bits, the cosine taken for a log-likelihood ratio: what not calibrating costs.
        cllr: bits, after calibration.
        cllr_held_out: bits, each trial with a calibration fitted on other speakers only; None where speakers are not
            known or too few.
        minimum_cllr: bits, the best that any monotonic map of the cosine alone could give.
        actual_dcf, minimum_dcf: normalised detection costs at the calibration's prior, after calibration.
        thresholds: for false accept rates, highest rate first.
    """

    dim: int
    score_weight: float
    intercept: float
    shorter_weight: float
    difference_weight: float
    cllr_raw: float
    cllr: float
    cllr_held_out: float | None
    minimum_cllr: float
    actual_dcf: float
    minimum_dcf: float
    thresholds: tuple[FalseAcceptThreshold, ...]


@dataclass(frozen=True)
class Calibration:
    """Calibrations of several prefix lengths of one model.

    Attributes:
        dims: dim -> its calibration.
        quality: "duration" or "none".
        prior: probability of a same-speaker trial that the weights were fitted for and decisions are made at by default.
        durations: shortest and longest recording seen, in seconds; others are taken for the nearer of the two. None without.
        trial_list: the calibration trials: source, sha256, counts.
        weights_sha256: of the model's weight file; empty for embeddings of unknown origin.
    """

    dims: Mapping[int, DimCalibration]
    quality: Quality
    prior: float
    durations: tuple[float, float] | None
    trial_list: Mapping[str, Any]
    weights_sha256: str = ""

    def at(self, dim: int) -> DimCalibration:
        """Return the calibration of one prefix length.

        Raises:
            InputError: this length is not calibrated; neighbouring ones are never used in its place.
        """
        if dim not in self.dims:
            raise InputError(f"dim {dim} is not calibrated, only {', '.join(str(known) for known in sorted(self.dims))}")
        return self.dims[dim]

    def log_likelihood_ratios(
        self,
        dim: int,
        scores: npt.ArrayLike,
        enrol_seconds: npt.ArrayLike | None = None,
        test_seconds: npt.ArrayLike | None = None,
    ) -> FloatVector:
        """Return natural log-likelihood ratios (trials,).

        Args:
            dim: prefix length of the scores.
            scores: (trials,) raw cosines in [-1, 1].
            enrol_seconds, test_seconds: (trials,) durations of the two sides; needed with ``quality="duration"``.

        Raises:
            InputError: the dim is not calibrated, durations are missing or not above 0 s, or shapes differ.
            DataError: a score is NaN.
        """
        chosen = self.at(dim)
        values = np.atleast_1d(np.asarray(scores, dtype=np.float64))
        if np.isnan(values).any():
            raise DataError(f"{np.count_nonzero(np.isnan(values))} of {values.size} scores are NaN")
        ratios: FloatVector = chosen.score_weight * values + chosen.intercept
        if self.quality == "duration":
            if enrol_seconds is None or test_seconds is None or self.durations is None:
                raise InputError("this calibration uses durations: give those of both sides, in seconds")
            shorter, difference = duration_measures(enrol_seconds, test_seconds, self.durations)
            if shorter.shape != values.shape:
                raise InputError(f"expected a duration for each of {values.size} scores; found {shorter.shape}")
            ratios = ratios + chosen.shorter_weight * shorter + chosen.difference_weight * difference
        return ratios

    def threshold(self, dim: int, *, prior: float | None = None, max_false_accept: float | None = None) -> float:
        """Return the log-likelihood ratio from which on a trial is accepted.

        At a prior it is Bayes' threshold for equal costs, ``-logit(prior)``; at a false accept rate the one kept at calibration.

        Args:
            dim: prefix length.
            prior: probability of a same-speaker trial, in 0..1; the calibration's own by default.
            max_false_accept: a false accept rate instead, one of those kept.

        Raises:
            InputError: both are given, the prior lies outside 0..1, or no threshold was kept for the rate or dim.
        """
        if prior is not None and max_false_accept is not None:
            raise InputError("give a prior or a false accept rate, not both")
        chosen = self.at(dim)
        if max_false_accept is None:
            return bayes_threshold(self.prior if prior is None else prior)
        for kept in chosen.thresholds:
            if math.isclose(kept.false_accept_rate, max_false_accept, rel_tol=1e-9):
                return kept.threshold
        rates = ", ".join(f"{kept.false_accept_rate:g}" for kept in chosen.thresholds) or "none"
        raise InputError(
            f"no threshold is kept for a false accept rate of {max_false_accept:g}, only for {rates}; calibrate again with "
            f"--max-far {max_false_accept:g} on a list with enough different-speaker trials"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold."""
        return {
            "format": FORMAT,
            "weights_sha256": self.weights_sha256,
            "score": "raw cosine in [-1, 1]",
            "log_likelihood_ratio": "natural logarithm",
            "quality": self.quality,
            "prior": self.prior,
            "durations_seconds": None if self.durations is None else list(self.durations),
            "trial_list": dict(self.trial_list),
            "dims": [asdict(self.dims[dim]) for dim in sorted(self.dims)],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Read what :meth:`to_dict` gave.

        Raises:
            CheckpointError: another format, a missing key, or a value that cannot be used.
        """
        if values.get("format") != FORMAT:
            raise CheckpointError(f"calibration of the format {values.get('format')!r}; this version reads {FORMAT!r}")
        try:
            dims = {}
            for entry in values["dims"]:
                calibrated = record(DimCalibration, entry, "an entry of dims", error=CheckpointError)
                _require_sense(calibrated)
                if calibrated.dim in dims:
                    raise ValueError(f"dim {calibrated.dim} stands twice")
                dims[calibrated.dim] = calibrated
            durations = values["durations_seconds"]
            calibration = cls(
                dims=dims,
                quality=values["quality"],
                prior=_number_in(values["prior"], "prior"),
                durations=None if durations is None else _range_in(durations),
                trial_list=dict(values["trial_list"]),
                weights_sha256=str(values["weights_sha256"]),
            )
            if not isinstance(values["weights_sha256"], str) or not isinstance(values["trial_list"], dict):
                raise ValueError("weights_sha256 must be a text and trial_list an object")
            if not dims or calibration.quality not in ("duration", "none"):
                raise ValueError(f"{len(dims)} dims, quality {calibration.quality!r}")
            if calibration.quality == "duration" and durations is None:
                raise ValueError("durations are used but their range is missing")
            bayes_threshold(calibration.prior)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"calibration is damaged ({type(error).__name__}: {said(error)}); calibrate again") from error
        return calibration


def _require_sense(calibration: DimCalibration) -> None:
    """Refuse a calibration under which a higher cosine would mean less, or which holds what no rate or cost can be."""
    rates = [rate for threshold in calibration.thresholds for rate in (threshold.false_accept_rate, threshold.false_reject_rate)]
    numbers = [value for name, value in asdict(calibration).items() if name not in ("dim", "thresholds") and value is not None]
    numbers += [threshold.threshold for threshold in calibration.thresholds]
    if (
        calibration.dim < 1
        or calibration.score_weight < 0
        or not all(map(math.isfinite, numbers))
        or not all(0.0 <= rate <= 1.0 for rate in rates)
    ):
        raise ValueError(f"dim {calibration.dim} has a negative weight, a rate outside 0..1, or a number that is not finite")


def _number_in(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} is {brief(value)}, expected a number")
    return float(value)


def _range_in(values: Any) -> tuple[float, float]:
    low, high = (_number_in(value, "durations_seconds") for value in values)
    if not 0 < low <= high:
        raise ValueError(f"durations_seconds are {low:g} to {high:g}, expected the shorter first, above 0")
    return low, high


def bayes_threshold(prior: float) -> float:
    """Return ``-logit(prior)``: from this natural log-likelihood ratio on, accepting costs less (equal costs)."""
    if not 0.0 < prior < 1.0:
        raise InputError(f"a prior lies between 0 and 1, found {prior}")
    return math.log1p(-prior) - math.log(prior)


def duration_measures(
    enrol_seconds: npt.ArrayLike, test_seconds: npt.ArrayLike, limits: tuple[float, float] | None = None
) -> tuple[FloatVector, FloatVector]:
    """Return the logarithm of the shorter duration and the absolute difference of both logarithms, each (trials,).

    Args:
        enrol_seconds, test_seconds: (trials,) seconds, above 0.
        limits: shortest and longest duration; others are taken for the nearer of the two.
    """
    first = np.atleast_1d(np.asarray(enrol_seconds, dtype=np.float64))
    second = np.atleast_1d(np.asarray(test_seconds, dtype=np.float64))
    if first.shape != second.shape:
        raise InputError(f"durations of the two sides differ in shape: {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all() and (first > 0).all() and (second > 0).all()):
        raise InputError("durations must be above 0 s and finite")
    if limits is not None:
        first, second = np.clip(first, *limits), np.clip(second, *limits)
    log_first, log_second = np.log(first), np.log(second)
    return np.minimum(log_first, log_second), np.abs(log_first - log_second)
