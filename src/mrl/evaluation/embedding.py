"""Embedding the utterances of trial lists, each once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mrl.embeddings.encoders import Encoder, MatryoshkaEncoder, evaluation_mode, is_matryoshka
from mrl.embeddings.extract import embedding_function
from mrl.embeddings.mapping import BatchFunction, FileFailure, failure_summary, map_files
from mrl.embeddings.models import weights_sha256
from mrl.embeddings.processes import Processes
from mrl.errors import DataError
from mrl.evaluation.conditions import Condition, Waveform
from mrl.evaluation.embedding_cache import EmbeddingCache, Shelf
from mrl.trials.lists import TrialList

# Recordings that a process embeds between two writes to the cache: what is lost at most when the process is killed.
_PART = 128


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
    """Embed the utterances of one list as they are, in the order of ``trials.utterances``; see :func:`embed_recordings`."""
    return embed_recordings(
        model,
        trials.utterances,
        trials.paths(root),
        own_backbone=own_backbone,
        batch_seconds=batch_seconds,
        num_workers=num_workers,
        max_seconds=max_seconds,
        show_progress=show_progress,
    )


def embed_recordings(
    model: Encoder,
    names: Sequence[str],
    paths: Sequence[Path],
    *,
    own_backbone: bool,
    batch_seconds: float,
    num_workers: int,
    max_seconds: float | None,
    show_progress: bool,
    condition: Condition | None = None,
    cache: EmbeddingCache | None = None,
    description: str = "embedding",
    processes: Processes | None = None,
) -> tuple[npt.NDArray[np.float32], ...]:
    """Return the full embeddings (utterances, embed_dim) in the order of ``names``.

    With ``own_backbone`` a second matrix (utterances, backbone's embed_dim) follows: the raw embeddings of the backbone inside a
    Matryoshka model, from the same pooled statistics.

    Args:
        model: the network.
        names: what the trial lists call the utterances; decides the noise of a condition.
        paths: the recordings, in the same order.
        own_backbone: whether the second matrix is wanted.
        batch_seconds, num_workers, max_seconds, show_progress, description: as for :func:`mrl.embeddings.map_files`.
        condition: what is done to every recording; None leaves them as they are.
        cache: where embeddings are looked up and kept.
        processes: those that share the work; each gets all embeddings, and the first one writes to the cache.

    Raises:
        DataError: missing or unreadable files; all of them are counted.
        ProcessError: another process has ended, does not answer, or was given other recordings.
        ReportedElsewhereError: in all processes but the first, instead of the DataError.
    """
    both = own_backbone and is_matryoshka(model)
    function = _both(model) if both and is_matryoshka(model) else embedding_function(model, model.embed_dim)
    settings: dict[str, Any] = {
        "batch_seconds": batch_seconds,
        "num_workers": num_workers,
        "max_seconds": max_seconds,
        "show_progress": show_progress,
        "description": description,
    }
    with evaluation_mode(model):
        if cache is None:
            change = _change(condition, names)
            return map_files(function, paths, change=change, on_error="raise", processes=processes, **settings).matrices
        shelf = cache.shelf(_about(model, both, max_seconds, condition))
        return _embed_with_cache(function, names, paths, condition, shelf, settings, processes or Processes())


def _embed_with_cache(
    function: BatchFunction,
    names: Sequence[str],
    paths: Sequence[Path],
    condition: Condition | None,
    shelf: Shelf,
    settings: dict[str, Any],
    processes: Processes,
) -> tuple[npt.NDArray[np.float32], ...]:
    rows = shelf.find(paths)
    failures: list[FileFailure] = []
    # By size, so that the recordings of one part have similar lengths and fill batches well.
    here_missing = [index for index in range(len(paths)) if index not in rows]
    # Another job may have filled the cache between the looks of two processes, which must agree on what is to be done.
    any_missing = {index for one in processes.exchange(here_missing) for index in one}
    missing = sorted(any_missing, key=lambda index: (-_size(paths[index]), index))
    size = _PART * processes.world_size
    for start in range(0, len(missing), size):
        part = missing[start : start + size]
        here = [paths[index] for index in part]
        change = _change(condition, [names[index] for index in part])
        mapped = map_files(function, here, change=change, processes=processes, **settings)
        failures += mapped.failures
        if mapped.kept:
            if processes.is_first:
                shelf.add([here[row] for row in mapped.kept], mapped.matrices)
            for position, row in enumerate(mapped.kept):
                rows[part[row]] = tuple(matrix[position] for matrix in mapped.matrices)
    if failures:
        raise processes.common_error(DataError(failure_summary(failures, len(paths))))
    return tuple(np.stack(column) for column in zip(*(rows[index] for index in range(len(paths))), strict=True))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _change(condition: Condition | None, names: Sequence[str]) -> Any:
    if condition is None:
        return None

    def change(index: int, waveform: Waveform) -> Waveform:
        return condition.apply(names[index], waveform)

    return change


def _about(model: Encoder, both: bool, max_seconds: float | None, condition: Condition | None) -> dict[str, Any]:
    """What decides an embedding besides the recording."""
    config: Any = getattr(getattr(model, "backbone", model), "config", None)
    return {
        "network": weights_sha256(model),
        "model_config": None if config is None else config.to_model_config(),
        "outputs": ["matryoshka", "backbone"] if both else ["whole"],
        "max_seconds": max_seconds,
        "condition": None if condition is None else condition.settings(),
        "device": _device(model),
    }


def _device(model: Encoder) -> str:
    """Kinds of device differ in the last digits, so their embeddings are not mixed."""
    parameter = next(model.parameters(), torch.empty(0)) if isinstance(model, nn.Module) else torch.empty(0)
    return parameter.device.type


def _both(model: MatryoshkaEncoder) -> BatchFunction:
    def embed(waveforms: list[Any]) -> tuple[Tensor, Tensor]:
        pooled = model.pooled_statistics(waveforms)
        return model.project(pooled), model.backbone.embed_pooled(pooled)

    return embed
