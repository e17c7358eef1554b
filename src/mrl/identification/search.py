"""One interface for every way of finding the voices most like an embedding, and the plain way: comparing with all of them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mrl.embeddings.compact import count_bits, encode_embeddings
from mrl.errors import InputError
from mrl.identification.store import FloatMatrix
from mrl.identification.voice_matrix import HEAD_DIM, PREFIX_DIMS, VoiceMatrix

# The highest scores of very many, without sorting them.


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
            for highest, row in zip(best, scores, strict=True):
                highest.add(row, first)
        return [hits(self._voices, query, highest.rows, count, minimum) for query, highest in zip(unit, best, strict=True)]

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


# The funnel: something short of every voice gives a shortlist, the whole embeddings of the shortlist the answer.
#
# What is short is either a Matryoshka prefix of 32 or 64 numbers, ranked by the cosine of the prefixes, or the signs of all
# numbers, one bit each, ranked by the bits that differ. The signs of 256 numbers take a quarter of the bytes of 32 of them
# and find the right voice of a similar recording as well, but not the most similar of wrong ones, which are alike in the few
# directions that carry most (docs/how-to/enrol-and-identify.md has the figures). A prefix of 64 finds both and is the default.
#
# Exact answers: a unit-length query ``q`` and voice ``v`` are cut into prefix ``p`` and rest ``r``. Their cosine is ``qp.vp +
# qr.vr``, and by Cauchy-Schwarz it is at most ``qp.vp + |qr| |vr|``. Voices whose bound lies below the best cosines found
# need not be looked at. How many are left depends on the voices: few where the right voice is enrolled and one answer or a
# minimum is asked for, nearly all where nothing is similar. Where they are too many, all voices are compared in order, which
# is faster than picking them out.


SHORTLIST = 1000


_QUERIES_AT_ONCE = 32


_ROUNDING = 1e-5  # of sums of a few hundred products in single precision, far more than they can be off


_FIRST_CHUNK = 4096


_MOST_CANDIDATES = 1 / 32
"""Share of the voices from which on comparing all of them is faster."""


class FunnelSearch:
    """Search among a shortlist.

    Args:
        voices: the voices; without heads (short embeddings, ``binary``) all are compared, as :class:`ExactSearch` does.
        shortlist: how many voices' whole embeddings are compared.
        by: what the shortlist is made by: a prefix length of :data:`PREFIX_DIMS`, or "signs".
        exact: find exactly what :class:`ExactSearch` finds; otherwise what is not on the shortlist is missed.
        threads: for several queries by signs; as many as there are processors when None.
    """

    def __init__(
        self,
        voices: VoiceMatrix,
        *,
        shortlist: int = SHORTLIST,
        by: int | Literal["signs"] = HEAD_DIM,
        exact: bool = False,
        threads: int | None = None,
    ) -> None:
        if by != "signs" and by not in PREFIX_DIMS:
            raise InputError(f"a shortlist is made by a prefix of {' or '.join(map(str, PREFIX_DIMS))} or by signs, found {by!r}")
        if isinstance(shortlist, bool) or shortlist < 1 or (threads is not None and threads < 1):
            raise InputError(f"shortlist and threads must be whole numbers from 1 up, found {shortlist} and {threads}")
        self._voices, self._shortlist, self._by, self._exact = voices, shortlist, by, exact
        self._threads = threads or os.cpu_count() or 1

    def search(self, queries: npt.ArrayLike, count: int, *, minimum: float | None = None) -> list[Hits]:
        """See :class:`mrl.identification.search.VoiceSearch`."""
        if self._voices.heads is None:
            return ExactSearch(self._voices).search(queries, count, minimum=minimum)
        unit = unit_queries(queries, self._voices.dim, count)
        found: list[Hits] = []
        for first in range(0, len(unit), _QUERIES_AT_ONCE):
            some = unit[first : first + _QUERIES_AT_ONCE]
            best = [RunningHighest(max(count, self._shortlist)) for _ in some]
            if self._by == "signs":
                self._compare_signs(some, best)
            else:
                self._compare_prefixes(some, best, int(self._by))
            rows = [highest.rows for highest in best]
            if self._exact:
                found += self._complete(some, rows, count, minimum)
                continue
            found += [hits(self._voices, query, chosen, count, minimum) for query, chosen in zip(some, rows, strict=True)]
        return found

    def _compare_prefixes(self, queries: FloatMatrix, best: list[RunningHighest], dim: int) -> None:
        prefixes = np.ascontiguousarray(queries[:, :dim])
        inverse_lengths = HEAD_DIM + 1 + PREFIX_DIMS.index(dim)
        for first, block in self._voices.head_blocks():
            cosines = prefixes @ block[:dim]  # of the prefixes, up to the length of the query's
            cosines *= block[inverse_lengths]
            for highest, row in zip(best, cosines, strict=True):
                highest.add(row, first)

    def _compare_signs(self, queries: FloatMatrix, best: list[RunningHighest]) -> None:
        wanted = encode_embeddings(queries, "binary").view("<u8")
        if len(queries) == 1:
            self._compare_one(wanted[0], best[0])
            return
        with ThreadPoolExecutor(min(len(queries), self._threads)) as threads:  # NumPy lets go of the interpreter
            list(threads.map(self._compare_one, wanted, best))

    def _compare_one(self, query: npt.NDArray[np.uint64], best: RunningHighest) -> None:
        for first, block in self._voices.sign_blocks():
            differing = count_bits(block[0] ^ query[0]).astype(np.int16)
            for words, word in zip(block[1:], query[1:], strict=True):
                differing += count_bits(words ^ word)
            best.add(np.negative(differing, dtype=np.float32), first)

    def _complete(self, queries: FloatMatrix, shortlists: list[Rows], count: int, minimum: float | None) -> list[Hits]:
        """Return the best ``count`` of all voices for each query, given good ones."""
        lowest = -np.inf if minimum is None else minimum
        best: list[_Candidates] = []
        floors: list[float] = []
        for query, rows in zip(queries, shortlists, strict=True):
            scores = np.sort(scores_of_rows(self._voices, query, rows))
            floors.append(max(float(scores[-count]) if len(scores) >= count else -np.inf, lowest) - _ROUNDING)
            best.append(_Candidates(rows))
        rests = np.sqrt(np.einsum("qd,qd->q", queries[:, HEAD_DIM:], queries[:, HEAD_DIM:], dtype=np.float64))
        weights = np.concatenate([queries[:, :HEAD_DIM], rests[:, None].astype(np.float32)], axis=1)
        for first, block in self._voices.head_blocks():
            bounds = weights @ block[: HEAD_DIM + 1]
            for candidates, row, floor in zip(best, bounds, floors, strict=True):
                candidates.add(row, first, floor)
        too_many = [
            candidates.count > _MOST_CANDIDATES * len(self._voices) + len(rows)
            for candidates, rows in zip(best, shortlists, strict=True)
        ]
        compared = iter(ExactSearch(self._voices).search(queries[too_many], count, minimum=minimum) if any(too_many) else ())
        found = []
        for candidates, query, floor, many in zip(best, queries, floors, too_many, strict=True):
            if many:
                found.append(next(compared))
            else:
                rows = candidates.narrow(self._voices, query, count, floor)
                found.append(hits(self._voices, query, rows, count, minimum))
        return found


class _Candidates:
    """The voices whose bound reaches the floor, and the shortlist that the floor comes from."""

    def __init__(self, shortlist: Rows) -> None:
        self._shortlist = shortlist
        self._rows: list[Rows] = []
        self._bounds: list[npt.NDArray[np.float32]] = []
        self.count = 0

    def add(self, bounds: npt.NDArray[np.float32], first_row: int, floor: float) -> None:
        reached = np.flatnonzero(bounds >= floor)
        self.count += len(reached)
        self._rows.append(reached + first_row)
        self._bounds.append(bounds[reached])

    def narrow(self, voices: VoiceMatrix, query: FloatMatrix, count: int, floor: float) -> Rows:
        """Look at the candidates from the highest bound on; what is found raises the floor, and the rest falls below it."""
        rows, bounds = np.concatenate(self._rows), np.concatenate(self._bounds)
        order = np.argsort(-bounds, kind="stable")
        rows, bounds = rows[order], bounds[order]
        best = RunningHighest(count)
        seen: list[Rows] = [self._shortlist]
        done, size = 0, _FIRST_CHUNK
        while done < len(rows) and bounds[done] >= floor:
            chunk = np.sort(rows[done : done + size])
            scores = scores_of_rows(voices, query, chunk).astype(np.float32)
            best.add(scores, 0)
            floor = max(floor, best.floor - _ROUNDING)
            seen.append(chunk[scores >= floor])
            done, size = done + size, min(2 * size, 16 * _FIRST_CHUNK)
        return np.unique(np.concatenate(seen))
