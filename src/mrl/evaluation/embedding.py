"""Embedding the utterances of trial lists, each once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.embeddings import Encoder, Extraction, FileFailure, Processes, as_embedder
from mrl.embeddings.cache import EmbeddingCache
from mrl.embeddings.extraction import Crops, OnError, chosen_settings, extract
from mrl.evaluation.conditions import Condition
from mrl.trials.lists import TrialList


@dataclass(frozen=True, eq=False)
class EmbeddedCrops:
    """Embeddings of evenly spaced crops of recordings, in the order given.

    Attributes:
        paths: one for each row.
        array: (len(paths), crops, dim) float32.
        failures: the recordings that could not be used, with the reason.
    """

    paths: tuple[Path, ...]
    array: npt.NDArray[np.float32]
    failures: tuple[FileFailure, ...]


def embed_crops(
    model: Encoder,
    paths: Sequence[str | os.PathLike[str]],
    how: Extraction | None = None,
    *,
    num_crops: int = 10,
    crop_seconds: float = 4.0,
    target_dim: int | None = None,
    on_error: OnError = "report",
    processes: Processes | None = None,
    **changes: Any,
) -> EmbeddedCrops:
    """Embed ``num_crops`` crops of every recording; see :class:`mrl.embeddings.extraction.Crops`.

    Args:
        model: the network.
        paths: the recordings.
        how: the settings; most audio per forward pass is there, and a longer crop goes alone.
        num_crops: number of crops.
        crop_seconds: length of a crop, in seconds.
        target_dim: prefix length; all dimensions by default.
        on_error, processes, changes: as for :func:`mrl.embeddings.embed_files`.

    Raises:
        DataError: ``on_error="raise"`` and some recordings are unusable.
        InputError: unusable arguments.
    """
    crops = Crops(num_crops, crop_seconds)
    found = extract(
        as_embedder(model),
        paths,
        chosen_settings(how, changes),
        dim=target_dim,
        crops=crops,
        on_error=on_error,
        processes=processes,
    )
    return EmbeddedCrops(found.paths, found.matrices[0], found.failures)


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
    """Return the full embeddings (recordings, crops, embed_dim) of :func:`embed_crops`, in the order of ``paths``.

    Raises:
        DataError: missing or unreadable files; all of them are counted.
    """
    how = Extraction(batch_seconds, num_workers, max_seconds, show_progress)
    crops = Crops(num_crops, crop_seconds)
    return extract(as_embedder(model), paths, how, crops=crops, cache=cache, processes=processes, on_error="raise").matrices[0]


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

    Raises:
        DataError: missing or unreadable files; all of them are counted.
        ProcessError: another process has ended, does not answer, or was given other recordings.
        ReportedElsewhereError: in all processes but the first, instead of the DataError.
    """
    embedder = as_embedder(model)
    return extract(
        embedder,
        paths,
        Extraction(batch_seconds, num_workers, max_seconds, show_progress),
        outputs=("raw", "backbone") if own_backbone and embedder.backbone is not None else ("embedding",),
        names=names,
        change=condition,
        cache=cache,
        processes=processes,
        description=description,
        on_error="raise",
    ).matrices
