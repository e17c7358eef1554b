"""Search by a graph index (HNSW) of the package usearch: milliseconds among millions of voices, after a slow build.

Source: Y. Malkov and D. Yashunin, "Efficient and robust approximate nearest neighbor search using hierarchical navigable small
world graphs", 2018. The extra ``index`` installs usearch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.errors import InputError, MissingDependencyError
from mrl.identification.search import ExactSearch, Hits, hits, unit_queries
from mrl.identification.voice_matrix import VoiceMatrix

_BLOCK_ROWS = 16_384


class UsearchSearch:
    """An index in memory, made from voices; approximate: what the graph does not lead to is missed.

    Its candidates are scored again with the voices as they are held, so scores are those of every other search.

    Args:
        voices: the voices; of ``binary`` ones all are compared, as :class:`ExactSearch` does.
        connectivity: links per voice in the graph.
        expansion_add: breadth of the search while building: higher is slower and misses less.
        expansion_search: breadth of a search.
        threads: for building and searching; 0 for all processors.

    Raises:
        MissingDependencyError: usearch is not installed.
    """

    def __init__(
        self,
        voices: VoiceMatrix,
        *,
        connectivity: int = 16,
        expansion_add: int = 128,
        expansion_search: int = 128,
        threads: int = 0,
    ) -> None:
        try:
            from usearch.index import Index
        except ImportError as error:
            raise MissingDependencyError('this search needs usearch: pip install "redimnet-mrl[index]"') from error
        if min(connectivity, expansion_add, expansion_search) < 1 or threads < 0:
            raise InputError("connectivity, expansion_add and expansion_search must be from 1 up, threads from 0 up")
        self._voices, self._threads = voices, threads
        self._index: Any = Index(
            ndim=voices.dim,
            metric="ip",
            dtype="f16",
            connectivity=connectivity,
            expansion_add=expansion_add,
            expansion_search=expansion_search,
        )
        if voices.form == "binary":
            return
        for first in range(0, len(voices), _BLOCK_ROWS):
            block = voices.embeddings(slice(first, first + _BLOCK_ROWS))
            self._index.add(np.arange(first, first + len(block), dtype=np.uint64), block, threads=threads)

    def search(self, queries: npt.ArrayLike, count: int, *, minimum: float | None = None) -> list[Hits]:
        """See :class:`mrl.identification.search.VoiceSearch`."""
        unit = unit_queries(queries, self._voices.dim, count)
        if self._voices.form == "binary" or not len(self._voices):
            return ExactSearch(self._voices).search(unit, count, minimum=minimum)
        found: list[Hits] = []
        for query in unit:
            rows = np.asarray(self._index.search(query, count, threads=self._threads).keys, dtype=np.int64)
            found.append(hits(self._voices, query, rows, count, minimum))
        return found
