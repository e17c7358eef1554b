"""Confidence intervals that resample speakers.

Trials of one speaker share that speaker's voice, so they are not independent, and an interval that resamples trials is far too
narrow. Here each resample draws as many speakers as the list has, with replacement; speaker s comes up m(s) times. A same-speaker
trial of s then counts m(s) times, a different-speaker trial of s and t counts m(s) * m(t) times (every copy of s meets every
copy of t; copies of one speaker do not meet each other). Error rates are computed exactly with these weights, ties included. The
interval runs between the 2.5th and 97.5th percentile of the resampled figures.

All dims and all systems of one comparison use the same resamples, so differences between them are paired: what is hard for
every system cancels.

Sources: B. Efron and R. Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 8 and 13; R. Bolle, N. Ratha and
S. Pankanti, "Error analysis of pattern recognition systems: the subsets bootstrap" (2004), for resampling by subject.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mrl.errors import DataError, InputError
from mrl.scoring.metrics import cost_weights, crossing_of, error_curve
from mrl.trials.lists import TrialList
from mrl.trials.speakers import speakers_of_trials

MINIMUM_SPEAKERS = 5
"""With fewer speakers the resamples are too few and too coarse for an interval to mean anything."""

_CONFIDENCE = 0.95
# More resamples than this without one kind of trial, and the list cannot carry an interval.
_MOST_UNDEFINED = 0.05


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """The difference of one figure between two systems on the same resamples (first minus second).

    Attributes:
        difference: on the list itself.
        interval: 95 % interval of the difference.
        p_value: two-sided: twice the smaller share of resamples on either side of zero (ties count for both sides), at most 1,
            with one added to numerator and denominator so that it is never 0.
    """

    difference: float
    interval: Interval
    p_value: float


@dataclass(frozen=True)
class Resampling:
    """How intervals are made, and whose recordings are which.

    Attributes:
        bootstrap: resamples of the speakers for 95 % intervals and tests; 0 for none.
        seed: of the resamples.
        speakers: utterance -> speaker, if paths do not name them (see :func:`mrl.trials.speaker_of`).
    """

    bootstrap: int = 1000
    seed: int = 0
    speakers: Mapping[str, str] | None = None

    def draw(self, trials: TrialList) -> SpeakerResamples | None:
        """Draw the resamples for a list; None where none are wanted.

        Raises:
            DataError: fewer than ``MINIMUM_SPEAKERS`` speakers, or speakers that contradict the labels.
            InputError: too few resamples.
        """
        if not self.bootstrap:
            return None
        return SpeakerResamples.draw(trials, self.bootstrap, seed=self.seed, speakers=self.speakers)


@dataclass(frozen=True, eq=False)
class SpeakerResamples:
    """Draws of speakers with replacement, to be shared by everything that is compared.

    Attributes:
        speakers: the speakers of the list.
        multiplicities: (resamples, speakers) int32, how often each speaker was drawn; every row sums to the number of speakers.
        enrol: (trials,) int32, speaker index of the first utterance of every trial.
        test: (trials,) int32, of the second.
        labels: (trials,) bool.
    """

    speakers: tuple[str, ...]
    multiplicities: npt.NDArray[np.int32]
    enrol: npt.NDArray[np.int32]
    test: npt.NDArray[np.int32]
    labels: npt.NDArray[np.bool_]

    @classmethod
    def draw(
        cls, trials: TrialList, num_resamples: int = 1000, *, seed: int = 0, speakers: Mapping[str, str] | None = None
    ) -> SpeakerResamples:
        """Draw the resamples for a list.

        Args:
            trials: the list.
            num_resamples: at least 100; 1000 is the usual number for a 95 % interval.
            seed: of the draws; the same seed gives the same draws.
            speakers: utterance -> speaker, where :func:`mrl.trials.speaker_of` cannot tell.

        Raises:
            DataError: fewer than ``MINIMUM_SPEAKERS`` speakers, or speakers that contradict the labels.
            InputError: too few resamples.
        """
        if num_resamples < 100:
            raise InputError(f"a 95 % interval needs at least 100 resamples, found {num_resamples}; give 0 where none is wanted")
        trials.require_both_classes()
        names, of_utterance = speakers_of_trials(trials, speakers)
        if len(names) < MINIMUM_SPEAKERS:
            raise DataError(
                f"{trials.source} has {len(names)} speakers; an interval that resamples them needs at least {MINIMUM_SPEAKERS}"
            )
        share = np.full(len(names), 1 / len(names))
        multiplicities = np.random.default_rng(seed).multinomial(len(names), share, size=num_resamples).astype(np.int32)
        return cls(names, multiplicities, of_utterance[trials.enrol], of_utterance[trials.test], trials.labels)

    def __len__(self) -> int:
        return len(self.multiplicities)

    def trial_weights(self) -> Iterator[npt.NDArray[np.int32]]:
        """Yield (trials,) weights, resample by resample."""
        for row in self.multiplicities:
            weights = row[self.enrol]
            np.multiply(weights, row[self.test], out=weights, where=~self.labels)
            yield weights


@dataclass(frozen=True, eq=False)
class Replicates:
    """One system's figures in every resample; NaN where a resample has only one kind of trial.

    Attributes:
        equal_error_rate: (resamples,) plain equal error rates in 0..1.
        minimum_dcf: p_target -> (resamples,) normalised minimum detection costs.
    """

    equal_error_rate: npt.NDArray[np.float64]
    minimum_dcf: dict[float, npt.NDArray[np.float64]]


def bootstrap_metrics(
    scores: Sequence[npt.ArrayLike], resamples: SpeakerResamples, *, p_targets: Sequence[float] = (0.01, 0.05)
) -> list[Replicates]:
    """Return every system's figures in every resample.

    The scores of a system are sorted once; a resample only reweights them, so it costs a few passes over the trials.

    Args:
        scores: one (trials,) array for each system or dim.
        resamples: drawn for the same trials.
        p_targets: priors of the minimum detection costs wanted.
    """
    systems = [_SortedScores(values, resamples.labels, p_targets) for values in scores]
    rates = np.full((len(systems), len(resamples)), np.nan)
    costs = np.full((len(systems), len(p_targets), len(resamples)), np.nan)
    for number, weights in enumerate(resamples.trial_weights()):
        for place, system in enumerate(systems):
            measured = system.measure(weights)
            if measured is not None:
                rates[place, number], costs[place, :, number] = measured
    return [
        Replicates(rates[place], {p_target: costs[place, column] for column, p_target in enumerate(p_targets)})
        for place in range(len(systems))
    ]


def interval_of(replicates: npt.NDArray[np.float64]) -> Interval:
    """Return the 95 % percentile interval of resampled figures.

    Raises:
        DataError: more than one in twenty resamples had only one kind of trial.
    """
    defined = _defined(replicates)
    low, high = np.percentile(defined, [50 * (1 - _CONFIDENCE), 50 * (1 + _CONFIDENCE)])
    return Interval(float(low), float(high))


def paired_difference(
    first: float, second: float, first_replicates: npt.NDArray[np.float64], second_replicates: npt.NDArray[np.float64]
) -> PairedDifference:
    """Compare one figure of two systems, measured on the same list with the same resamples.

    Args:
        first: the first system's figure on the list itself.
        second: the second system's.
        first_replicates: (resamples,) the first system's figure in every resample.
        second_replicates: (resamples,) the second system's, from the same :class:`SpeakerResamples`.
    """
    if first_replicates.shape != second_replicates.shape:
        raise InputError("a paired difference needs both systems measured on the same resamples")
    differences = _defined(first_replicates - second_replicates)
    tail = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    p_value = min(1.0, 2 * (int(tail) + 1) / (len(differences) + 1))
    return PairedDifference(first - second, interval_of(differences), p_value)


def _defined(replicates: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    defined: npt.NDArray[np.float64] = replicates[~np.isnan(replicates)]
    if len(defined) < (1 - _MOST_UNDEFINED) * len(replicates):
        raise DataError(
            f"{len(replicates) - len(defined)} of {len(replicates)} resamples of the speakers hold only one kind of trial; "
            "the list has too few same-speaker or different-speaker trials for an interval"
        )
    return defined


class _SortedScores:
    """One system's trials in order of score, ready to be weighed.

    Neighbouring groups of only same-speaker or only different-speaker trials are joined into one run: along it one of the two
    error rates stands still, so neither the interpolated equal error rate nor a minimum cost changes by it, and far fewer
    operating points are left (a good system mixes the two kinds in a small part of its range only).
    """

    def __init__(self, scores: npt.ArrayLike, labels: npt.NDArray[np.bool_], p_targets: Sequence[float]) -> None:
        error_curve(scores, labels)  # refuses NaN, wrong shapes and single-class lists with clear words
        values = np.asarray(scores)
        order = np.argsort(values, kind="stable")
        ordered, same = values[order], labels[order]
        # Within each group of ties the different-speaker trials go first, so that a group is at most two stretches of one kind.
        group = np.cumsum(np.append(False, ordered[1:] != ordered[:-1]))
        within = np.lexsort((same, group))
        order, same = order[within], same[within]
        mixed = np.zeros(group[-1] + 1, dtype=np.bool_)
        mixed[group[1:][(group[1:] == group[:-1]) & (same[1:] != same[:-1])]] = True
        # A stretch begins where the kind changes, and around every group that holds both kinds.
        new_group = np.append(True, group[1:] != group[:-1])
        beside_mixed = mixed[group] | np.append(False, mixed[group[:-1]])
        starts = np.flatnonzero(np.append(True, same[1:] != same[:-1]) | (new_group & beside_mixed))
        self._order, self._starts, self._target = order, starts, same[starts]
        # A threshold can cut after every stretch but the first one of a mixed group.
        self._cuts = np.flatnonzero(~(mixed[group[starts]] & ~self._target))
        self._costs = [cost_weights(p_target, 1.0, 1.0) for p_target in p_targets]

    def measure(self, weights: npt.NDArray[np.int32]) -> tuple[float, list[float]] | None:
        """Return the equal error rate and the minimum costs for (trials,) weights; None where one kind weighs nothing."""
        stretches = np.add.reduceat(weights[self._order], self._starts, dtype=np.int64)
        targets = np.cumsum(stretches * self._target)
        nontargets = np.cumsum(stretches) - targets
        if targets[-1] == 0 or nontargets[-1] == 0:
            return None
        false_reject = np.append(0.0, targets[self._cuts] / targets[-1])
        false_accept = np.append(1.0, 1.0 - nontargets[self._cuts] / nontargets[-1])
        rate = crossing_of(false_accept, false_reject)[2]
        return rate, [float(np.min(miss * false_reject + false_alarm * false_accept)) for miss, false_alarm in self._costs]
