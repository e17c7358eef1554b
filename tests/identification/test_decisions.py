"""Decisions among many voices: thresholds rise with their number, and keep what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mrl.errors import InputError
from mrl.evaluation.calibration import Calibration, DimCalibration, FalseAcceptThreshold
from mrl.identification import decision_rule


def calibration(quality: str = "none", rates: tuple[tuple[float, float], ...] = ((0.01, 2.0), (0.001, 4.5))) -> Calibration:
    kept = tuple(FalseAcceptThreshold(rate, threshold, 0.1) for rate, threshold in rates)
    one = DimCalibration(8, 12.0, -5.0, 0.3, -0.2, 1.0, 0.2, None, 0.1, 0.2, 0.1, kept)
    return Calibration({8: one}, quality, 0.05, (1.0, 20.0), {"source": "x"}, "")  # type: ignore[arg-type]


def test_prior_is_shared_by_the_voices() -> None:
    for voices in (1, 10, 1000):
        rule = decision_rule(calibration(), 8, voices=voices, prior=0.5)
        each = 0.5 / voices
        assert rule.threshold == pytest.approx(math.log((1 - each) / each))
    assert decision_rule(calibration(), 8, voices=1).threshold == pytest.approx(math.log(0.95 / 0.05))


def test_false_accept_rate_of_all_voices_together() -> None:
    assert decision_rule(calibration(), 8, voices=1, max_false_accept=0.01).threshold == 2.0
    assert decision_rule(calibration(), 8, voices=10, max_false_accept=0.01).threshold == 4.5
    assert decision_rule(calibration(), 8, voices=2, max_false_accept=0.01).threshold == 4.5  # the next stricter one kept
    rule = decision_rule(calibration(), 8, voices=100, max_false_accept=0.01)
    assert rule.threshold == pytest.approx(math.log(1e4)) and "among 100 voices" in rule.basis
    assert decision_rule(calibration(rates=()), 8, voices=1, max_false_accept=0.05).threshold == pytest.approx(math.log(20))


def test_promise_holds_for_calibrated_scores() -> None:
    """Log-likelihood ratios of Gaussian scores, exactly calibrated: strangers are accepted by any voice rarely enough."""
    random, voices, asked = np.random.default_rng(0), 200, 0.1
    separation = 4.0  # the ratio of N(d/2, d) against N(-d/2, d) is the score itself
    strangers = random.normal(-separation / 2, math.sqrt(separation), (5000, voices))
    one = DimCalibration(8, 1.0, 0.0, 0.0, 0.0, 1.0, 0.2, None, 0.1, 0.2, 0.1, ())
    rule = decision_rule(Calibration({8: one}, "none", 0.05, None, {}, ""), 8, voices=voices, max_false_accept=asked)
    assert rule.threshold is not None
    assert np.mean((strangers >= rule.threshold).any(axis=1)) <= asked
    alone = decision_rule(Calibration({8: one}, "none", 0.05, None, {}, ""), 8, voices=1, max_false_accept=asked)
    assert alone.threshold is not None and np.mean((strangers >= alone.threshold).any(axis=1)) > asked  # what this is for


def test_ratios_and_decisions() -> None:
    rule = decision_rule(calibration("duration"), 8, voices=1, prior=0.5)
    expected = 12.0 * 0.5 - 5.0 + 0.3 * math.log(2.0) - 0.2 * math.log(5.0)
    ratio = rule.log_likelihood_ratio(0.5, 10.0, 2.0)
    assert ratio == pytest.approx(expected) and rule.accepts(0.5, ratio) is True
    assert rule.accepts(0.4, rule.log_likelihood_ratio(0.4, 10.0, 2.0)) is False
    raw = decision_rule(calibration(), 8, voices=5, threshold=0.4)
    assert raw.log_likelihood_ratio(0.5, 1.0, 1.0) is None
    assert raw.accepts(0.4, None) is True and raw.accepts(0.39, None) is False
    for without in (decision_rule(None, 8, voices=5), decision_rule(calibration(), 4, voices=5)):
        assert without.threshold is None and without.accepts(0.9, None) is None


def test_errors() -> None:
    for options, message in (
        ({"prior": 0.5, "threshold": 0.4}, "give one of"),
        ({"prior": 1.0}, "a prior lies between 0 and 1"),
        ({"max_false_accept": 0.0}, "a false accept rate lies between 0 and 1"),
    ):
        with pytest.raises(InputError, match=message):
            decision_rule(calibration(), 8, voices=3, **options)
    with pytest.raises(InputError, match="at dim 8: it has no calibration"):
        decision_rule(None, 8, voices=3, prior=0.5)
    with pytest.raises(InputError, match="covers the dims 8"):
        decision_rule(calibration(), 4, voices=3, max_false_accept=0.1)
