"""Crops of the recordings of trial lists, each recording once, kept in the cache of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mrl.embeddings import Encoder, FileFailure, Processes
from mrl.embeddings.mapping import failure_summary
from mrl.embeddings.models import weights_sha256
from mrl.errors import DataError
from mrl.evaluation.crop_protocol import embed_crops
from mrl.evaluation.embedding_cache import EmbeddingCache

# Recordings embedded between two writes to the cache: what is lost at most when the process is killed.
_PART = 128


def crops_of_recordings(
    model: Encoder,
    paths: Sequence[Path],
    *,
    num_crops: int,
    crop_seconds: float,
    batch_seconds: float,
    num_workers: int,
    max_seconds: float | None,
    show_progress: bool,
    cache: EmbeddingCache | None = None,
    processes: Processes | None = None,
) -> npt.NDArray[np.float32]:
    """Return the full embeddings (recordings, crops, embed_dim) of :func:`mrl.evaluation.embed_crops`, in the order of ``paths``.

    Args:
        model, paths, num_crops, crop_seconds: as there.
        batch_seconds, num_workers, max_seconds, show_progress: as there.
        cache: where embeddings are looked up and kept.
        processes: those that share the work; each gets all embeddings, and the first one writes to the cache.

    Raises:
        DataError: missing or unreadable files; all of them are counted.
    """
    settings: dict[str, Any] = {
        "num_crops": num_crops,
        "crop_seconds": crop_seconds,
        "batch_seconds": batch_seconds,
        "num_workers": num_workers,
        "max_seconds": max_seconds,
        "show_progress": show_progress,
        "processes": processes,
    }
    team = processes or Processes()
    if cache is None:
        return embed_crops(model, paths, on_error="raise", **settings).array
    shelf = cache.shelf(_about(model, num_crops, crop_seconds, max_seconds))
    rows = shelf.find(paths)
    failures: list[FileFailure] = []
    here_missing = [index for index in range(len(paths)) if index not in rows]
    missing = sorted({index for one in team.exchange(here_missing) for index in one})
    size = _PART * team.world_size
    for start in range(0, len(missing), size):
        part = missing[start : start + size]
        embedded = embed_crops(model, [paths[index] for index in part], **settings)
        failures += embedded.failures
        if team.is_first:
            shelf.add(embedded.paths, (embedded.array,))
        by_path = dict(zip(embedded.paths, embedded.array, strict=True))
        rows |= {index: (by_path[paths[index]],) for index in part if paths[index] in by_path}
    if failures:
        raise team.common_error(DataError(failure_summary(failures, len(paths))))
    return np.stack([rows[index][0] for index in range(len(paths))])


def _about(model: Encoder, num_crops: int, crop_seconds: float, max_seconds: float | None) -> dict[str, Any]:
    """What decides an embedding besides the recording."""
    config: Any = getattr(getattr(model, "backbone", model), "config", None)
    parameter = next(model.parameters(), torch.empty(0)) if isinstance(model, nn.Module) else torch.empty(0)
    return {
        "network": weights_sha256(model),
        "model_config": None if config is None else config.to_model_config(),
        "outputs": ["crops"],
        "crops": num_crops,
        "crop_seconds": crop_seconds,
        "max_seconds": max_seconds,
        "device": parameter.device.type,
    }
