"""The funnel: something short of every voice gives a shortlist, the whole embeddings of the shortlist the answer.

What is short is either a Matryoshka prefix of 32 or 64 numbers, ranked by the cosine of the prefixes, or the signs of all
numbers, one bit each, ranked by the bits that differ. The signs of 256 numbers take a quarter of the bytes of 32 of them and find
the right voice of a similar recording as well, but not the most similar of wrong ones, which are alike in the few directions that
carry most (docs/identification.md has the figures). A prefix of 64 finds both and is the default.

Exact answers: a unit-length query ``q`` and voice ``v`` are cut into prefix ``p`` and rest ``r``. Their cosine is
``qp.vp + qr.vr``, and by Cauchy-Schwarz it is at most ``qp.vp + |qr| |vr|``. Voices whose bound lies below the best cosines found
need not be looked at. How many are left depends on the voices: few where the right voice is enrolled and one answer or a minimum
is asked for, nearly all where nothing is similar. Where they are too many, all voices are compared in order, which is faster than
picking them out.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import numpy.typing as npt

from mrl.embeddings.compact import count_bits, encode_embeddings
from mrl.errors import InputError
from mrl.identification.averages import FloatMatrix
from mrl.identification.search import ExactSearch, Hits, hits, scores_of_rows, unit_queries
from mrl.identification.top_scores import Rows, RunningHighest
from mrl.identification.voice_matrix import HEAD_DIM, PREFIX_DIMS, VoiceMatrix

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
            rows = [one.rows for one in best]
            if self._exact:
                found += self._complete(some, rows, count, minimum)
                continue
            found += [hits(self._voices, query, one, count, minimum) for query, one in zip(some, rows, strict=True)]
        return found

    def _compare_prefixes(self, queries: FloatMatrix, best: list[RunningHighest], dim: int) -> None:
        prefixes = np.ascontiguousarray(queries[:, :dim])
        inverse_lengths = HEAD_DIM + 1 + PREFIX_DIMS.index(dim)
        for first, block in self._voices.head_blocks():
            cosines = prefixes @ block[:dim]  # of the prefixes, up to the length of the query's
            cosines *= block[inverse_lengths]
            for one, row in zip(best, cosines, strict=True):
                one.add(row, first)

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
