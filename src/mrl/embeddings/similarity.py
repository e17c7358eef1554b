"""The score of two embeddings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mrl.errors import InputError


def cosine_similarity(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Return the raw cosine, in [-1, 1], of two embeddings (dim,) of any scale.

    This is not the (cosine + 1) / 2 in [0, 1] that some toolkits report: a threshold of one scale is wrong on the other.

    Raises:
        InputError: different or unusable shapes, NaN, infinity, or all zeros.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise InputError(f"a score needs two embeddings (dim,) of one length; found shapes {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("an embedding holds NaN or infinity; check the recording and the checkpoint")
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms == 0:
        raise InputError("an embedding is all zeros, so it has no cosine; check the recording and the checkpoint")
    return float(np.clip(a @ b / norms, -1.0, 1.0))
