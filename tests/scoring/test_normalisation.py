"""Centring, cohorts and AS-Norm, against plain loops in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.errors import DataError, InputError
from mrl.scoring import normalisation, score_prefixes
from mrl.scoring.normalisation import (
    CohortStatistics,
    adaptive_symmetric_norm,
    centre,
    cohort_statistics,
    speaker_means,
    symmetric_norm,
)
from mrl.trials import TrialList

DIMS = (3, 8, 16)


def some_trials(utterances: int, count: int, seed: int = 0) -> TrialList:
    generator = np.random.default_rng(seed)
    names = tuple(f"u{number}" for number in range(utterances))
    enrol, test = generator.integers(utterances, size=(2, count)).astype(np.int32)
    return TrialList(names, enrol, test, generator.random(count) < 0.5)


def rows(count: int, seed: int, dim: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def plain_cosine(first: np.ndarray, second: np.ndarray, dim: int) -> float:
    a, b = first[:dim].astype(np.float64), second[:dim].astype(np.float64)
    return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))


def plain_as_norm(enrol: np.ndarray, test: np.ndarray, cohort: np.ndarray, trials: TrialList, dim: int, top: int) -> list[float]:
    """Every trial on its own, every score on its own."""
    normalised = []
    for first, second in zip(trials.enrol, trials.test, strict=True):
        score = plain_cosine(enrol[first], test[second], dim)
        sides = []
        for one in (enrol[first], test[second]):
            highest = sorted((plain_cosine(one, other, dim) for other in cohort), reverse=True)[:top]
            mean = sum(highest) / top
            deviation = (sum((value - mean) ** 2 for value in highest) / top) ** 0.5
            sides.append((score - mean) / deviation)
        normalised.append(sum(sides) / 2)
    return normalised


@pytest.mark.parametrize("block_scores", [1, 70, 1 << 22])
def test_as_norm_against_a_plain_loop(block_scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalisation, "_BLOCK_SCORES", block_scores)
    trials, matrix, cohort = some_trials(12, 40), rows(12, 1), rows(30, 2)
    raw = score_prefixes(matrix, trials, DIMS)
    found = adaptive_symmetric_norm(raw, matrix, matrix, cohort, trials, DIMS, top=7)
    assert list(found) == list(DIMS)
    for dim in DIMS:
        assert found[dim].dtype == np.float32
        np.testing.assert_allclose(found[dim], plain_as_norm(matrix, matrix, cohort, trials, dim, 7), rtol=2e-4, atol=2e-4)


def test_as_norm_with_sides_made_differently() -> None:
    trials, enrol, test, cohort = some_trials(9, 25), rows(9, 1), rows(9, 5), rows(20, 2)
    raw = {8: [plain_cosine(enrol[a], test[b], 8) for a, b in zip(trials.enrol, trials.test, strict=True)]}
    found = adaptive_symmetric_norm(raw, enrol, test, cohort, trials, [8], top=20)
    np.testing.assert_allclose(found[8], plain_as_norm(enrol, test, cohort, trials, 8, 20), rtol=2e-4, atol=2e-4)


@given(
    seed=st.integers(0, 1000),
    scale=st.floats(1e-3, 1e3),
    shift=st.floats(-5, 5),
    count=st.integers(1, 20),
)
@settings(max_examples=30, deadline=None)
def test_an_affine_change_of_all_scores_changes_nothing(seed: int, scale: float, shift: float, count: int) -> None:
    """Trial scores and cohort scores on another scale (1 + cosine, degrees, ...) give the same normalised scores."""
    generator = np.random.default_rng(seed)
    trials, scores = some_trials(6, count, seed), generator.normal(size=count)
    sides = [CohortStatistics(generator.normal(size=6), generator.uniform(0.5, 2.0, 6)) for _ in range(2)]
    moved = [CohortStatistics(scale * side.mean + shift, scale * side.deviation) for side in sides]
    before = symmetric_norm(scores, *sides, trials)
    np.testing.assert_allclose(symmetric_norm(scale * scores + shift, *moved, trials), before, rtol=1e-4, atol=1e-4)


@given(seed=st.integers(0, 1000), top=st.integers(5, 15))
@settings(max_examples=15, deadline=None)
def test_what_must_not_matter(seed: int, top: int) -> None:
    """Order of the cohort, scale of embeddings, and which side is called enrolment."""
    generator = np.random.default_rng(seed)
    trials, matrix, cohort = some_trials(7, 20, seed), rows(7, seed), rows(15, seed + 1)
    raw = score_prefixes(matrix, trials, DIMS)
    expected = adaptive_symmetric_norm(raw, matrix, matrix, cohort, trials, DIMS, top=top)
    swapped = TrialList(trials.utterances, trials.test, trials.enrol, trials.labels)
    scales = generator.uniform(0.1, 10, (7, 1)).astype(np.float32)
    for other in (
        adaptive_symmetric_norm(raw, matrix, matrix, cohort[generator.permutation(15)], trials, DIMS, top=top),
        adaptive_symmetric_norm(raw, matrix * scales, matrix * scales, 3 * cohort, trials, DIMS, top=top),
        adaptive_symmetric_norm(raw, matrix, matrix.copy(), cohort, swapped, DIMS, top=top),
    ):
        for dim in DIMS:
            np.testing.assert_allclose(other[dim], expected[dim], rtol=1e-3, atol=1e-3)


def test_statistics_of_a_hand_made_cohort() -> None:
    cohort = np.array([[1, 0], [0, 1], [-1, 0], [0.6, 0.8]], np.float32)
    found = cohort_statistics(np.array([[2, 0]], np.float32), cohort, [2], top=2)[2]
    # Cosines are 1, 0, -1 and 0.6: the two highest have mean 0.8 and deviation 0.2.
    assert found.mean[0] == pytest.approx(0.8) and found.deviation[0] == pytest.approx(0.2)


def test_as_norm_refuses() -> None:
    trials, matrix, cohort = some_trials(5, 10), rows(5, 1), rows(6, 2)
    raw = score_prefixes(matrix, trials, [8])
    for top in (1, 7):
        with pytest.raises(InputError, match=r"2\.\.6"):
            adaptive_symmetric_norm(raw, matrix, matrix, cohort, trials, [8], top=top)
    with pytest.raises(InputError, match="hold no dim"):
        adaptive_symmetric_norm(raw, matrix, matrix, cohort, trials, [4], top=3)
    with pytest.raises(InputError, match="one row for each of the 5"):
        adaptive_symmetric_norm(raw, matrix[:4], matrix, cohort, trials, [8], top=3)
    with pytest.raises(InputError, match="of one network"):
        adaptive_symmetric_norm(raw, matrix, matrix, cohort[:, :4], trials, [8], top=3)
    with pytest.raises(DataError, match="all but equal"):
        adaptive_symmetric_norm(raw, matrix, matrix, np.repeat(cohort[:1], 6, axis=0), trials, [8], top=3)
    broken = matrix.copy()
    broken[trials.enrol[0], 3] = np.nan
    with pytest.raises(DataError, match="NaN"):
        adaptive_symmetric_norm(raw, broken, broken, cohort, trials, [8], top=3)


def test_centring() -> None:
    matrix, cohort = rows(5, 1) + 4, rows(50, 2) + 3
    found = centre(matrix, cohort)
    expected = matrix.astype(np.float64) - cohort.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(centre(matrix[:, :4], cohort[:, :4]), found[:, :4], atol=1e-6)
    np.testing.assert_allclose(centre(cohort, cohort).mean(axis=0), 0, atol=1e-6)
    with pytest.raises(InputError, match="rows of 16"):
        centre(matrix, cohort[:, :3])
    with pytest.raises(DataError, match="1 of 50 rows of the cohort"):
        cohort[7, 2] = np.inf
        centre(matrix, cohort)


def test_speaker_means_are_of_unit_length_rows() -> None:
    matrix = np.array([[10, 0], [0, 3], [0, -2], [1, 0]], np.float32)
    means, names = speaker_means(matrix, ["b", "a", "b", "b"])
    assert names == ("a", "b")
    np.testing.assert_allclose(means, [[0, 1], [2 / 3, -1 / 3]], atol=1e-7)
    with pytest.raises(InputError, match="one speaker per row"):
        speaker_means(matrix, ["a"])
    with pytest.raises(DataError, match=r"'a \(row 1\)'"):
        speaker_means(np.array([[1, 0], [0, 0]], np.float32), ["b", "a"])
