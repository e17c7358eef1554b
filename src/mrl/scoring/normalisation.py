"""Normalising embeddings and scores with a cohort: centring and adaptive symmetric score normalisation.

A cohort is a set of speakers that occur in no trial. Every length of prefix is normalised with the cohort's prefixes of that
length, so one full embedding of trials and cohort serves all of them.

Source: P. Matějka et al., "Analysis of score normalization in multilingual speaker recognition", Interspeech 2017 (adaptive
S-norm, variant 1: each side picks its own closest cohort speakers).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mrl.errors import DataError, InputError
from mrl.scoring.cosine import check_dims, prefix_norms, segments
from mrl.trials.lists import TrialList

FloatMatrix = npt.NDArray[np.float32]

FloatVector = npt.NDArray[np.float64]

# Scores of a block of utterances against the whole cohort: bounds the memory to about four times as many bytes x 4.
_BLOCK_SCORES = 1 << 22

# Cosines are float32: dividing by a smaller spread than this would show their rounding (0.1 % at this limit).
_SMALLEST_DEVIATION = 1e-4


class CohortStatistics(NamedTuple):
    """Mean and standard deviation (utterances,) of each utterance's highest scores against the cohort."""

    mean: FloatVector
    deviation: FloatVector


def centre(embeddings: npt.ArrayLike, cohort: npt.ArrayLike) -> FloatMatrix:
    """Return ``embeddings`` (n, dim) minus the mean of ``cohort`` (m, dim), both from the same network and on the same scale.

    The mean is taken for each dimension, so the prefixes of the result are the centred prefixes.

    Raises:
        DataError: NaN or infinity.
        InputError: shapes do not fit, or the cohort is empty.
    """
    rows, others = _matrix(embeddings, "embeddings"), _matrix(cohort, "cohort")
    if not len(others) or rows.shape[1] != others.shape[1]:
        raise InputError(f"a cohort needs rows of {rows.shape[1]} dimensions; found shape {others.shape}")
    for name, matrix in (("embeddings", rows), ("cohort", others)):
        if not np.isfinite(matrix).all():
            bad = np.count_nonzero(~np.isfinite(matrix).all(axis=1))
            raise DataError(f"{bad} of {len(matrix)} rows of the {name} hold NaN or infinity")
    centred: FloatMatrix = rows - others.mean(axis=0, dtype=np.float64).astype(np.float32)
    return centred


def speaker_means(embeddings: npt.ArrayLike, speakers: Sequence[str]) -> tuple[FloatMatrix, tuple[str, ...]]:
    """Return one row per speaker, the mean of its embeddings at unit length, and the speakers' names in sorted order.

    Args:
        embeddings: (n, dim), of any scale.
        speakers: (n,) the speaker of every row.

    Raises:
        DataError: an embedding is not finite or all zero.
        InputError: the numbers of rows differ.
    """
    rows = _matrix(embeddings, "embeddings")
    if len(rows) != len(speakers) or not len(rows):
        raise InputError(f"speaker means need one speaker per row; found {len(rows)} rows and {len(speakers)} speakers")
    unit, _ = prefix_norms(rows, (rows.shape[1],), [f"{speaker} (row {row})" for row, speaker in enumerate(speakers)])
    names, of_row = np.unique(np.asarray(speakers, dtype=np.str_), return_inverse=True)
    sums = np.zeros((len(names), rows.shape[1]), dtype=np.float64)
    np.add.at(sums, of_row, unit)
    return (sums / np.bincount(of_row)[:, None]).astype(np.float32), tuple(str(name) for name in names)


def cohort_statistics(
    embeddings: npt.ArrayLike, cohort: npt.ArrayLike, dims: Iterable[int], *, top: int = 300
) -> dict[int, CohortStatistics]:
    """Return, at every prefix length, mean and standard deviation of each row's ``top`` highest cosines against the cohort.

    Args:
        embeddings: (n, dim), of any scale.
        cohort: (cohort, dim), likewise.
        dims: prefix lengths.
        top: how many cohort rows each utterance picks, 2..cohort.

    Raises:
        DataError: a row is not finite or all zero, or its ``top`` scores are all but equal.
        InputError: shapes, dims or ``top`` cannot be used.
    """
    rows, others = _matrix(embeddings, "embeddings"), _matrix(cohort, "cohort")
    if rows.shape[1] != others.shape[1]:
        raise InputError(
            f"embeddings have {rows.shape[1]} dimensions and the cohort's {others.shape[1]}; they must be of one network"
        )
    if not 2 <= top <= len(others):
        raise InputError(f"top must lie in 2..{len(others)}, the size of the cohort; found {top}")
    ordered = check_dims(dims, rows.shape[1])
    width = ordered[-1]
    unit, inverse = prefix_norms(rows[:, :width], ordered, [f"row {row}" for row in range(len(rows))])
    unit_cohort, inverse_cohort = prefix_norms(others[:, :width], ordered, [f"cohort row {row}" for row in range(len(others))])
    statistics = {dim: CohortStatistics(np.empty(len(rows)), np.empty(len(rows))) for dim in ordered}
    block = max(1, _BLOCK_SCORES // len(others))
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        dot = np.zeros((len(unit[part]), len(others)), dtype=np.float32)
        for dim, segment in segments(ordered):
            dot += unit[part, segment] @ unit_cohort[:, segment].T
            scores = dot * inverse[dim][part, None] * inverse_cohort[dim]
            highest = np.partition(scores, len(others) - top, axis=1)[:, len(others) - top :].astype(np.float64)
            statistics[dim].mean[part] = highest.mean(axis=1)
            statistics[dim].deviation[part] = highest.std(axis=1)
    for dim, (_, deviation) in statistics.items():
        flat = np.count_nonzero(deviation < _SMALLEST_DEVIATION)
        if flat:
            raise DataError(
                f"at dim {dim} the {top} highest cohort scores of {flat} of {len(rows)} utterances are all but equal, so they "
                "cannot be normalised; use a larger cohort of different speakers"
            )
    return statistics


def symmetric_norm(
    scores: npt.ArrayLike, enrol: CohortStatistics, test: CohortStatistics, trials: TrialList
) -> npt.NDArray[np.float32]:
    """Return ``((s - mean_e) / deviation_e + (s - mean_t) / deviation_t) / 2`` for every trial's score ``s``.

    Args:
        scores: (trials,).
        enrol, test: statistics (utterances,) of the two sides, indexed by ``trials.enrol`` and ``trials.test``.
        trials: the list.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (len(trials),):
        raise InputError(f"expected one score for each of the {len(trials)} trials; found shape {values.shape}")
    first = (values - enrol.mean[trials.enrol]) / enrol.deviation[trials.enrol]
    second = (values - test.mean[trials.test]) / test.deviation[trials.test]
    return (0.5 * (first + second)).astype(np.float32)


def adaptive_symmetric_norm(
    scores: Mapping[int, npt.ArrayLike],
    enrol: npt.ArrayLike,
    test: npt.ArrayLike,
    cohort: npt.ArrayLike,
    trials: TrialList,
    dims: Iterable[int],
    *,
    top: int = 300,
) -> dict[int, npt.NDArray[np.float32]]:
    """Return AS-Norm scores at every prefix length (adaptive S-norm).

    Each side of a trial is compared with every cohort speaker; its ``top`` highest cosines give a mean and a (population)
    standard deviation, and the normalised score is the mean of the two standardised ones. The result is not a cosine: it has no
    bounds, and thresholds for cosines do not hold for it.

    Args:
        scores: ``{dim: (trials,)}`` raw cosines, as :func:`mrl.scoring.score_prefixes` gives them.
        enrol: (utterances, dim), the full embeddings in the order of ``trials.utterances``, used for the first side.
        test: (utterances, dim), for the second side; the same matrix as ``enrol`` unless the sides were made differently.
        cohort: (cohort, dim) full embeddings, best one row per speaker (:func:`speaker_means`); of speakers in no trial.
        trials: the list.
        dims: prefix lengths; all must be in ``scores``.
        top: how many cohort rows each side picks.

    Returns:
        ``{dim: (trials,) float32}`` in ascending order of dim.

    Raises:
        DataError: an embedding is not finite or all zero, or its ``top`` scores are all but equal.
        InputError: shapes, dims or ``top`` cannot be used.
    """
    first = _matrix(enrol, "enrol")
    second = first if test is enrol else _matrix(test, "test")
    for name, matrix in (("enrol", first), ("test", second)):
        if len(matrix) != len(trials.utterances):
            raise InputError(
                f"{name} must hold one row for each of the {len(trials.utterances)} utterances; found {matrix.shape}"
            )
    ordered = check_dims(dims, first.shape[1])
    absent = [dim for dim in ordered if dim not in scores]
    if absent:
        raise InputError(f"scores hold no dim {absent}, only {sorted(scores)}")
    sides: list[dict[int, CohortStatistics]]
    if second is first:
        sides = [_statistics_of(first, cohort, np.union1d(trials.enrol, trials.test), ordered, top)] * 2
    else:
        pairs = ((first, trials.enrol), (second, trials.test))
        sides = [_statistics_of(matrix, cohort, np.unique(index), ordered, top) for matrix, index in pairs]
    return {dim: symmetric_norm(scores[dim], sides[0][dim], sides[1][dim], trials) for dim in ordered}


def _statistics_of(
    matrix: FloatMatrix, cohort: npt.ArrayLike, used: npt.NDArray[np.int32], dims: tuple[int, ...], top: int
) -> dict[int, CohortStatistics]:
    """Statistics of the rows in use, at their places among all rows; the others stay NaN."""
    by_dim: dict[int, CohortStatistics] = {}
    for dim, statistics in cohort_statistics(matrix[used], cohort, dims, top=top).items():
        placed = CohortStatistics(np.full(len(matrix), np.nan), np.full(len(matrix), np.nan))
        placed.mean[used], placed.deviation[used] = statistics
        by_dim[dim] = placed
    return by_dim


def _matrix(values: npt.ArrayLike, name: str) -> FloatMatrix:
    matrix = np.asarray(values, dtype=np.float32)
    if matrix.ndim != 2:
        raise InputError(f"{name} must be (n, dim); found shape {matrix.shape}")
    return matrix
