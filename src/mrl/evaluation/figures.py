"""The figures of one system at one prefix length: what is measured, and how it is written to report.json and table.csv.

A new metric is a method of :class:`mrl.scoring.ErrorCurve` and a field of :class:`DimFigures`, which its methods fill and write;
a column in the tables for readers is one line of :func:`mrl.evaluation.tables.figures_table`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.scoring.bootstrap import Interval, PairedDifference, Replicates, interval_of
from mrl.scoring.metrics import actual_dcf, cllr, error_curve

BYTES_PER_NUMBER = 4
"""An embedding is stored as float32."""

P_TARGETS = (0.01, 0.05)
"""Priors of the minimum detection costs in use: 0.01 (WeSpeaker, SpeechBrain) and 0.05 (VoxSRC)."""

FALSE_ACCEPT_RATES = (0.01, 0.001)
"""Rates at which the true accept rate is given."""


@dataclass(frozen=True)
class CalibratedFigures:
    """Figures of log-likelihood ratios at one prefix length.

    Attributes:
        source: where the calibration is from.
        actual_dcf: p_target -> normalised detection cost at Bayes' threshold.
        cllr: bits.
        minimum_cllr: bits, of the same ratios after the best monotonic calibration.
    """

    source: str
    actual_dcf: dict[float, float]
    cllr: float
    minimum_cllr: float

    @classmethod
    def of(cls, source: str, ratios: npt.NDArray[np.float64], labels: npt.NDArray[np.bool_]) -> CalibratedFigures:
        """Measure natural log-likelihood ratios (trials,); ``source`` says where the calibration is from."""
        return cls(
            source=source,
            actual_dcf={p_target: actual_dcf(ratios, labels, p_target) for p_target in P_TARGETS},
            cllr=cllr(ratios, labels),
            minimum_cllr=error_curve(ratios, labels).minimum_cllr(),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what report.json says."""
        return {
            "source": self.source,
            "act_dcf": {f"{p_target:g}": value for p_target, value in self.actual_dcf.items()},
            "cllr_bits": self.cllr,
            "min_cllr_bits": self.minimum_cllr,
        }


@dataclass(frozen=True)
class DimFigures:
    """One system's figures at one prefix length; rates lie in 0..1.

    Intervals are 95 % intervals over speakers, None where not asked for.

    Attributes:
        dim: the prefix length.
        equal_error_rate: the plain one, the headline.
        equal_error_rate_interval: its interval.
        convex_hull_equal_error_rate: on the convex hull of the error curve.
        threshold: score at which the two error rates are as near to equal as this list allows; a raw cosine in [-1, 1], unless
            the protocol says otherwise.
        minimum_dcf: p_target -> normalised minimum detection cost.
        minimum_dcf_intervals: p_target -> its interval; empty where not asked for.
        minimum_cllr: bits, after the best monotonic calibration.
        area_under_curve: area under the ROC curve; 0.5 is chance.
        versus_reference: equal error rate minus the reference's, paired over the same resamples; None without a reference.
        versus_same_dim: likewise, minus that of the reference system cut to this dim; None where it has none of this length.
        true_accept_rates: false accept rate -> share of same-speaker trials accepted at or below it; None where the list has too
            few different-speaker trials for the rate.
        calibrated: figures of log-likelihood ratios; None without a calibration of this dim.
    """

    dim: int
    equal_error_rate: float
    equal_error_rate_interval: Interval | None
    convex_hull_equal_error_rate: float
    threshold: float
    minimum_dcf: dict[float, float]
    minimum_dcf_intervals: dict[float, Interval]
    minimum_cllr: float
    area_under_curve: float
    versus_reference: PairedDifference | None = None
    versus_same_dim: PairedDifference | None = None
    true_accept_rates: dict[float, float | None] = field(default_factory=dict)
    calibrated: CalibratedFigures | None = None

    @classmethod
    def of(
        cls, dim: int, scores: npt.NDArray[np.float32], labels: npt.NDArray[np.bool_], replicates: Replicates | None = None
    ) -> DimFigures:
        """Measure scores (trials,); ``labels`` are true for same-speaker trials.

        Args:
            dim: the prefix length that the scores are of.
            scores, labels: as for :func:`mrl.scoring.error_curve`.
            replicates: the figures of these scores in every resample of the speakers, for intervals.
        """
        curve = error_curve(scores, labels)
        return cls(
            dim=dim,
            equal_error_rate=curve.equal_error_rate(),
            equal_error_rate_interval=None if replicates is None else interval_of(replicates.equal_error_rate),
            convex_hull_equal_error_rate=curve.convex_hull_equal_error_rate(),
            threshold=curve.equal_error_threshold(),
            minimum_dcf={p_target: curve.minimum_dcf(p_target) for p_target in P_TARGETS},
            minimum_dcf_intervals={}
            if replicates is None
            else {p_target: interval_of(values) for p_target, values in replicates.minimum_dcf.items()},
            minimum_cllr=curve.minimum_cllr(),
            area_under_curve=curve.area_under_curve(),
            # A rate below one trial in all cannot be told from 0, so nothing is stated there.
            true_accept_rates={
                rate: curve.true_accept_rate(rate) if rate * np.count_nonzero(~labels) >= 1 - 1e-9 else None
                for rate in FALSE_ACCEPT_RATES
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what report.json says; rates in 0..1."""
        return {
            "dim": self.dim,
            "bytes_float32": self.dim * BYTES_PER_NUMBER,
            "eer": self.equal_error_rate,
            "eer_interval": bounds(self.equal_error_rate_interval),
            "eer_convex_hull": self.convex_hull_equal_error_rate,
            "threshold_at_eer": self.threshold,
            "min_dcf": {
                f"{p_target:g}": {"value": value, "interval": bounds(self.minimum_dcf_intervals.get(p_target))}
                for p_target, value in self.minimum_dcf.items()
            },
            "min_cllr_bits": self.minimum_cllr,
            "true_accept_rate_at_false_accept_rate": {f"{rate:g}": value for rate, value in self.true_accept_rates.items()},
            "calibrated": None if self.calibrated is None else self.calibrated.to_dict(),
            "eer_minus_reference": _versus_dict(self.versus_reference),
            "eer_minus_reference_at_same_dim": _versus_dict(self.versus_same_dim),
            "roc_auc": self.area_under_curve,
        }

    def to_record(self) -> dict[str, Any]:
        """Return a line of table.csv: column -> value; rates in 0..1, None where there is none."""
        line: dict[str, Any] = {
            "dim": self.dim,
            "bytes_float32": self.dim * BYTES_PER_NUMBER,
            "eer": self.equal_error_rate,
            **interval_bounds("eer", self.equal_error_rate_interval),
            "eer_convex_hull": self.convex_hull_equal_error_rate,
            "threshold_at_eer": self.threshold,
            "min_cllr_bits": self.minimum_cllr,
        }
        for p_target, value in self.minimum_dcf.items():
            name = f"min_dcf_{p_target:g}"
            line |= {name: value, **interval_bounds(name, self.minimum_dcf_intervals.get(p_target))}
        line |= {f"true_accept_rate_at_far_{rate:g}": value for rate, value in self.true_accept_rates.items()}
        calibrated = self.calibrated
        for p_target in self.minimum_dcf:
            line[f"act_dcf_{p_target:g}"] = None if calibrated is None else calibrated.actual_dcf[p_target]
        line |= {
            "calibrated_cllr_bits": None if calibrated is None else calibrated.cllr,
            "calibrated_min_cllr_bits": None if calibrated is None else calibrated.minimum_cllr,
            "calibration": None if calibrated is None else calibrated.source,
        }
        versus, same = self.versus_reference, self.versus_same_dim
        return line | {
            "eer_minus_reference": None if versus is None else versus.difference,
            **interval_bounds("eer_minus_reference", None if versus is None else versus.interval),
            "eer_minus_reference_p": None if versus is None else versus.p_value,
            "eer_minus_reference_at_same_dim": None if same is None else same.difference,
            **interval_bounds("eer_minus_reference_at_same_dim", None if same is None else same.interval),
            "eer_minus_reference_at_same_dim_p": None if same is None else same.p_value,
            "roc_auc": self.area_under_curve,
        }


def _versus_dict(versus: PairedDifference | None) -> dict[str, Any] | None:
    if versus is None:
        return None
    return {"value": versus.difference, "interval": bounds(versus.interval), "p_value": versus.p_value}


def interval_bounds(name: str, interval: Interval | None) -> dict[str, float | None]:
    """Return the columns ``NAME_low`` and ``NAME_high`` of a CSV file; None where there is no interval."""
    return {
        f"{name}_low": None if interval is None else interval.low,
        f"{name}_high": None if interval is None else interval.high,
    }


def bounds(interval: Interval | None) -> list[float] | None:
    """Return an interval as report.json says it."""
    return None if interval is None else [interval.low, interval.high]
