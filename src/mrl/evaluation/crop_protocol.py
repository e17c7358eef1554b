"""The N-crop protocol: several crops of every recording, and the mean cosine over all pairs of crops.

Source: J. S. Chung et al., "In defence of metric learning for speaker recognition", Interspeech 2020 (ten 4 s crops; the mean of
the 100 scores of a trial).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mrl.audio import SAMPLE_RATE
from mrl.embeddings import Encoder, FileFailure, Processes, evaluation_mode, map_files
from mrl.embeddings.extract import check_target_dim, embedding_function
from mrl.errors import InputError
from mrl.scoring.cosine import check_dims, prefix_norms
from mrl.trials.lists import TrialList

_BLOCK_NUMBERS = 1 << 18


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
    *,
    num_crops: int = 10,
    crop_seconds: float = 4.0,
    target_dim: int | None = None,
    batch_seconds: float = 60.0,
    num_workers: int = 2,
    max_seconds: float | None = None,
    show_progress: bool = True,
    on_error: Literal["report", "raise"] = "report",
    processes: Processes | None = None,
) -> EmbeddedCrops:
    """Embed ``num_crops`` crops of every recording, the first at its beginning, the last at its end, the others evenly between.

    One crop is the middle of the recording. A recording no longer than ``crop_seconds`` is used whole, and once: all its crops
    are the same embedding, and no audio is repeated or padded.

    Args:
        model: the network.
        paths: the recordings.
        num_crops: number of crops.
        crop_seconds: length of a crop, in seconds.
        target_dim: prefix length; all dimensions by default.
        batch_seconds: most audio per forward pass, in seconds; a longer crop goes alone.
        num_workers, max_seconds, show_progress, on_error, processes: as for :func:`mrl.embeddings.embed_files`.

    Raises:
        DataError: ``on_error="raise"`` and some recordings are unusable.
        InputError: unusable arguments.
    """
    if num_crops < 1 or not crop_seconds > 0:
        raise InputError(f"num_crops must be at least 1 and crop_seconds above 0 s; found {num_crops} and {crop_seconds}")
    dim = check_target_dim(model, target_dim)
    embed = embedding_function(model, dim)
    samples = max(1, round(crop_seconds * SAMPLE_RATE))
    at_once = max(1, int(batch_seconds // crop_seconds))

    def embed_all_crops(waveforms: list[npt.NDArray[np.float32]]) -> Tensor:
        crops = [crop for waveform in waveforms for crop in cut_crops(waveform, num_crops, samples)]
        rows = torch.cat([_rows(embed(crops[start : start + at_once])) for start in range(0, len(crops), at_once)])
        counts = [_num_distinct(waveform, num_crops, samples) for waveform in waveforms]
        groups = [group.expand(num_crops, dim) for group in torch.split(rows, counts)]
        return torch.stack(groups).reshape(len(waveforms), num_crops * dim)

    with evaluation_mode(model):
        mapped = map_files(
            embed_all_crops,
            paths,
            batch_seconds=batch_seconds,
            num_workers=num_workers,
            max_seconds=max_seconds,
            show_progress=show_progress,
            on_error=on_error,
            processes=processes,
        )
    matrix = mapped.matrices[0] if mapped.matrices else np.empty((0, num_crops * dim), dtype=np.float32)
    kept = tuple(Path(paths[index]) for index in mapped.kept)
    return EmbeddedCrops(kept, matrix.reshape(len(kept), num_crops, dim), mapped.failures)


def cut_crops(waveform: npt.NDArray[np.float32], num_crops: int, samples: int) -> list[npt.NDArray[np.float32]]:
    """Return evenly spaced crops (samples,) of a waveform; the whole waveform, once, when it is no longer than one crop."""
    spare = len(waveform) - samples
    if spare <= 0:
        return [waveform]
    starts = np.array([spare / 2]) if num_crops == 1 else np.linspace(0, spare, num_crops)
    return [waveform[start : start + samples] for start in np.rint(starts).astype(int)]


def score_crops(embeddings: npt.ArrayLike, trials: TrialList, dims: Iterable[int]) -> dict[int, npt.NDArray[np.float32]]:
    """Return, at every prefix length, the mean cosine over all pairs of crops of the two recordings of each trial.

    The mean over pairs of cosines is the dot product of the two recordings' mean unit-length crops, so no pair is visited.

    Args:
        embeddings: (utterances, crops, dim), row i belongs to ``trials.utterances[i]``; any scale.
        trials: the list.
        dims: prefix lengths.

    Returns:
        ``{dim: (trials,) float32}`` in [-1, 1], in ascending order of dim.

    Raises:
        DataError: an embedding is not finite, or a prefix of one has no length (all-zero).
        InputError: wrong shape or dims.
    """
    array = np.asarray(embeddings, dtype=np.float32)
    if array.ndim != 3 or len(array) != len(trials.utterances) or not array.shape[1]:
        raise InputError(
            f"embeddings must be (utterances, crops, dim) with one row for each of the {len(trials.utterances)} utterances of "
            f"the trial list; found shape {array.shape}"
        )
    num_crops = array.shape[1]
    ordered = check_dims(dims, array.shape[2])
    flat = array[:, :, : ordered[-1]].reshape(len(array) * num_crops, ordered[-1])
    unit, inverse = prefix_norms(flat, ordered, [name for name in trials.utterances for _ in range(num_crops)])
    scores: dict[int, npt.NDArray[np.float32]] = {}
    for dim in ordered:
        prefixes = unit[:, :dim] * inverse[dim][:, None]
        means = prefixes.reshape(len(array), num_crops, dim).mean(axis=1)
        values = np.empty(len(trials), dtype=np.float32)
        block = max(256, _BLOCK_NUMBERS // dim)
        for start in range(0, len(trials), block):
            here = slice(start, start + block)
            dot = np.einsum("ij,ij->i", means[trials.enrol[here]], means[trials.test[here]])
            np.clip(dot, -1.0, 1.0, out=values[here])
        scores[dim] = values
    return scores


def _num_distinct(waveform: npt.NDArray[np.float32], num_crops: int, samples: int) -> int:
    return num_crops if len(waveform) > samples else 1


def _rows(output: Any) -> Tensor:
    return torch.as_tensor(output)
