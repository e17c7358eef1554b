"""Embedding the utterances of trial lists, each once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mrl.audio import SAMPLE_RATE
from mrl.embeddings import Encoder, FileFailure, Processes, evaluation_mode, map_files
from mrl.embeddings.encoders import MatryoshkaEncoder, is_matryoshka
from mrl.embeddings.extract import check_target_dim, embedding_function
from mrl.embeddings.mapping import BatchFunction, failure_summary
from mrl.embeddings.models import weights_sha256
from mrl.errors import DataError, InputError
from mrl.evaluation.conditions import Condition, Waveform
from mrl.files import atomic_path, write_json
from mrl.trials.lists import TrialList

# Embeddings of an evaluation kept in a folder, so that the next evaluation, or this one after an interruption, need not
# compute them again.
#
# Layout: ``KEY/about.json`` says which network, under which condition, the embeddings of this subfolder belong to; KEY is the
# hash of that. Beside it lie ``part-*.npz`` with ``paths``, ``states`` (size in bytes and time of change in ns of every file)
# and the matrices ``output0``, ``output1``... Every part appears whole or not at all, and a file that has changed since
# counts as new.


Matrices = tuple[npt.NDArray[np.float32], ...]


_FORMAT = 1


_LOG = logging.getLogger(__name__)


_DAMAGE = (EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)


class EmbeddingCache:
    """A folder of embeddings by network, condition and recording; several processes may use it at once."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise DataError(f"cache {self.folder} is a file; give a folder, which is made if absent")

    def shelf(self, about: Mapping[str, Any]) -> Shelf:
        """Open the part of the cache for what ``about`` (JSON values) describes.

        Raises:
            OSError: the folder cannot be written to or the disk is full.
        """
        described = {"format": _FORMAT, **about}
        text = json.dumps(described, sort_keys=True, ensure_ascii=False, allow_nan=False)
        place = self.folder / hashlib.sha256(text.encode()).hexdigest()[:24]
        if not (place / "about.json").is_file():
            write_json(place / "about.json", described)
        return Shelf(place)


class Shelf:
    """The embeddings of one network under one condition."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, paths: Sequence[Path]) -> dict[int, tuple[npt.NDArray[np.float32], ...]]:
        """Return ``{position in paths: one row for each output}`` for the recordings that are here and unchanged."""
        wanted = {state: index for index, path in enumerate(paths) if (state := _state(path)) is not None}
        found: dict[int, tuple[npt.NDArray[np.float32], ...]] = {}
        for part in sorted(self._folder.glob("part-*.npz")):
            try:
                with part.open("rb") as stream:
                    archive = np.load(stream, allow_pickle=False)
                    names, states = archive["paths"], archive["states"]
                    outputs = [archive[f"output{number}"] for number in range(len(archive.files) - 2)]
                rows = zip(names, states, *outputs, strict=True)
                for name, (size, changed), *values in rows:
                    index = wanted.get((str(name), int(size), int(changed)))
                    if index is not None:
                        found[index] = tuple(values)
            except _DAMAGE as error:
                said = " ".join(str(error).split())[:120]
                _LOG.warning("%s is damaged (%s); its embeddings are computed again", part, said)
        return found

    def add(self, paths: Sequence[Path], matrices: Matrices) -> None:
        """Keep the rows of ``matrices`` for ``paths``; what has vanished meanwhile is left out.

        Raises:
            OSError: the folder cannot be written to or the disk is full; what was there is kept.
        """
        states = [_state(path) for path in paths]
        kept = [index for index, state in enumerate(states) if state is not None]
        known = [state for state in states if state is not None]
        if not known:
            return
        arrays: dict[str, Any] = {f"output{number}": matrix[kept] for number, matrix in enumerate(matrices)}
        with atomic_path(self._folder / f"part-{secrets.token_hex(8)}.npz") as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                paths=np.array([name for name, _, _ in known], dtype=np.str_),
                states=np.array([(size, changed) for _, size, changed in known], dtype=np.int64),
                **arrays,
            )


def _state(path: Path) -> tuple[str, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None  # the reader of the recording says what is wrong with it
    return str(path.absolute()), status.st_size, status.st_mtime_ns


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


def _num_distinct(waveform: npt.NDArray[np.float32], num_crops: int, samples: int) -> int:
    return num_crops if len(waveform) > samples else 1


def _rows(output: Any) -> Tensor:
    return torch.as_tensor(output)


# Crops of the recordings of trial lists, each recording once, kept in the cache of an evaluation.


# Recordings embedded between two writes to the cache: what is lost at most when the process is killed.
_CROPPED_RECORDINGS_PER_PART = 128


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
    shelf = cache.shelf(_about_crops(model, num_crops, crop_seconds, max_seconds))
    rows = shelf.find(paths)
    failures: list[FileFailure] = []
    here_missing = [index for index in range(len(paths)) if index not in rows]
    missing = sorted({index for one in team.exchange(here_missing) for index in one})
    size = _CROPPED_RECORDINGS_PER_PART * team.world_size
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


def _about_crops(model: Encoder, num_crops: int, crop_seconds: float, max_seconds: float | None) -> dict[str, Any]:
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


# Recordings that a process embeds between two writes to the cache: what is lost at most when the process is killed.
_RECORDINGS_PER_PART = 128


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
        shelf = cache.shelf(_about_recordings(model, both, max_seconds, condition))
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
    size = _RECORDINGS_PER_PART * processes.world_size
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


def _about_recordings(model: Encoder, both: bool, max_seconds: float | None, condition: Condition | None) -> dict[str, Any]:
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
