"""The highest scores of very many, without sorting them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_GROUP = 256


def highest(scores: Scores, count: int) -> Rows:
    """Return the positions, ascending, of the ``count`` highest scores (n,); of equal ones the first."""
    if count >= len(scores):
        return np.arange(len(scores))
    rows: Rows = np.arange(len(scores))
    groups = len(scores) // _GROUP
    if groups > 2 * count:
        # The count-th highest maximum of groups is a floor: count groups have a score that reaches it.
        maxima = scores[: groups * _GROUP].reshape(groups, _GROUP).max(axis=1)
        rows = np.flatnonzero(scores >= np.partition(maxima, groups - count)[groups - count])
        scores = scores[rows]
    limit = np.partition(scores, len(scores) - count)[len(scores) - count]
    chosen = scores > limit
    chosen[np.flatnonzero(scores == limit)[: count - np.count_nonzero(chosen)]] = True
    kept: Rows = rows[chosen]
    return kept


class RunningHighest:
    """The highest scores of rows that come in blocks, ascending; of equal scores the first."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.rows: Rows = np.empty(0, dtype=np.int64)
        self.scores: Scores = np.empty(0, dtype=np.float32)
        self.floor = -np.inf
        """A later row must score above this to be kept."""

    def add(self, scores: Scores, first_row: int) -> None:
        """Take in the scores (n,) of the rows from ``first_row`` on."""
        better = np.flatnonzero(scores > self.floor)
        if not len(better):
            return
        if len(better) > self._count:
            better = better[highest(scores[better], self._count)]
        merged = np.concatenate([self.scores, scores[better]])
        rows = np.concatenate([self.rows, better + first_row])
        kept = highest(merged, self._count)
        self.scores, self.rows = merged[kept], rows[kept]
        if len(self.scores) == self._count:
            self.floor = float(self.scores.min())
