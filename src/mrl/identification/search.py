"""One interface for every way of finding the voices most like an embedding, and the plain way: comparing with all of them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mrl.embeddings.compact import count_bits, encode_embeddings
from mrl.errors import InputError
from mrl.identification.averages import FloatMatrix
from mrl.identification.top_scores import Rows, RunningHighest, highest
from mrl.identification.voice_matrix import VoiceMatrix

_BLOCK_ROWS = 16_384
_SCORES_AT_ONCE = 1 << 20
_ROUNDING_MARGIN = 8
"""So many more are scored again in double precision, so that rounding in single precision decides nothing."""


class Hits(NamedTuple):
    """The voices found for one query, best first.

    Attributes:
        numbers: (found,) the store's numbers.
        scores: (found,) float32 cosines; for ``binary`` stores the cosines of the sign vectors.
    """

    numbers: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


class VoiceSearch(Protocol):
    """A way of finding voices."""

    def search(self, queries: npt.ArrayLike, count: int, *, minimum: float | None = None) -> list[Hits]:
        """Return the voices most like each query.

        Args:
            queries: (queries, dim) or (dim,), of any scale.
            count: how many to find, at most.
            minimum: lowest cosine that matters; what lies below is not returned.

        Raises:
            InputError: wrong shape, NaN or all zeros, or ``count`` below 1.
        """


class ExactSearch:
    """Comparing with every voice."""

    def __init__(self, voices: VoiceMatrix) -> None:
        self._voices = voices

    def search(self, queries: npt.ArrayLike, count: int, *, minimum: float | None = None) -> list[Hits]:
        """See :class:`VoiceSearch`."""
        unit = unit_queries(queries, self._voices.dim, count)
        score = self._hamming_scores if self._voices.form == "binary" else self._cosines
        best = [RunningHighest(count + _ROUNDING_MARGIN) for _ in unit]
        # What needs no decoding goes in long stretches: threads of the matrix product then meet less often.
        size = max(_BLOCK_ROWS, _SCORES_AT_ONCE // len(unit)) if self._voices.form == "float32" else _BLOCK_ROWS
        for first in range(0, len(self._voices), size):
            scores = score(unit, slice(first, first + size))
            for one, row in zip(best, scores, strict=True):
                one.add(row, first)
        return [hits(self._voices, query, one.rows, count, minimum) for query, one in zip(unit, best, strict=True)]

    def _cosines(self, queries: FloatMatrix, rows: slice) -> FloatMatrix:
        return queries @ self._voices.embeddings(rows).T

    def _hamming_scores(self, queries: FloatMatrix, rows: slice) -> FloatMatrix:
        words = np.ascontiguousarray(self._voices.encoded[rows]).view("<u8")
        wanted = encode_embeddings(queries, "binary").view("<u8")
        scores: FloatMatrix = np.empty((len(queries), len(words)), dtype=np.float32)
        for row, query in zip(scores, wanted, strict=True):
            differing = np.zeros(len(words), dtype=np.int32)
            for column, word in enumerate(query):
                differing += count_bits(words[:, column] ^ word)
            row[:] = 1.0 - differing * (2.0 / self._voices.dim)
        return scores


def unit_queries(queries: npt.ArrayLike, dim: int, count: int) -> FloatMatrix:
    """Return queries (queries, dim) float32 at unit length; check them and ``count``."""
    if isinstance(count, bool) or count < 1:
        raise InputError(f"count must be a whole number from 1 up, found {count}")
    rows = np.atleast_2d(np.asarray(queries, dtype=np.float64))
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise InputError(f"queries must be (queries, {dim}); found shape {rows.shape}")
    lengths = np.linalg.norm(rows, axis=1)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise InputError("a query holds NaN, infinity or only zeros; check the recording and the model")
    unit: FloatMatrix = (rows / lengths[:, None]).astype(np.float32)
    return unit


def scores_of_rows(voices: VoiceMatrix, query: FloatMatrix, rows: Rows) -> npt.NDArray[np.float64]:
    """Return the cosines (rows,) of a unit-length query (dim,) and some voices, summed in double precision.

    In a ``binary`` store the query is reduced to its signs too.
    """
    compared = np.where(query >= 0, 1.0, -1.0) / np.sqrt(len(query)) if voices.form == "binary" else query
    scores: npt.NDArray[np.float64] = voices.embeddings(rows).astype(np.float64) @ compared.astype(np.float64)
    return scores


def hits(voices: VoiceMatrix, query: FloatMatrix, rows: Rows, count: int, minimum: float | None) -> Hits:
    """Return the best ``count`` of some rows (each once), in order: highest cosine first, of equal ones the first row."""
    ordered = np.sort(rows)
    if voices.form != "binary" and len(ordered) > count + _ROUNDING_MARGIN:
        ordered = ordered[highest(voices.embeddings(ordered) @ query, count + _ROUNDING_MARGIN)]
    scores = scores_of_rows(voices, query, ordered).astype(np.float32)
    order = np.argsort(-scores, kind="stable")[:count]
    if minimum is not None:
        order = order[scores[order] >= minimum]
    return Hits(voices.numbers[ordered[order]].astype(np.int64), scores[order])
