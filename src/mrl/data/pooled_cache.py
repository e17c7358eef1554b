"""Pooled statistics of every utterance, computed once: training of the head alone then needs no backbone.

With a frozen backbone the head sees nothing but the pooled vector, so one forward pass per utterance and view is enough for any
number of epochs. View 0 is the clean whole utterance; further views are random crops with augmentation.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mrl.audio import SAMPLE_RATE
from mrl.data.crops import (
    AugmentFunction,
    Batch,
    Waveform,
    augmented_crop,
    load_batches,
    read_whole,
    seconds_of,
)
from mrl.data.utterances import Corpus
from mrl.errors import DataError, InputError
from mrl.files import atomic_path, write_json
from mrl.lengths import group_by_length
from mrl.progress import progress_bar

_LOG = logging.getLogger(__name__)
_SHARD_UTTERANCES = 256
_OPEN_SHARDS = 256  # memory maps kept open; each holds a file descriptor
_FORMAT = 1

PooledFunction = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""(audio (batch, samples), lengths (batch,) or None when all are equal) -> pooled statistics (batch, pooled_dim)."""


@dataclasses.dataclass(frozen=True)
class ViewSettings:
    """What is computed for each utterance.

    Attributes:
        views: how many vectors per utterance; the first is of the clean whole utterance.
        max_seconds: cap on the length of the first view, seconds.
        crop_seconds: length of the other views, seconds.
        seed: seed of their crops and augmentation.
    """

    views: int
    max_seconds: float
    crop_seconds: float
    seed: int

    def __post_init__(self) -> None:
        if self.views < 1 or not self.max_seconds > 0 or not self.crop_seconds > 0:
            raise InputError(f"a pooled-statistics cache needs at least one view and lengths above 0 s (found {self})")


@dataclasses.dataclass(frozen=True)
class View:
    """One vector of the cache: which utterance, which view of it."""

    utterance: int
    view: int


class ViewSource:
    """Waveforms of views, each depending only on the settings and the view."""

    def __init__(self, corpus: Corpus, settings: ViewSettings, augment: AugmentFunction | None = None) -> None:
        self._corpus = corpus
        self._settings = settings
        self._augment = augment

    def __getitem__(self, view: View) -> tuple[Waveform, int]:
        utterance, label = self._corpus.utterances[view.utterance], self._corpus.labels[view.utterance]
        if view.view == 0:
            return read_whole(utterance, self._settings.max_seconds), label
        key = (self._settings.seed, view.utterance, view.view)
        return augmented_crop(utterance, round(self._settings.crop_seconds * SAMPLE_RATE), key, self._augment), label


class PooledCache:
    """Read access to a finished cache: ``cache.read([View(...), ...])`` -> (batch, pooled_dim) float32.

    Attributes:
        folder: where its shards lie.
        utterances, views, pooled_dim: the sizes of the whole.
    """

    def __init__(self, folder: Path, utterances: int, views: int, pooled_dim: int) -> None:
        self.folder = folder
        self.utterances = utterances
        self.views = views
        self.pooled_dim = pooled_dim
        self._open: OrderedDict[int, npt.NDArray[np.float32]] = OrderedDict()

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> PooledCache:
        """Open a finished cache.

        Raises:
            DataError: it is absent, unfinished or damaged.
        """
        place = Path(folder)
        try:
            description = json.loads((place / "cache.json").read_text(encoding="utf-8"))
            cache = cls(place, description["utterances"], description["views"], description["pooled_dim"])
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{place} is not a finished cache of pooled statistics ({error}); delete the folder to compute it again"
            ) from error
        for shard in range(cache.shards):
            cache._shard(shard)
        return cache

    @property
    def shards(self) -> int:
        """Number of files."""
        return -(-self.utterances // _SHARD_UTTERANCES)

    def read(self, views: Sequence[View]) -> npt.NDArray[np.float32]:
        """Return the vectors (len(views), pooled_dim) in the order asked for."""
        rows = np.empty((len(views), self.pooled_dim), dtype=np.float32)
        for shard, wanted in _by_shard(views):
            array = self._shard(shard)
            for row, view in wanted:
                rows[row] = array[view.utterance - shard * _SHARD_UTTERANCES, view.view]
        return rows

    def _shard(self, shard: int) -> npt.NDArray[np.float32]:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        array = _open_shard(_shard_path(self.folder, shard), _shard_shape(shard, self.utterances, self.views, self.pooled_dim))
        self._open[shard] = array
        if len(self._open) > _OPEN_SHARDS:
            self._open.popitem(last=False)
        return array


def cache_key(weights_hash: str, corpus: Corpus, settings: ViewSettings, augmentation: Mapping[str, Any]) -> str:
    """Return the name of a cache: 16 hexadecimal digits that change with anything that changes its content.

    Args:
        weights_hash: hash of the backbone's weights.
        corpus: the utterances.
        settings: the views.
        augmentation: settings of the augmentation, as JSON-able values (empty for none).
    """
    described = {
        "format": _FORMAT,
        "shard_utterances": _SHARD_UTTERANCES,
        "weights": weights_hash,
        "corpus": corpus.fingerprint(),
        # length and seed of the crops, and what is done to them, are nothing to the clean whole utterances
        "views": dataclasses.asdict(settings) if settings.views > 1 else {"views": 1, "max_seconds": settings.max_seconds},
        "augmentation": augmentation if settings.views > 1 else {},
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:16]


def build_pooled_cache(
    folder: str | os.PathLike[str],
    corpus: Corpus,
    settings: ViewSettings,
    pooled_statistics: PooledFunction,
    pooled_dim: int,
    *,
    augment: AugmentFunction | None = None,
    batch_seconds: float = 60.0,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    what: str = "pooled statistics",
) -> None:
    """Compute the shards that are not there yet; a build that was stopped goes on where it was.

    Each process computes every ``world_size``-th shard; after all are done, :func:`finish_pooled_cache` makes the cache readable.

    Args:
        folder: of this cache; its name should be its :func:`cache_key`.
        pooled_statistics: the frozen backbone, in eval mode.
        pooled_dim: length of its pooled vector.
        batch_seconds: the most audio per forward pass, seconds.
        what: is computed, for messages.

    Raises:
        DataError: the backbone gave a value that is not finite (the utterance is named).
        AudioLoadingError: a recording cannot be read.
        OSError: the disk is full; finished shards stay.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    source = ViewSource(corpus, settings, augment)
    shards = -(-len(corpus) // _SHARD_UTTERANCES)
    todo = [
        shard
        for shard in range(rank, shards, world_size)
        if not _is_finished(place, shard, len(corpus), settings.views, pooled_dim)
    ]
    if not todo:
        return
    _LOG.info("Computing %s: %d utterances x %d views in %s", what, len(corpus), settings.views, place)
    total = sum(_shard_shape(shard, len(corpus), settings.views, pooled_dim)[0] for shard in todo) * settings.views
    with progress_bar(what, total, unit="views", enabled=rank == 0) as advance:
        for shard in todo:
            shape = _shard_shape(shard, len(corpus), settings.views, pooled_dim)
            first = shard * _SHARD_UTTERANCES
            batches = _batches(corpus, range(first, first + shape[0]), settings, batch_seconds)
            array = np.full(shape, np.nan, dtype=np.float32)
            for views, batch in zip(batches, load_batches(source, batches, num_workers=num_workers), strict=True):
                pooled = pooled_in_batches(pooled_statistics, batch)
                for view, vector in zip(views, pooled, strict=True):
                    if not np.isfinite(vector).all():
                        path = corpus.utterances[view.utterance].path
                        raise DataError(
                            f"{what} are not finite for {path} (view {view.view}); check the recording and the checkpoint"
                        )
                    array[view.utterance - first, view.view] = vector
                advance(len(views))
            with atomic_path(_shard_path(place, shard)) as temporary:
                np.save(temporary, array)


def pooled_in_batches(pooled_statistics: PooledFunction, batch: Batch) -> npt.NDArray[np.float32]:
    """Return the pooled statistics of one batch (batch, pooled_dim) as NumPy, without gradients."""
    with torch.inference_mode():
        pooled = pooled_statistics(batch.audio, None if batch.equal_lengths else batch.lengths)
    return np.asarray(pooled.float().cpu().numpy(), dtype=np.float32)


def finish_pooled_cache(folder: str | os.PathLike[str], corpus: Corpus, settings: ViewSettings, pooled_dim: int) -> PooledCache:
    """Mark the cache as finished and open it.

    Raises:
        DataError: a shard is missing or damaged.
    """
    place = Path(folder)
    description = {
        "format": _FORMAT,
        "utterances": len(corpus),
        "pooled_dim": pooled_dim,
        **dataclasses.asdict(settings),
    }
    write_json(place / "cache.json", description)
    return PooledCache.load(place)


def _batches(corpus: Corpus, members: range, settings: ViewSettings, max_seconds: float) -> list[list[View]]:
    """Whole utterances of like lengths together (little padding), then the crops, which are all of one length."""
    lengths = [seconds_of(corpus.utterances[index], settings.max_seconds) for index in members]
    whole = [[View(members[row], 0) for row in group] for group in group_by_length(lengths, max_seconds)]
    crops = [View(index, view) for index in members for view in range(1, settings.views)]
    size = max(1, int(max_seconds / settings.crop_seconds))
    return whole + [crops[at : at + size] for at in range(0, len(crops), size)]


def _by_shard(views: Sequence[View]) -> Iterator[tuple[int, list[tuple[int, View]]]]:
    groups: dict[int, list[tuple[int, View]]] = {}
    for row, view in enumerate(views):
        groups.setdefault(view.utterance // _SHARD_UTTERANCES, []).append((row, view))
    yield from groups.items()


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / f"pooled-{shard:05d}.npy"


def _shard_shape(shard: int, utterances: int, views: int, pooled_dim: int) -> tuple[int, int, int]:
    return min(_SHARD_UTTERANCES, utterances - shard * _SHARD_UTTERANCES), views, pooled_dim


def _open_shard(path: Path, shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is missing or damaged ({error}); delete it to compute it again") from error
    if array.shape != shape or array.dtype != np.float32:
        raise DataError(f"{path} holds {array.dtype} {array.shape}, expected float32 {shape}; delete it to compute it again")
    return np.asarray(array) if not isinstance(array, np.memmap) else array


def _is_finished(folder: Path, shard: int, utterances: int, views: int, pooled_dim: int) -> bool:
    path = _shard_path(folder, shard)
    if not path.exists():
        return False
    _open_shard(path, _shard_shape(shard, utterances, views, pooled_dim))
    return True
