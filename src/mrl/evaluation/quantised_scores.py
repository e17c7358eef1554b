"""Cosine scores of trials between encoded embeddings (:mod:`mrl.embeddings.compact`)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mrl.embeddings.compact import EmbeddingFormat, Encoded, bytes_per_embedding, count_bits, decode_embeddings
from mrl.errors import InputError
from mrl.scoring.cosine import score_prefixes
from mrl.trials.lists import TrialList

# Trials compared at a time: bounds the memory.
_BLOCK = 1 << 16


def score_encoded(encoded: Encoded, form: EmbeddingFormat, dim: int, trials: TrialList) -> npt.NDArray[np.float32]:
    """Return the cosine (trials,) of what the two sides of every trial hold.

    Those of ``binary`` are counted bit by bit: equal distances give equal scores, so no tie is broken by rounding.

    Args:
        encoded: (utterances, bytes), row i belongs to ``trials.utterances[i]``.
        form, dim: what they were encoded as.
        trials: the list.

    Raises:
        InputError: wrong shape or unknown format.
        DataError: damaged bytes.
    """
    expected = (len(trials.utterances), bytes_per_embedding(form, dim))
    if encoded.shape != expected:
        raise InputError(f"{form} embeddings of {dim} dims, one for each utterance, are bytes {expected}; found {encoded.shape}")
    if form != "binary":
        return score_prefixes(decode_embeddings(encoded, form, dim), trials, [dim])[dim]
    words = np.ascontiguousarray(encoded).view("<u8")
    scores = np.empty(len(trials), dtype=np.float32)
    for start in range(0, len(trials), _BLOCK):
        here = slice(start, start + _BLOCK)
        differing = count_bits(words[trials.enrol[here]] ^ words[trials.test[here]]).sum(axis=1, dtype=np.int64)
        scores[here] = 1.0 - 2.0 * differing / dim
    return scores
