"""Intervals that resample speakers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.errors import DataError, InputError
from mrl.scoring import SpeakerResamples, bootstrap_metrics, equal_error_rate, interval_of, minimum_dcf, paired_difference
from mrl.trials import TrialList
from tests.embeddings.fakes import all_pairs


def _list(num_speakers: int, per_speaker: int) -> TrialList:
    return TrialList.from_pairs(all_pairs([f"s{s}/{u}" for s in range(num_speakers) for u in range(per_speaker)]))


def _speaker_scores(trials: TrialList, seed: int, grid: int | None = None) -> np.ndarray:
    """Scores in which some speakers are easier than others."""
    random = np.random.default_rng(seed)
    names = [name.split("/")[0] for name in trials.utterances]
    ease = {name: random.standard_normal() for name in sorted(set(names))}
    mean = np.array([ease[name] for name in names])
    scores = 0.5 * (mean[trials.enrol] + mean[trials.test]) + 2 * trials.labels + random.standard_normal(len(trials))
    return np.round(scores * grid) / grid if grid else scores


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), grid=st.sampled_from([1, 3, None]))
def test_equals_repeating_each_trial_as_often_as_it_weighs(seed: int, grid: int | None) -> None:
    trials = _list(6, 3)
    scores = _speaker_scores(trials, seed, grid)
    resamples = SpeakerResamples.draw(trials, 100, seed=seed)
    replicates = bootstrap_metrics([scores], resamples, p_targets=(0.05, 0.5))[0]
    names = [name.split("/")[0] for name in trials.utterances]
    for number in range(0, 100, 7):
        times = dict(zip(resamples.speakers, resamples.multiplicities[number].tolist(), strict=True))
        repeat = [
            times[names[a]] * (1 if names[a] == names[b] else times[names[b]])
            for a, b in zip(trials.enrol, trials.test, strict=True)
        ]
        repeated, labels = np.repeat(scores, repeat), np.repeat(trials.labels, repeat)
        assert replicates.equal_error_rate[number] == pytest.approx(equal_error_rate(repeated, labels), abs=1e-12)
        for p_target in (0.05, 0.5):
            expected = minimum_dcf(repeated, labels, p_target)
            assert replicates.minimum_dcf[p_target][number] == pytest.approx(expected, abs=1e-12)


def test_draws_are_of_all_speakers_and_repeatable() -> None:
    trials = _list(8, 2)
    first, again, other = (SpeakerResamples.draw(trials, 200, seed=seed) for seed in (1, 1, 2))
    assert (first.multiplicities.sum(1) == 8).all()
    np.testing.assert_array_equal(first.multiplicities, again.multiplicities)
    assert (first.multiplicities != other.multiplicities).any()
    # Each speaker is drawn once on average, with the variance of a multinomial.
    assert first.multiplicities.mean() == 1.0
    assert first.multiplicities.var(0).mean() == pytest.approx(1 - 1 / 8, rel=0.15)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """The true rate, from a list of 1,500 speakers, lies in the intervals of small lists about 19 times in 20."""
    random = np.random.default_rng(0)

    def draw(num_speakers: int) -> tuple[TrialList, np.ndarray]:
        trials = TrialList.from_pairs(
            [(True, f"s{s}/0", f"s{s}/1") for s in range(num_speakers)]
            + [(False, f"s{s}/0", f"s{(s + 1 + k) % num_speakers}/1") for s in range(num_speakers) for k in range(3)]
        )
        speaker = random.standard_normal(num_speakers)
        index = np.array([int(name[1:].split("/")[0]) for name in trials.utterances])
        shared = 0.7 * (speaker[index[trials.enrol]] + speaker[index[trials.test]])
        return trials, shared + 2.5 * trials.labels + random.standard_normal(len(trials))

    trials, scores = draw(1500)
    truth = equal_error_rate(scores, trials.labels)
    covered = 0
    for seed in range(60):
        trials, scores = draw(40)
        interval = interval_of(bootstrap_metrics([scores], SpeakerResamples.draw(trials, 200, seed=seed))[0].equal_error_rate)
        covered += interval.low <= truth <= interval.high
    assert 50 <= covered <= 60


def test_paired_difference_cancels_what_both_share() -> None:
    trials = _list(12, 4)
    resamples = SpeakerResamples.draw(trials, 400, seed=0)
    scores = _speaker_scores(trials, 5)
    worse = scores + 0.35 * np.random.default_rng(1).standard_normal(len(scores)) - 0.8 * trials.labels
    (a, b) = bootstrap_metrics([scores, worse], resamples)
    rates = [equal_error_rate(values, trials.labels) for values in (scores, worse)]
    found = paired_difference(rates[1], rates[0], b.equal_error_rate, a.equal_error_rate)
    assert found.difference == rates[1] - rates[0] > 0
    assert 0 < found.interval.low < found.difference < found.interval.high
    assert found.p_value < 0.05
    alone = interval_of(b.equal_error_rate)
    assert found.interval.high - found.interval.low < alone.high - alone.low
    same = paired_difference(rates[0], rates[0], a.equal_error_rate, a.equal_error_rate)
    assert (same.difference, same.interval.low, same.interval.high, same.p_value) == (0, 0, 0, 1)


def test_a_monotonic_change_of_the_scores_changes_nothing() -> None:
    trials = _list(6, 3)
    scores = _speaker_scores(trials, 2)
    first, second = bootstrap_metrics([scores, np.exp(scores)], SpeakerResamples.draw(trials, 100))
    np.testing.assert_array_equal(first.equal_error_rate, second.equal_error_rate)


def test_lists_that_cannot_carry_an_interval() -> None:
    with pytest.raises(DataError, match=r"has 4 speakers.* at least 5"):
        SpeakerResamples.draw(_list(4, 3), 100)
    with pytest.raises(InputError, match="at least 100 resamples"):
        SpeakerResamples.draw(_list(6, 2), 50)
    # Two same-speaker trials, both of one speaker: a third of the resamples leave that speaker out.
    pairs = [(True, "s0/0", "s0/1")] + [(False, "s0/0", f"s{s}/0") for s in range(1, 8)]
    trials = TrialList.from_pairs(pairs)
    replicates = bootstrap_metrics([np.arange(8.0)], SpeakerResamples.draw(trials, 200))[0]
    assert np.isnan(replicates.equal_error_rate).any()
    with pytest.raises(DataError, match=r"of 200 resamples of the speakers hold only one kind"):
        interval_of(replicates.equal_error_rate)


def test_nan_scores_and_unlike_replicates_are_refused() -> None:
    trials = _list(6, 2)
    resamples = SpeakerResamples.draw(trials, 100)
    scores = _speaker_scores(trials, 0)
    scores[3] = np.nan
    with pytest.raises(DataError, match=r"1 of .* scores are NaN"):
        bootstrap_metrics([scores], resamples)
    with pytest.raises(InputError, match="same resamples"):
        paired_difference(0, 0, np.zeros(100), np.zeros(200))
