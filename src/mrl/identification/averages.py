"""The embedding of a voice: the average of its recordings, each at unit length and weighted by its duration."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mrl.errors import DataError

FloatMatrix = npt.NDArray[np.float32]


def voice_averages(
    embeddings: FloatMatrix, seconds: npt.NDArray[np.float64], starts: npt.NDArray[np.int64], dim: int
) -> FloatMatrix:
    """Return the voices (voices, dim) float32 at unit length.

    A voice at length ``dim`` is the weighted mean of its recordings' prefixes of that length, each at unit length, as a system of
    that length alone would have it (so does :func:`mrl.evaluation.score_enrolled`).

    Args:
        embeddings: (recordings, embed_dim), those of one voice one after another.
        seconds: (recordings,) durations.
        starts: (voices,) row of each voice's first recording.
        dim: prefix length.

    Raises:
        DataError: a prefix, or an average, has no length.
    """
    prefixes = embeddings[:, :dim].astype(np.float64)
    weighted = prefixes * (seconds / _lengths(prefixes, "a recording's embedding"))[:, None]
    sums = np.add.reduceat(weighted, starts, axis=0) if len(starts) else weighted[:0]
    # Recordings that point opposite ways leave rounding errors only, which would be blown up to unit length.
    totals = np.add.reduceat(seconds, starts) if len(starts) else seconds[:0]
    lengths = _lengths(sums / totals[:, None], "the average of a voice's recordings")
    voices: FloatMatrix = (sums / (totals * lengths)[:, None]).astype(np.float32)
    return voices


def _lengths(rows: npt.NDArray[np.float64], what: str) -> npt.NDArray[np.float64]:
    lengths: npt.NDArray[np.float64] = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    if not (lengths > 1e-9).all():
        raise DataError(f"{what} has no length in its first {rows.shape[1]} dims, so it has no cosine; enrol the voice again")
    return lengths
