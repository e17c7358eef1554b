"""Search by a Qdrant server, for those who outgrow one machine: the funnel as a multi-stage query.

The server gets the voices' numbers and embeddings, no names. A collection holds one state of a store at one prefix length; the
store stays the place where voices are kept, and deleting a voice there is complete once :meth:`QdrantSearch.synchronise` has run.
The extra ``qdrant`` installs the client.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.errors import InputError, MissingDependencyError
from mrl.identification.search import Hits, unit_queries
from mrl.identification.voice_matrix import HEAD_DIM, VoiceMatrix

_BATCH = 512
_PREFIX, _WHOLE = "prefix", "whole"


class QdrantSearch:
    """Voices mirrored to Qdrant: a short prefix finds a shortlist there, the whole embeddings rank it.

    Args:
        client: a ``qdrant_client.QdrantClient``, connected to a server or in its local mode.
        voices: the voices; ``binary`` ones are refused.
        collection: beginning of the collection's name; collections whose names go on from it are this class's to delete.
        prefix_dim: length of the prefix for the shortlist.
        shortlist: how many voices' whole embeddings are compared.

    Raises:
        MissingDependencyError: qdrant-client is not installed.
        InputError: unusable arguments.
    """

    def __init__(
        self,
        client: Any,
        voices: VoiceMatrix,
        *,
        collection: str = "mrl-voices",
        prefix_dim: int = HEAD_DIM,
        shortlist: int = 1000,
    ) -> None:
        try:
            from qdrant_client import models
        except ImportError as error:
            raise MissingDependencyError('this search needs qdrant-client: pip install "redimnet-mrl[qdrant]"') from error
        if voices.form == "binary":
            raise InputError("binary embeddings are not searched by Qdrant; compare them here (ExactSearch)")
        if not 1 <= prefix_dim <= voices.dim or shortlist < 1:
            raise InputError(
                f"prefix_dim must lie in 1..{voices.dim} and shortlist be from 1 up; found {prefix_dim}, {shortlist}"
            )
        self._models, self._client, self._voices = models, client, voices
        self._prefix_dim, self._shortlist = prefix_dim, shortlist
        self._family = f"{collection}-"
        self._name = f"{self._family}{voices.dim}-{prefix_dim}-{voices.revision or 'unsaved'}"

    def synchronise(self) -> bool:
        """Bring the server to the state of the voices; return whether anything had to be sent.

        A collection that was sent in part is sent again, and those of other states are deleted.
        """
        present = {collection.name for collection in self._client.get_collections().collections}
        for name in present:
            if name.startswith(self._family) and name != self._name:
                self._client.delete_collection(name)
        if self._name in present:
            if self._voices.revision and self._client.count(self._name, exact=True).count == len(self._voices):
                return False
            self._client.delete_collection(self._name)
        sizes = {_PREFIX: self._prefix_dim, _WHOLE: self._voices.dim}
        distance = self._models.Distance.COSINE
        self._client.create_collection(
            self._name,
            vectors_config={name: self._models.VectorParams(size=size, distance=distance) for name, size in sizes.items()},
        )
        for first in range(0, len(self._voices), _BATCH):
            rows = slice(first, first + _BATCH)
            block = self._voices.embeddings(rows)
            vectors = {_PREFIX: block[:, : self._prefix_dim].tolist(), _WHOLE: block.tolist()}
            batch = self._models.Batch(ids=self._voices.numbers[rows].tolist(), vectors=vectors)
            self._client.upsert(self._name, points=batch, wait=True)
        return True

    def search(self, queries: npt.ArrayLike, count: int, *, minimum: float | None = None) -> list[Hits]:
        """See :class:`mrl.identification.search.VoiceSearch`; :meth:`synchronise` must have run."""
        found: list[Hits] = []
        for query in unit_queries(queries, self._voices.dim, count):
            shortlist = self._models.Prefetch(
                query=query[: self._prefix_dim].tolist(), using=_PREFIX, limit=max(count, self._shortlist)
            )
            points = self._client.query_points(
                self._name,
                prefetch=shortlist,
                query=query.tolist(),
                using=_WHOLE,
                limit=count,
                score_threshold=minimum,
                with_payload=False,
            ).points
            numbers = np.array([point.id for point in points], dtype=np.int64)
            found.append(Hits(numbers, np.array([point.score for point in points], dtype=np.float32)))
        return found
