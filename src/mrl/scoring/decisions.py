"""From cosines to decisions, for one enrolled voice and for many.

With N voices enrolled there are N chances for a stranger to be taken for one of them, so the threshold must rise with N:

- At a *prior* P that the speaker is enrolled at all, each voice has P / N of it, and the threshold is ``-logit(P / N)``.
- To keep the probability of *any* false accept at or below A, each comparison may accept falsely at a rate of A / N (the sum of
  the rates bounds the probability, whatever the dependence between voices). The threshold is the one that the calibration kept
  for such a rate, where it kept one and, among several voices, had trials enough for it. Otherwise it is ``log(N / A)``: a
  different-speaker trial reaches a log-likelihood ratio of t with a probability of at most ``exp(-t)`` (Markov's inequality,
  since the mean likelihood ratio of such trials is 1), as far as the calibration is right. It is never below a threshold kept
  for a higher rate, so more voices never mean a lower one.

Without a calibration of the very dim there is no decision; a raw-cosine threshold may be given instead.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from mrl.errors import InputError
from mrl.scoring.calibration import Calibration, bayes_threshold

NO_CALIBRATION = "it has no calibration; make one with mrl calibrate"

FEWEST_FALSE_ACCEPTS = 30
"""Of the calibration's trials, for a measured threshold to be relied on: the true rate then lies within some 30 % of the measured
one at 90 % confidence, for independent trials (the "rule of 30", G. Doddington et al., "The NIST speaker recognition evaluation",
2000). Few speakers make the trials less independent."""


@dataclass(frozen=True)
class DecisionRule:
    """How scores at one prefix length become decisions.

    Attributes:
        dim: prefix length.
        calibration: of the model, where it covers this dim and no raw threshold is given; else None.
        threshold: on the log-likelihood ratio with a calibration, else on the cosine; None for no decision.
        basis: in words, what the threshold stands for; empty for no decision.
        calibrated_dims: that the model's calibration covers.
        absence: without a threshold, why there is none and what to do about it; otherwise empty.
        prior: of one speaker in two recordings, on which probabilities rest: as given, or that of the calibration.
    """

    dim: int
    calibration: Calibration | None
    threshold: float | None
    basis: str
    calibrated_dims: tuple[int, ...]
    absence: str = ""
    prior: float | None = None

    def probability(self, log_likelihood_ratio: float | None) -> float | None:
        """Return the probability of one speaker at :attr:`prior`; None without a log-likelihood ratio."""
        if log_likelihood_ratio is None or self.prior is None:
            return None
        return 0.5 * (1.0 + math.tanh(0.5 * (log_likelihood_ratio - bayes_threshold(self.prior))))  # no overflow at either end

    def log_likelihood_ratio(self, score: float, voice_seconds: float, seconds: float) -> float | None:
        """Return the natural log-likelihood ratio of a cosine; None without a calibration.

        Args:
            score: raw cosine.
            voice_seconds: of all recordings of the voice together, which stand for one recording of that length.
            seconds: duration of the other recording.
        """
        if self.calibration is None:
            return None
        if self.calibration.quality == "duration":
            return float(self.calibration.log_likelihood_ratios(self.dim, [score], [voice_seconds], [seconds])[0])
        return float(self.calibration.log_likelihood_ratios(self.dim, [score])[0])

    def highest_log_likelihood_ratio(self, score: float, seconds: float) -> float:
        """Return the highest ratio that any voice with this cosine or a lower one could have, however long its recordings are.

        Args:
            score: raw cosine.
            seconds: duration of the other recording.
        """
        if self.calibration is None:
            return score
        if self.calibration.at(self.dim).score_weight < 0:
            return math.inf
        lengths = [seconds]
        if self.calibration.durations is not None:  # the ratio is linear in the logarithm on either side of the other recording's
            lengths += self.calibration.durations
        ratios = [self.log_likelihood_ratio(score, length, seconds) for length in lengths]
        return max(ratio for ratio in ratios if ratio is not None)

    def accepts(self, score: float, log_likelihood_ratio: float | None) -> bool | None:
        """Return the decision; None for none."""
        if self.threshold is None:
            return None
        return (score if log_likelihood_ratio is None else log_likelihood_ratio) >= self.threshold


def decision_rule(
    calibration: Calibration | None,
    dim: int,
    *,
    voices: int,
    threshold: float | None = None,
    prior: float | None = None,
    max_false_accept: float | None = None,
    model: str | os.PathLike[str] = "the model",
    absence: str = NO_CALIBRATION,
) -> DecisionRule:
    """Return the rule for comparing a recording with some voices, or with another recording, which counts as one voice.

    Args:
        calibration: of the model; None without one.
        dim: prefix length.
        voices: how many the recording is compared with.
        threshold: accept from this raw cosine on; leaves the calibration out.
        prior: probability that the speaker is among the voices; the calibration's own by default.
        max_false_accept: most probability of any false accept when the speaker is not among the voices, instead of the prior.
        model: for messages.
        absence: why there is no calibration, where there is none, as a clause.

    Raises:
        InputError: several of the three are given, one lies outside its range, or a prior or rate without a calibration of
            the dim.
    """
    if sum(value is not None for value in (threshold, prior, max_false_accept)) > 1:
        raise InputError("give one of threshold (a raw cosine), prior and max-far, not several")
    known = () if calibration is None else tuple(sorted(calibration.dims))
    if threshold is not None:
        return DecisionRule(dim, None, threshold, "raw cosine", known)
    if calibration is None or dim not in known:
        covered = f"its calibration covers the dims {', '.join(map(str, known))} (mrl calibrate --dims)" if known else absence
        missing = f"{os.fspath(model)} gives no log-likelihood ratio at dim {dim}: {covered}, or give a raw-cosine threshold"
        if prior is not None or max_false_accept is not None:
            raise InputError(missing)
        return DecisionRule(dim, None, None, "", known, missing)
    several = "" if voices == 1 else f" among {voices:,} voices"
    if max_false_accept is None:
        chosen = calibration.prior if prior is None else prior
        bayes_threshold(chosen)  # refuses what is no prior, before it is shared out
        limit = bayes_threshold(chosen / max(voices, 1))
        return DecisionRule(dim, calibration, limit, f"prior {chosen:g}{several}", known, prior=chosen)
    limit, how = _false_accept_threshold(calibration, dim, max_false_accept, max(voices, 1))
    basis = f"false accept rate {max_false_accept:g}{several}{how}"
    return DecisionRule(dim, calibration, limit, basis, known, prior=calibration.prior)


def _false_accept_threshold(calibration: Calibration, dim: int, rate: float, voices: int) -> tuple[float, str]:
    if not 0.0 < rate < 1.0:
        raise InputError(f"a false accept rate lies between 0 and 1, found {rate}")
    each, of_each = rate / voices, "" if voices == 1 else " per voice"
    thresholds = calibration.at(dim).thresholds
    measured = [kept for kept in thresholds if kept.false_accept_rate <= each * (1 + 1e-9)]
    # The highest rate that keeps the promise; a measured threshold is not blurred by what the calibration cannot fit.
    best = max(measured, key=lambda kept: kept.false_accept_rate, default=None)
    if best is not None and (voices == 1 or _is_certain(calibration, best.false_accept_rate)):
        exact = voices == 1 and math.isclose(best.false_accept_rate, rate)
        return best.threshold, "" if exact else f", measured at {best.false_accept_rate:g}{of_each}"
    # Where the calibration says less than what was measured, even at a higher rate, it is the calibration that is wrong.
    lowest = best.threshold if best is not None else max((kept.threshold for kept in thresholds), default=-math.inf)
    return max(-math.log(each), lowest), f", by the calibration{'' if voices == 1 else f' at {each:.2g} per voice'}"


def _is_certain(calibration: Calibration, rate: float) -> bool:
    """Return whether a threshold was decided by enough false accepts, so that many comparisons may rely on it."""
    trials = calibration.trial_list.get("different_speaker_trials")
    return isinstance(trials, int) and rate * trials >= FEWEST_FALSE_ACCEPTS
