"""Embeddings of many recordings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mrl.embeddings.encoders import Encoder, ExportedEncoder, evaluation_mode, is_matryoshka
from mrl.embeddings.mapping import BatchFunction, FileFailure, map_files
from mrl.embeddings.processes import Processes
from mrl.errors import InputError


@dataclass(frozen=True, eq=False)
class EmbeddedFiles:
    """Embeddings of the recordings that could be used, in the order given.

    Attributes:
        paths: one for each row.
        matrix: (len(paths), dim) float32.
        failures: the recordings that could not be used, with the reason.
    """

    paths: tuple[Path, ...]
    matrix: npt.NDArray[np.float32]
    failures: tuple[FileFailure, ...]


def embed_files(
    model: Encoder,
    paths: Sequence[str | os.PathLike[str]],
    *,
    target_dim: int | None = None,
    batch_seconds: float = 60.0,
    num_workers: int = 2,
    max_seconds: float | None = None,
    show_progress: bool = True,
    on_error: Literal["report", "raise"] = "report",
    processes: Processes | None = None,
) -> EmbeddedFiles:
    """Embed recordings, whatever their formats and lengths.

    A ``ReDimNetMRL`` gives unit-length prefixes, as calling it does; a ``ReDimNet`` gives the raw embedding as the official
    network does, or its first ``target_dim`` numbers. The network is put into evaluation mode meanwhile.

    Args:
        model: the network; recordings are moved to its device.
        paths: the recordings.
        target_dim: prefix length in 1..embed_dim; all dimensions by default.
        batch_seconds: most audio per forward pass, in seconds, padding included.
        num_workers: threads that decode ahead; 0 decodes in the calling thread.
        max_seconds: use only the first so many seconds of each recording.
        show_progress: draw a bar (on a terminal only).
        on_error: "report" lists unusable recordings and goes on; "raise" raises one error that counts them all.
        processes: those that share the work, see :func:`map_files`; each gets all embeddings.

    Raises:
        DataError: ``on_error="raise"`` and some recordings are unusable.
        InputError: unusable arguments.
        ProcessError: another process has ended, does not answer, or was given other recordings.
    """
    width = check_target_dim(model, target_dim)
    with evaluation_mode(model):
        mapped = map_files(
            embedding_function(model, width),
            paths,
            batch_seconds=batch_seconds,
            num_workers=num_workers,
            max_seconds=max_seconds,
            show_progress=show_progress,
            on_error=on_error,
            processes=processes,
        )
    matrix = mapped.matrices[0] if mapped.matrices else np.empty((0, width), dtype=np.float32)
    return EmbeddedFiles(tuple(Path(paths[index]) for index in mapped.kept), matrix, mapped.failures)


def check_target_dim(model: Encoder, target_dim: int | None) -> int:
    """Return the prefix length meant: ``target_dim``, or all dimensions.

    Raises:
        InputError: it is not in 1..embed_dim.
    """
    embed_dim = int(model.embed_dim)
    if target_dim is None:
        return embed_dim
    if isinstance(target_dim, bool) or not 1 <= target_dim <= embed_dim:
        raise InputError(f"target_dim must lie in 1..{embed_dim}, the size of this model's embedding; found {target_dim}")
    return target_dim


def embedding_function(model: Encoder, dim: int) -> BatchFunction:
    """Return a function from waveforms to embeddings (batch, dim): raw for a backbone, of unit length for a Matryoshka model."""
    if isinstance(model, ExportedEncoder):
        exported = model
        return lambda waveforms: exported.embed(waveforms, dim)
    if is_matryoshka(model):
        matryoshka = model

        def embed_prefix(waveforms: list[Any]) -> Tensor:
            raw = matryoshka.project(matryoshka.pooled_statistics(waveforms))
            return torch.nn.functional.normalize(raw[:, :dim].float(), dim=-1)

        return embed_prefix
    backbone = model

    def embed_raw(waveforms: list[Any]) -> Tensor:
        return backbone.embed_pooled(backbone.pooled_statistics(waveforms))[:, :dim]

    return embed_raw
