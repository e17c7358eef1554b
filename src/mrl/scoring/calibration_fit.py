"""Fitting a calibration to the trials of a list.

The weights minimise the prior-weighted logistic cost at a prior P (the objective of BOSARIS),

    P / targets * sum over targets of log(1 + exp(-(llr + logit P)))
    + (1 - P) / nontargets * sum over nontargets of log(1 + exp(llr + logit P)),

plus a slight penalty on the weights of the standardised features, so that separable lists have a finite answer.

Sources: N. Brümmer and E. de Villiers, "The BOSARIS toolkit", 2013; J. Thienpondt et al., "The IDLab VoxSRC-20 submission", 2020
(quality measures in calibration).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mrl.errors import DataError, InputError
from mrl.scoring.calibration import (
    Calibration,
    DimCalibration,
    FalseAcceptThreshold,
    FloatVector,
    bayes_threshold,
    duration_measures,
)
from mrl.scoring.logistic import fit_logistic
from mrl.scoring.metrics import actual_dcf, cllr, error_curve
from mrl.trials.lists import TrialList

FALSE_ACCEPT_RATES = (0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
"""Rates whose thresholds are kept where the list has enough different-speaker trials for them."""

PENALTY = 1e-6
"""On the squared weights of standardised features; the weights of all trials sum to 1."""

_PARTS = 5


class _Fold(NamedTuple):
    """Trials between speakers of two parts, and trials in which no speaker of these parts occurs."""

    held_out: npt.NDArray[np.bool_]
    fitted: npt.NDArray[np.bool_]


def fit_calibration(
    scores: Mapping[int, npt.ArrayLike],
    trials: TrialList,
    *,
    seconds: npt.ArrayLike | None = None,
    prior: float = 0.01,
    false_accept_rates: Iterable[float] = (),
    speakers: npt.ArrayLike | None = None,
    weights_sha256: str = "",
) -> Calibration:
    """Fit the calibration of every prefix length.

    Args:
        scores: ``{dim: (trials,)}`` raw cosines.
        trials: the list; both kinds of trial are needed.
        seconds: (utterances,) durations in the order of ``trials.utterances``; with them duration is a quality measure.
        prior: probability of a same-speaker trial that the fit is weighted for.
        false_accept_rates: rates to keep thresholds for, besides those of :data:`FALSE_ACCEPT_RATES` that the list allows.
        speakers: (utterances,) number of each utterance's speaker, in the order of ``trials.utterances``, for a cost on speakers
            that were held out.
        weights_sha256: of the model's weight file.

    Raises:
        DataError: one kind of trial only, NaN scores, too few different-speaker trials for a rate asked for, or scores that do
            not rise with the same speaker.
        InputError: shapes, prior or rates cannot be used.
    """
    trials.require_both_classes()
    bayes_threshold(prior)
    asked = tuple(sorted({float(rate) for rate in false_accept_rates}, reverse=True))
    for rate in asked:
        if not 0.0 < rate < 1.0:
            raise InputError(f"a false accept rate to hold lies between 0 and 1, found {rate}")
        if _allowed(rate, trials.num_nontarget) < 1:
            raise DataError(
                f"a false accept rate of {rate:g} needs at least {math.ceil(1 / rate - 1e-9)} different-speaker trials; "
                f"{trials.source} has {trials.num_nontarget}"
            )
    possible = [rate for rate in FALSE_ACCEPT_RATES if _allowed(rate, trials.num_nontarget) >= 1]
    rates = tuple(sorted({*asked, *possible}, reverse=True))
    measures = limits = None
    if seconds is not None:
        values = np.asarray(seconds, dtype=np.float64)
        if values.shape != (len(trials.utterances),):
            raise InputError(f"expected the seconds of each of {len(trials.utterances)} utterances; found shape {values.shape}")
        measures = duration_measures(values[trials.enrol], values[trials.test])
        used = values[np.union1d(trials.enrol, trials.test)]
        limits = (float(used.min()), float(used.max()))
    if not scores:
        raise InputError("no dim to calibrate")
    folds = None if speakers is None else _speaker_folds(np.asarray(speakers), trials)
    return Calibration(
        dims={dim: _fit_dim(dim, scores[dim], trials.labels, measures, prior, rates, folds) for dim in sorted(scores)},
        quality="none" if measures is None else "duration",
        prior=prior,
        durations=limits,
        trial_list={
            "source": trials.source,
            "sha256": trials.sha256,
            "trials": len(trials),
            "same_speaker_trials": trials.num_target,
            "different_speaker_trials": trials.num_nontarget,
            "utterances": len(trials.utterances),
        },
        weights_sha256=weights_sha256,
    )


def can_hold_out(trials: TrialList, speakers: npt.ArrayLike) -> bool:
    """Tell whether a list has enough speakers for :func:`held_out_ratios`; ``speakers`` as there."""
    return _speaker_folds(np.asarray(speakers), trials) is not None


def held_out_ratios(
    scores: npt.ArrayLike, trials: TrialList, speakers: npt.ArrayLike, *, prior: float = 0.01
) -> FloatVector | None:
    """Return natural log-likelihood ratios (trials,), each from a calibration without the speakers of its trial.

    The speakers are divided into five parts; trials between two parts get the calibration of the trials of the other three.

    Args:
        scores: (trials,) of any scale; durations are not used.
        trials: the list.
        speakers: (utterances,) number of each utterance's speaker, in the order of ``trials.utterances``.
        prior: probability of a same-speaker trial that the fits are weighted for.

    Returns:
        The ratios; None where too few speakers are left to fit on.

    Raises:
        DataError: one kind of trial only, or NaN scores.
        InputError: shapes or prior cannot be used.
    """
    bayes_threshold(prior)
    values = np.asarray(scores, dtype=np.float64)
    error_curve(values, trials.labels)  # refuses what has no figures
    folds = _speaker_folds(np.asarray(speakers), trials)
    return None if folds is None else _held_out_ratios(values[:, None], trials.labels, prior, folds)


def _fit_dim(
    dim: int,
    scores: npt.ArrayLike,
    labels: npt.NDArray[np.bool_],
    measures: tuple[FloatVector, FloatVector] | None,
    prior: float,
    rates: tuple[float, ...],
    folds: list[_Fold] | None,
) -> DimCalibration:
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != labels.shape:
        raise InputError(f"expected one score for each of {len(labels)} trials at dim {dim}; found shape {values.shape}")
    curve = error_curve(values, labels)
    features = np.column_stack([values, *(measures or ())])
    weights, intercept = _fit_weights(features, labels, prior)
    if not weights[0] > 0:
        raise DataError(
            f"at dim {dim} the scores of same-speaker trials are no higher than the others (weight {weights[0]:.3g}); "
            "check that list, recordings and model belong together"
        )
    ratios = features @ weights + intercept
    calibrated = error_curve(ratios, labels)
    return DimCalibration(
        dim=int(dim),
        score_weight=float(weights[0]),
        intercept=intercept,
        shorter_weight=float(weights[1]) if measures is not None else 0.0,
        difference_weight=float(weights[2]) if measures is not None else 0.0,
        cllr_raw=cllr(values, labels),
        cllr=cllr(ratios, labels),
        cllr_held_out=None if folds is None else cllr(_held_out_ratios(features, labels, prior, folds), labels),
        minimum_cllr=curve.minimum_cllr(),
        actual_dcf=actual_dcf(ratios, labels, prior),
        minimum_dcf=calibrated.minimum_dcf(prior),
        thresholds=tuple(_threshold_at(rate, ratios, labels) for rate in rates),
    )


def _fit_weights(features: FloatVector, labels: npt.NDArray[np.bool_], prior: float) -> tuple[FloatVector, float]:
    """Fit on standardised features; return weights and constant for the features as they are."""
    centres, spreads = features.mean(axis=0), features.std(axis=0)
    # A constant column (all recordings equally long) carries no information; its weight becomes 0.
    spreads[spreads < 1e-9 * np.maximum(1.0, np.abs(centres))] = np.inf
    num_target = np.count_nonzero(labels)
    row_weights = np.where(labels, prior / num_target, (1.0 - prior) / (len(labels) - num_target))
    fit = fit_logistic((features - centres) / spreads, labels, row_weights, offset=-bayes_threshold(prior), l2=PENALTY)
    weights = fit.weights / spreads
    return weights, fit.intercept - float(weights @ centres)


def _speaker_folds(speakers: npt.NDArray[np.int64], trials: TrialList) -> list[_Fold] | None:
    """Divide the speakers into parts; for every two parts (or one and the same), hold out the trials between them.

    Every trial is held out exactly once. None where what is left to fit on would lack a kind of trial.
    """
    if speakers.shape != (len(trials.utterances),):
        raise InputError(f"expected the speaker of each of {len(trials.utterances)} utterances; found shape {speakers.shape}")
    part_of = np.unique(speakers, return_inverse=True)[1] % _PARTS
    low = np.minimum(part_of[trials.enrol], part_of[trials.test])
    high = np.maximum(part_of[trials.enrol], part_of[trials.test])
    folds = []
    for first, second in combinations_with_replacement(range(_PARTS), 2):
        held_out = (low == first) & (high == second)
        fitted = ~np.isin(low, (first, second)) & ~np.isin(high, (first, second))
        if not held_out.any():
            continue
        if not 0 < np.count_nonzero(trials.labels[fitted]) < np.count_nonzero(fitted):
            return None
        folds.append(_Fold(held_out, fitted))
    return folds


def _held_out_ratios(features: FloatVector, labels: npt.NDArray[np.bool_], prior: float, folds: list[_Fold]) -> FloatVector:
    ratios = np.empty(len(labels))
    for fold in folds:
        weights, intercept = _fit_weights(features[fold.fitted], labels[fold.fitted], prior)
        ratios[fold.held_out] = features[fold.held_out] @ weights + intercept
    return ratios


def _allowed(rate: float, num_nontarget: int) -> int:
    """How many false accepts a rate allows; the tiny sum keeps 0.29 * 100 from becoming 28."""
    return int(rate * num_nontarget + 1e-9)


def _threshold_at(rate: float, ratios: FloatVector, labels: npt.NDArray[np.bool_]) -> FalseAcceptThreshold:
    nontargets = np.sort(ratios[~labels])[::-1]
    threshold = float(np.nextafter(nontargets[_allowed(rate, len(nontargets))], np.inf))
    return FalseAcceptThreshold(rate, threshold, float(np.mean(ratios[labels] < threshold)))
