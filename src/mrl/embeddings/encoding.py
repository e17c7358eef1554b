"""Embeddings of recordings in the manner of sentence-transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mrl.audio import AudioSource
from mrl.audio.memory import InMemory
from mrl.embeddings.embedder import Embedder, Matrix
from mrl.embeddings.extraction import Extraction
from mrl.errors import CheckpointError, InputError
from mrl.progress import progress_bar
from mrl.runtime.embedder import unit_prefix

if TYPE_CHECKING:
    from torch import Tensor

Recordings = AudioSource | InMemory | Sequence[AudioSource | InMemory]


def encode(
    embedder: Embedder,
    recordings: Recordings,
    how: Extraction | None = None,
    *,
    batch_size: int = 32,
    truncate_dim: int | None = None,
    normalize_embeddings: bool = False,
    show_progress_bar: bool | None = None,
    convert_to_numpy: bool = True,
    sample_rate: int | None = None,
) -> Matrix | Tensor:
    """Return embeddings of a list of recordings, or of one.

    Args:
        embedder: the model.
        recordings: a list or tuple of anything that :func:`mrl.audio.as_waveform` takes (paths, bytes, arrays), or one of it.
        how: how they become embeddings.
        batch_size: recordings per batch; those of unequal lengths are padded, which does not change the result.
        truncate_dim: prefix length; all dimensions by default.
        normalize_embeddings: scale to unit length; embeddings of a Matryoshka model have it anyway.
        show_progress_bar: draw a bar (on a terminal only); by default where ``how`` says so.
        convert_to_numpy: return an array; otherwise a tensor on the CPU.
        sample_rate: of arrays, in Hz; 16 kHz by default.

    Returns:
        (recordings, dim) float32, or (dim,) for one that is not in a list.

    Raises:
        AudioLoadingError: a recording cannot be decoded, is silent, or has too little speech.
        InputError: an unusable argument or array, or a recording that is too short for the network.
        CheckpointError: the model gave NaN or infinity.
    """
    if isinstance(batch_size, bool) or batch_size < 1:
        raise InputError(f"batch_size must be a whole number from 1 up, found {batch_size}")
    items = list(recordings) if isinstance(recordings, (list, tuple)) else [recordings]
    chosen, dim = how or Extraction(), embedder.check_dim(truncate_dim)
    draw = chosen.show_progress if show_progress_bar is None else show_progress_bar
    chosen = dataclasses.replace(chosen, show_progress=draw)
    rows = np.empty((len(items), dim), dtype=np.float32)
    with embedder.ready(), progress_bar("embedding", len(items), enabled=draw) as advance:
        for start in range(0, len(items), batch_size):
            sounds = [
                chosen.open(item, sample_rate=sample_rate, name=None if isinstance(item, str) else f"recording {start + place}")
                for place, item in enumerate(items[start : start + batch_size])
            ]
            rows[start : start + len(sounds)] = chosen.embed(embedder, sounds, ("embedding",), dim, report=draw)[0]
            advance(len(sounds))
    if not np.isfinite(rows).all():
        raise CheckpointError(f"{embedder.name} gave NaN or infinity; check the model")
    rows = unit_prefix(rows, dim) if normalize_embeddings and len(rows) else rows
    made = rows if isinstance(recordings, (list, tuple)) else rows[0]
    if convert_to_numpy:
        return made
    import torch

    return torch.from_numpy(made)
