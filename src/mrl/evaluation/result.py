"""What an evaluation found, and everything that is needed to repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.errors import InputError
from mrl.evaluation.bootstrap import Interval, PairedDifference

BYTES_PER_NUMBER = 4
"""An embedding is stored as float32."""


@dataclass(frozen=True)
class DimFigures:
    """One system's figures at one prefix length; rates lie in 0..1.

    Intervals are 95 % intervals over speakers, None where not asked for.

    Attributes:
        dim: the prefix length.
        equal_error_rate: the plain one, the headline.
        equal_error_rate_interval: its interval.
        convex_hull_equal_error_rate: on the convex hull of the error curve.
        threshold: raw cosine in [-1, 1] at which the two error rates are as near to equal as this list allows.
        minimum_dcf: p_target -> normalised minimum detection cost.
        minimum_dcf_intervals: p_target -> its interval; empty where not asked for.
        minimum_cllr: bits, after the best monotonic calibration.
        versus_reference: equal error rate minus the reference's, paired over the same resamples; None without a reference.
    """

    dim: int
    equal_error_rate: float
    equal_error_rate_interval: Interval | None
    convex_hull_equal_error_rate: float
    threshold: float
    minimum_dcf: dict[float, float]
    minimum_dcf_intervals: dict[float, Interval]
    minimum_cllr: float
    versus_reference: PairedDifference | None = None


@dataclass(frozen=True)
class SystemResult:
    """One system: its name and its figures in ascending order of dim."""

    name: str
    figures: tuple[DimFigures, ...]

    @property
    def dims(self) -> tuple[int, ...]:
        """The prefix lengths measured."""
        return tuple(figures.dim for figures in self.figures)

    def at(self, dim: int) -> DimFigures:
        """Return the figures at one prefix length.

        Raises:
            InputError: this length was not measured.
        """
        for figures in self.figures:
            if figures.dim == dim:
                return figures
        raise InputError(f"{self.name} was not measured at dim {dim}, only at {list(self.dims)}")


@dataclass(frozen=True)
class ListFacts:
    """The trial list that was used.

    Attributes:
        source: its file.
        sha256: of its uncompressed bytes.
        trials, targets, nontargets, utterances: numbers.
        speakers: number of speakers, None where they were not needed.
    """

    source: str
    sha256: str
    trials: int
    targets: int
    nontargets: int
    utterances: int
    speakers: int | None


@dataclass(frozen=True)
class EvaluationResult:
    """All figures of one evaluation.

    Attributes:
        systems: the system under test first, then what it is compared with.
        trial_list: the list.
        reference: (system, dim) that ``versus_reference`` compares with; None without one.
        seed: of the resamples.
        resamples: number of resamples of the speakers behind each interval; 0 for none.
        provenance: command, model, model hash, data root, version and the like, for reports.
        scores: (system, dim) -> (trials,) float32 raw cosines, for curves and further comparisons; not part of reports.
    """

    systems: tuple[SystemResult, ...]
    trial_list: ListFacts
    reference: tuple[str, int] | None
    seed: int
    resamples: int
    provenance: dict[str, Any]
    scores: Mapping[tuple[str, int], npt.NDArray[np.float32]] = field(repr=False, compare=False)

    def system(self, name: str | None = None) -> SystemResult:
        """Return one system by name, the first one by default.

        Raises:
            InputError: there is none of this name.
        """
        for system in self.systems:
            if name is None or system.name == name:
                return system
        raise InputError(f"no system {name!r} in this result, only {[system.name for system in self.systems]}")

    def equal_error_rates(self, name: str | None = None) -> dict[int, float]:
        """Return ``{dim: equal error rate in 0..1}`` of one system, the first one by default."""
        return {figures.dim: figures.equal_error_rate for figures in self.system(name).figures}

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the scores as values that JSON can hold; rates in 0..1."""
        facts = self.trial_list
        return {
            "provenance": self.provenance,
            "trial_list": {
                "source": facts.source,
                "sha256": facts.sha256,
                "trials": facts.trials,
                "same_speaker_trials": facts.targets,
                "different_speaker_trials": facts.nontargets,
                "utterances": facts.utterances,
                "speakers": facts.speakers,
            },
            "intervals": {"level": 0.95, "method": "bootstrap over speakers", "resamples": self.resamples, "seed": self.seed},
            "reference": None if self.reference is None else {"system": self.reference[0], "dim": self.reference[1]},
            "systems": [
                {"name": system.name, "dims": [_figures_dict(figures) for figures in system.figures]} for system in self.systems
            ],
        }


def _figures_dict(figures: DimFigures) -> dict[str, Any]:
    versus = figures.versus_reference
    return {
        "dim": figures.dim,
        "bytes_float32": figures.dim * BYTES_PER_NUMBER,
        "eer": figures.equal_error_rate,
        "eer_interval": _pair(figures.equal_error_rate_interval),
        "eer_convex_hull": figures.convex_hull_equal_error_rate,
        "threshold_at_eer": figures.threshold,
        "min_dcf": {
            f"{p_target:g}": {"value": value, "interval": _pair(figures.minimum_dcf_intervals.get(p_target))}
            for p_target, value in figures.minimum_dcf.items()
        },
        "min_cllr_bits": figures.minimum_cllr,
        "eer_minus_reference": None
        if versus is None
        else {"value": versus.difference, "interval": _pair(versus.interval), "p_value": versus.p_value},
    }


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
