"""Closed-set identification: whose voice is this, among those enrolled? All queries are of enrolled speakers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mrl.embeddings.compact import EmbeddingFormat, Encoded, encoded_cosines
from mrl.errors import DataError
from mrl.scoring.bootstrap import Interval, SpeakerResamples, interval_of

# Query-voice pairs compared at a time: bounds the memory.
_BLOCK_PAIRS = 1 << 22


@dataclass(frozen=True, eq=False)
class ClosedSet:
    """One utterance of each speaker is enrolled, all the others are queries.

    Attributes:
        enrolled: (speakers,) utterance enrolled for each speaker.
        queries: (queries,) utterances, ascending.
        speaker: (queries,) the speaker of each query.
        seed: that the enrolled utterances were drawn with.
    """

    enrolled: npt.NDArray[np.int64]
    queries: npt.NDArray[np.int64]
    speaker: npt.NDArray[np.int64]
    seed: int

    @classmethod
    def draw(cls, of_utterance: npt.ArrayLike, *, seed: int = 0) -> ClosedSet:
        """Draw one utterance of each speaker.

        Args:
            of_utterance: (utterances,) number of the speaker of each utterance; all numbers from 0 up occur.
            seed: of the draw.

        Raises:
            DataError: no speaker has a second utterance.
        """
        owner = np.asarray(of_utterance, dtype=np.int64)
        # The first of each speaker in a random order: every utterance of a speaker is equally likely.
        order = np.random.default_rng(seed).permutation(len(owner))
        _, first = np.unique(owner[order], return_index=True)
        enrolled = order[first]
        queries = np.setdiff1d(np.arange(len(owner)), enrolled)
        if not len(queries):
            raise DataError(f"none of the {len(enrolled)} speakers has a second utterance, so there is nothing to identify")
        return cls(enrolled, queries, owner[queries], seed)


@dataclass(frozen=True)
class Recall:
    """Share of queries whose speaker is among the voices with the highest scores, in 0..1, and its 95 % interval.

    The interval resamples the speakers of the queries, the voices enrolled stay; None where not asked for.
    """

    value: float
    interval: Interval | None


def recall_at(
    encoded: Encoded,
    form: EmbeddingFormat,
    dim: int,
    closed_set: ClosedSet,
    ranks: Sequence[int],
    *,
    resamples: SpeakerResamples | None = None,
) -> dict[int, Recall | None]:
    """Return how often the right voice is among the first 1, 10, ...

    Where voices tie with the right one (binary embeddings often do), the share of the orders that put it high enough counts.

    Args:
        encoded: (utterances, bytes).
        form, dim: what they were encoded as.
        closed_set: who is enrolled and who asks.
        ranks: such as ``(1, 10)``.
        resamples: of the same speakers, in the same order, for intervals.

    Returns:
        ``{rank: recall}``; None where there are no more voices than ``rank``, which would make it 1 whatever the scores.
    """
    above, tied = _places(encoded, form, dim, closed_set)
    voices = len(closed_set.enrolled)
    found: dict[int, Recall | None] = {}
    for rank in ranks:
        hits = np.clip((rank - above) / tied, 0.0, 1.0)
        found[rank] = Recall(float(hits.mean()), _interval(hits, closed_set, resamples)) if voices > rank else None
    return found


def _places(
    encoded: Encoded, form: EmbeddingFormat, dim: int, closed_set: ClosedSet
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return (queries,) how many voices score higher than the right one, and how many as high, itself included."""
    gallery = encoded[closed_set.enrolled]
    above = np.empty(len(closed_set.queries), dtype=np.int64)
    tied = np.empty_like(above)
    block = max(1, _BLOCK_PAIRS // len(gallery))
    for start in range(0, len(above), block):
        here = slice(start, start + block)
        scores = encoded_cosines(encoded[closed_set.queries[here]], gallery, form, dim)
        right = np.take_along_axis(scores, closed_set.speaker[here, None], axis=1)
        above[here] = np.count_nonzero(scores > right, axis=1)
        tied[here] = np.count_nonzero(scores == right, axis=1)
    return above, tied


def _interval(hits: npt.NDArray[np.float64], closed_set: ClosedSet, resamples: SpeakerResamples | None) -> Interval | None:
    if resamples is None:
        return None
    voices = len(closed_set.enrolled)
    hits_of = np.bincount(closed_set.speaker, weights=hits, minlength=voices)
    queries_of = np.bincount(closed_set.speaker, minlength=voices)
    asked = resamples.multiplicities @ queries_of
    with np.errstate(invalid="ignore"):  # a resample without queries is left out
        return interval_of(resamples.multiplicities @ hits_of / asked)
