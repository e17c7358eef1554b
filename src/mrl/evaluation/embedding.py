"""Embedding the utterances of a trial list, each once."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mrl.embeddings.encoders import Encoder, MatryoshkaEncoder, evaluation_mode, is_matryoshka
from mrl.embeddings.extract import embedding_function
from mrl.embeddings.mapping import BatchFunction, map_files
from mrl.evaluation.trials import TrialList


def embed_utterances(
    model: Encoder,
    trials: TrialList,
    root: str | os.PathLike[str],
    *,
    own_backbone: bool,
    batch_seconds: float,
    num_workers: int,
    max_seconds: float | None,
    show_progress: bool,
) -> tuple[npt.NDArray[np.float32], ...]:
    """Return the full embeddings (utterances, embed_dim) in the order of ``trials.utterances``.

    With ``own_backbone`` a second matrix (utterances, backbone's embed_dim) follows: the raw embeddings of the backbone inside a
    Matryoshka model, from the same pooled statistics.

    Raises:
        DataError: missing or unreadable files; all of them are counted.
    """
    if own_backbone and is_matryoshka(model):
        function = _both(model)
    else:
        function = embedding_function(model, model.embed_dim)
    with evaluation_mode(model):
        mapped = map_files(
            function,
            trials.paths(root),
            batch_seconds=batch_seconds,
            num_workers=num_workers,
            max_seconds=max_seconds,
            show_progress=show_progress,
            on_error="raise",
        )
    return mapped.matrices


def _both(model: MatryoshkaEncoder) -> BatchFunction:
    def embed(waveforms: list[Any]) -> tuple[Tensor, Tensor]:
        pooled = model.pooled_statistics(waveforms)
        return model.project(pooled), model.backbone.embed_pooled(pooled)

    return embed
