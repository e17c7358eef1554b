"""Cosines of trials whose enrolment side is the average of several recordings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from mrl.errors import InputError
from mrl.scoring.cosine import check_dims, prefix_norms, score_prefixes
from mrl.trials.enrolment import EnrolledTrials
from mrl.trials.lists import TrialList

FloatMatrix = npt.NDArray[np.float32]


def score_enrolled(
    embeddings: npt.ArrayLike, enrolled: EnrolledTrials, dims: Iterable[int]
) -> dict[int, npt.NDArray[np.float32]]:
    """Return the cosine of every trial at every prefix length, enrolments being averages.

    At each prefix length the embedding of an enrolment is the mean of its recordings' prefixes, each at unit length, as a system
    of that length alone would have it: the mean of whole embeddings cut afterwards is another vector.

    Args:
        embeddings: (recordings, dim), row i belongs to ``enrolled.recordings[i]``; any scale.
        enrolled: the trials.
        dims: prefix lengths, each in 1..dim.

    Returns:
        ``{dim: (trials,) float32}``, raw cosines in [-1, 1], in ascending order of dim.

    Raises:
        DataError: an embedding is not finite, or a prefix of one or of an average has no length.
        InputError: wrong shape or dims.
    """
    pairs = enrolled_pairs(enrolled)
    scores: dict[int, FloatMatrix] = {}
    for dim, rows in enrolled_prefixes(embeddings, enrolled, dims):
        scores |= score_prefixes(rows, pairs, [dim])
    return scores


def enrolled_prefixes(
    embeddings: npt.ArrayLike, enrolled: EnrolledTrials, dims: Iterable[int]
) -> Iterator[tuple[int, FloatMatrix]]:
    """Yield every prefix length with the rows (enrolments + recordings, dim): averages first, then unit-length recordings.

    Args and errors are those of :func:`score_enrolled`.
    """
    matrix = np.asarray(embeddings, dtype=np.float32)
    if matrix.ndim != 2 or len(matrix) != len(enrolled.recordings):
        raise InputError(
            f"embeddings must be (recordings, dim) with one row for each of the {len(enrolled.recordings)} recordings of the "
            f"trials; found shape {matrix.shape}"
        )
    ordered = check_dims(dims, matrix.shape[1])
    unit, inverse_norms = prefix_norms(matrix[:, : ordered[-1]], ordered, enrolled.recordings)
    for dim in ordered:
        prefixes = unit[:, :dim] * inverse_norms[dim][:, None]
        yield dim, np.concatenate([_averages(prefixes, enrolled.members), prefixes])


def enrolled_pairs(enrolled: EnrolledTrials) -> TrialList:
    """Return the trials as pairs of the rows of :func:`enrolled_prefixes`."""
    trials = enrolled.trials
    enrolment_names = {int(row): trials.utterances[name] for row, name in zip(enrolled.enrol, trials.enrol, strict=True)}
    names = (*(enrolment_names[row] for row in range(len(enrolled.members))), *enrolled.recordings)
    test = enrolled.test + np.int32(len(enrolled.members))
    return TrialList(names, enrolled.enrol, test, trials.labels, trials.source)


def _averages(rows: FloatMatrix, members: Sequence[tuple[int, ...]]) -> FloatMatrix:
    flat = np.fromiter((member for group in members for member in group), dtype=np.int64)
    counts = np.array([len(group) for group in members])
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    means: FloatMatrix = (np.add.reduceat(rows[flat].astype(np.float64), starts, axis=0) / counts[:, None]).astype(np.float32)
    return means
