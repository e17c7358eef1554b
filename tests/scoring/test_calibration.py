"""From cosines to log-likelihood ratios."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from mrl.errors import CheckpointError, DataError, InputError
from mrl.scoring import actual_dcf, cllr
from mrl.scoring.calibration import Calibration, bayes_threshold, duration_measures
from mrl.scoring.calibration_fit import PENALTY, fit_calibration
from mrl.trials import TrialList


def made_trials(targets: int, nontargets: int, utterances: int, seed: int = 0) -> TrialList:
    generator = np.random.default_rng(seed)
    count = targets + nontargets
    enrol = generator.integers(utterances, size=count).astype(np.int32)
    test = ((enrol + generator.integers(1, utterances, count)) % utterances).astype(np.int32)
    labels = np.arange(count) < targets
    return TrialList(tuple(f"u{number}" for number in range(utterances)), enrol, test, labels, source="made", sha256="ab")


def gaussian_scores(trials: TrialList, mean: float, deviation: float, seed: int = 1) -> np.ndarray:
    """Targets around ``mean``, others around 0, equal spread: the true ratio is (mean * s - mean**2 / 2) / deviation**2."""
    noise = np.random.default_rng(seed).standard_normal(len(trials))
    return np.where(trials.labels, mean, 0.0) + deviation * noise


def test_the_true_ratio_of_gaussian_scores_is_found() -> None:
    trials = made_trials(60_000, 60_000, 500)
    scores = gaussian_scores(trials, 0.4, 0.15)
    found = fit_calibration({16: scores}, trials, prior=0.5)
    one = found.at(16)
    assert one.score_weight == pytest.approx(0.4 / 0.15**2, rel=0.02)
    assert one.intercept == pytest.approx(-(0.4**2) / 2 / 0.15**2, rel=0.02)
    assert one.shorter_weight == one.difference_weight == 0.0
    assert one.minimum_cllr <= one.cllr < one.minimum_cllr + 0.002  # which fits itself to these trials
    assert one.cllr_raw > 2 * one.cllr
    assert one.cllr == pytest.approx(cllr(found.log_likelihood_ratios(16, scores), trials.labels), abs=1e-12)


@pytest.mark.parametrize("prior", [0.01, 0.5, 0.9])
@pytest.mark.parametrize("with_durations", [False, True])
def test_against_scikit_learn(prior: float, with_durations: bool) -> None:
    trials = made_trials(300, 900, 40)
    seconds = np.random.default_rng(5).uniform(1, 20, 40)
    scores = gaussian_scores(trials, 0.3, 0.2)
    found = fit_calibration({8: scores}, trials, seconds=seconds if with_durations else None, prior=prior)
    shorter, difference = duration_measures(seconds[trials.enrol], seconds[trials.test])
    features = np.column_stack([scores, shorter, difference] if with_durations else [scores])
    scaled = (features - features.mean(0)) / features.std(0)
    weights = np.where(trials.labels, prior / 300, (1 - prior) / 900)
    other = LogisticRegression(C=1 / PENALTY, tol=1e-12, solver="newton-cholesky", max_iter=1000)
    log_odds = other.fit(scaled, trials.labels, weights).decision_function(scaled)
    ratios = found.log_likelihood_ratios(8, scores, seconds[trials.enrol], seconds[trials.test])
    np.testing.assert_allclose(ratios, log_odds - math.log(prior / (1 - prior)), atol=1e-4)


def test_durations_help_where_they_matter() -> None:
    """Short recordings score lower: knowing the durations must lower the cost, and longer ones must need a higher cosine."""
    trials = made_trials(4000, 4000, 300)
    seconds = np.exp(np.random.default_rng(3).uniform(0, 3, 300))
    shorter, _ = duration_measures(seconds[trials.enrol], seconds[trials.test])
    scores = gaussian_scores(trials, 0.3, 0.1) + 0.15 * shorter
    without = fit_calibration({8: scores}, trials, prior=0.5).at(8)
    aware = fit_calibration({8: scores}, trials, prior=0.5, seconds=seconds).at(8)
    assert aware.cllr < 0.7 * without.cllr
    assert aware.shorter_weight == pytest.approx(-0.15 * aware.score_weight, rel=0.1)
    assert aware.cllr < aware.minimum_cllr  # which is of the cosine alone


@given(scale=st.floats(0.05, 20), shift=st.floats(-3, 3), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_an_affine_change_of_the_scores_changes_no_ratio(scale: float, shift: float, seed: int) -> None:
    trials = made_trials(60, 90, 20, seed)
    scores, seconds = gaussian_scores(trials, 0.3, 0.2, seed), np.random.default_rng(seed).uniform(1, 9, 20)
    sides = seconds[trials.enrol], seconds[trials.test]
    before = fit_calibration({4: scores}, trials, seconds=seconds).log_likelihood_ratios(4, scores, *sides)
    moved = scale * scores + shift
    after = fit_calibration({4: moved}, trials, seconds=seconds).log_likelihood_ratios(4, moved, *sides)
    np.testing.assert_allclose(after, before, atol=1e-4)


@given(seed=st.integers(0, 200))
@settings(max_examples=20, deadline=None)
def test_sides_may_be_swapped(seed: int) -> None:
    first, second = np.random.default_rng(seed).uniform(0.2, 60, (2, 9))
    for one, two in zip(duration_measures(first, second), duration_measures(second, first), strict=True):
        np.testing.assert_array_equal(one, two)
    shorter, difference = duration_measures(first, second)
    np.testing.assert_allclose(np.exp(shorter), np.minimum(first, second))
    np.testing.assert_allclose(np.exp(difference), np.maximum(first, second) / np.minimum(first, second))


def test_separable_and_constant_lists_stay_finite() -> None:
    trials = made_trials(20, 50, 30)
    found = fit_calibration({4: np.where(trials.labels, 0.8, 0.1)}, trials, seconds=np.full(30, 3.0)).at(4)
    assert 0 < found.score_weight < 1e4 and math.isfinite(found.intercept)
    assert found.shorter_weight == found.difference_weight == 0.0
    assert found.cllr < 0.05 and found.actual_dcf == 0.0


def test_bayes_decisions_are_near_the_best_possible() -> None:
    trials = made_trials(5000, 50_000, 400)
    scores = gaussian_scores(trials, 0.35, 0.1)
    found = fit_calibration({8: scores}, trials, prior=0.05)
    one = found.at(8)
    assert bayes_threshold(0.05) == pytest.approx(math.log(19))
    assert one.minimum_dcf <= one.actual_dcf < one.minimum_dcf + 0.02
    ratios = found.log_likelihood_ratios(8, scores)
    accepted = ratios >= found.threshold(8)
    expected = np.mean(~accepted[trials.labels]) + 19 * np.mean(accepted[~trials.labels])
    assert one.actual_dcf == pytest.approx(expected) == pytest.approx(actual_dcf(ratios, trials.labels, 0.05))
    assert found.threshold(8, prior=0.5) == 0.0


def test_cost_on_held_out_speakers_against_a_plain_loop() -> None:
    names = [f"s{speaker}/u{number}" for speaker in range(11) for number in range(4)]
    pairs = [(a.split("/")[0] == b.split("/")[0], a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    trials = TrialList.from_pairs(pairs)
    speakers = np.array([int(name.split("/")[0][1:]) for name in trials.utterances])
    scores = gaussian_scores(trials, 0.3, 0.2)
    found = fit_calibration({4: scores}, trials, speakers=speakers, prior=0.3).at(4)
    ratios = np.full(len(trials), np.nan)
    for one in range(5):
        for two in range(one, 5):
            sides = list(zip((speakers[trials.enrol] % 5).tolist(), (speakers[trials.test] % 5).tolist(), strict=True))
            fitted = [row for row, parts in enumerate(sides) if not {one, two} & set(parts)]
            held_out = [row for row, parts in enumerate(sides) if sorted(parts) == [one, two]]
            others = TrialList(trials.utterances, trials.enrol[fitted], trials.test[fitted], trials.labels[fitted])
            calibration = fit_calibration({4: scores[fitted]}, others, prior=0.3)
            assert np.isnan(ratios[held_out]).all()
            ratios[held_out] = calibration.log_likelihood_ratios(4, scores[held_out])
    assert found.cllr_held_out == pytest.approx(cllr(ratios, trials.labels), abs=1e-9)
    assert found.cllr < found.cllr_held_out < found.cllr + 0.05
    # Without two of four speakers two are left, without two of three only one: no different-speaker trials to fit on.
    few = TrialList.from_pairs([pair for pair in pairs if {name[:2] for name in pair[1:]} <= {"s0", "s2", "s3", "s4"}])
    numbers = [int(name[1]) for name in few.utterances]
    assert fit_calibration({4: gaussian_scores(few, 0.3, 0.2)}, few, speakers=numbers).at(4).cllr_held_out is not None
    fewer = TrialList.from_pairs([pair for pair in pairs if {name[:2] for name in pair[1:]} <= {"s0", "s2", "s3"}])
    numbers = [int(name[1]) for name in fewer.utterances]
    assert fit_calibration({4: gaussian_scores(fewer, 0.3, 0.2)}, fewer, speakers=numbers).at(4).cllr_held_out is None
    with pytest.raises(InputError, match="speaker of each of 44"):
        fit_calibration({4: scores}, trials, speakers=speakers[1:])


@pytest.mark.parametrize("ties", [False, True])
def test_thresholds_hold_their_false_accept_rate_and_waste_nothing(ties: bool) -> None:
    trials = made_trials(200, 1000, 100)
    scores = gaussian_scores(trials, 0.3, 0.2)
    if ties:
        scores = np.round(scores, 1)
    found = fit_calibration({8: scores}, trials, false_accept_rates=[0.29, 0.0031])
    kept = found.at(8).thresholds
    assert [one.false_accept_rate for one in kept] == [0.29, 0.05, 0.02, 0.01, 0.005, 0.0031, 0.002, 0.001]
    ratios = found.log_likelihood_ratios(8, scores)
    for one in kept:
        assert found.threshold(8, max_false_accept=one.false_accept_rate) == one.threshold
        accepted = int(np.count_nonzero(ratios[~trials.labels] >= one.threshold))
        allowed = math.floor(one.false_accept_rate * 1000 + 1e-9)
        assert accepted <= allowed
        # The next lower non-target would be one too many.
        lower = ratios[~trials.labels][ratios[~trials.labels] < one.threshold].max()
        assert np.count_nonzero(ratios[~trials.labels] >= lower) > allowed
        assert ties or accepted == allowed
        assert one.false_reject_rate == np.mean(ratios[trials.labels] < one.threshold)


def test_json_and_back() -> None:
    trials = made_trials(30, 120, 20)
    scores = {dim: gaussian_scores(trials, 0.3, 0.2, dim) for dim in (8, 4)}
    seconds = np.linspace(1.5, 6, 20)
    before = fit_calibration(scores, trials, seconds=seconds, weights_sha256="cd")
    text = json.dumps(before.to_dict(), allow_nan=False)
    after = Calibration.from_dict(json.loads(text))
    assert after == dataclasses.replace(before, dims=dict(before.dims))
    assert sorted(after.dims) == [4, 8] and after.durations == (1.5, 6.0) and after.weights_sha256 == "cd"
    assert after.trial_list["sha256"] == "ab" and after.trial_list["different_speaker_trials"] == 120


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other/1"}, "'other/1'"),
        ({"dims": []}, "0 dims"),
        ({"dims": [{"dim": 4}]}, "score_weight: Field required"),
        ({"quality": "loudness"}, "loudness"),
        ({"durations_seconds": None}, "range is missing"),
        ({"prior": 1.5}, "between 0 and 1"),
        ({"trial_list": None}, "TypeError"),
    ],
)
def test_damaged_json(change: dict[str, object], message: str) -> None:
    trials = made_trials(30, 120, 20)
    values = fit_calibration({4: gaussian_scores(trials, 0.3, 0.2)}, trials, seconds=np.linspace(1, 6, 20)).to_dict()
    with pytest.raises(CheckpointError, match=message):
        Calibration.from_dict({**values, **change})
    broken = json.loads(json.dumps(values).replace(f'"intercept": {values["dims"][0]["intercept"]}', '"intercept": NaN'))
    with pytest.raises(CheckpointError, match="not finite"):
        Calibration.from_dict(broken)


def test_durations_outside_those_seen_are_taken_for_the_nearest() -> None:
    trials = made_trials(60, 120, 20)
    found = fit_calibration({4: gaussian_scores(trials, 0.3, 0.2)}, trials, seconds=np.linspace(2, 6, 20))
    inside = found.log_likelihood_ratios(4, [0.2], [2.0], [6.0])
    assert found.log_likelihood_ratios(4, [0.2], [0.1], [500.0]) == inside
    assert found.log_likelihood_ratios(4, [0.2], [3.0], [6.0]) != inside


def test_refusals() -> None:
    trials = made_trials(30, 120, 20)
    scores = gaussian_scores(trials, 0.3, 0.2)
    with pytest.raises(DataError, match=r"needs at least 1000 different-speaker trials; made has 120"):
        fit_calibration({4: scores}, trials, false_accept_rates=[0.001])
    with pytest.raises(DataError, match="at dim 4 the scores of same-speaker trials are no higher"):
        fit_calibration({4: -scores}, trials)
    with pytest.raises(DataError, match="NaN"):
        fit_calibration({4: np.where(np.arange(150) == 7, np.nan, scores)}, trials)
    with pytest.raises(DataError, match="30 same-speaker and 0 different"):
        fit_calibration({4: scores[:30]}, made_trials(30, 0, 20))
    for bad in (
        {"prior": 0.0},
        {"prior": 1.0},
        {"false_accept_rates": [0.0]},
        {"seconds": np.ones(19)},
        {"seconds": np.zeros(20)},
    ):
        with pytest.raises(InputError):
            fit_calibration({4: scores}, trials, **bad)
    found = fit_calibration({4: scores}, trials, seconds=np.linspace(1, 6, 20))
    with pytest.raises(InputError, match="dim 8 is not calibrated, only 4"):
        found.threshold(8)
    with pytest.raises(InputError, match=r"rate of 0.001, only for 0.05, 0.02, 0.01"):
        found.threshold(4, max_false_accept=0.001)
    with pytest.raises(InputError, match="not both"):
        found.threshold(4, prior=0.1, max_false_accept=0.01)
    with pytest.raises(InputError, match="uses durations"):
        found.log_likelihood_ratios(4, [0.1])
    with pytest.raises(DataError, match="NaN"):
        found.log_likelihood_ratios(4, [math.nan], [1.0], [1.0])
