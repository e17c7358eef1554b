"""Pooled statistics of every utterance, computed once: training of the head alone then needs no backbone.

With a frozen backbone the head sees nothing but the pooled vector, so one forward pass per utterance and view is enough for any
number of epochs. View 0 is the clean whole utterance; further views are random crops with augmentation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from mrl.audio import SAMPLE_RATE
from mrl.bounded import read_json, read_npy, record, said
from mrl.data.crops import (
    AugmentFunction,
    Batch,
    Waveform,
    augmented_crop,
    load_batches,
    read_whole,
    seconds_of,
)
from mrl.data.utterances import Corpus, Utterance
from mrl.errors import AudioLoadingError, DataError, InputError
from mrl.files import atomic_path, write_json
from mrl.lengths import group_by_length
from mrl.progress import progress_bar

_LOG = logging.getLogger(__name__)
_SHARD_UTTERANCES = 256
_OPEN_SHARDS = 256  # files kept open
_FORMAT = 1

Storage = Literal["float32", "float16"]
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


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """One vector of the cache: which utterance, which view of it."""

    utterance: int
    view: int


class ViewSource:
    """Waveforms of views, each depending only on the settings and the view; those that cannot be read are left out of batches."""

    leaves_out_unreadable = True

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


@dataclasses.dataclass(frozen=True)
class _Description:
    """What ``cache.json`` says of the shape of a cache."""

    utterances: int
    views: int
    pooled_dim: int
    storage: Storage = "float32"


class PooledCache:
    """Read access to a finished cache: ``cache.read([View(...), ...])`` -> (batch, pooled_dim) float32.

    Vectors are read from the files one by one instead of through memory maps: what a process holds does not grow with the cache,
    and any order costs the same. Only one thread may read at a time.

    Attributes:
        folder: holds its shards.
        utterances, views, pooled_dim: the sizes of the whole.
        storage: data type on disk.
        bad: why some vectors are missing: unreadable recordings, values that are not finite.
    """

    def __init__(
        self,
        folder: Path,
        utterances: int,
        views: int,
        pooled_dim: int,
        storage: Storage = "float32",
        bad: Mapping[View, str] | None = None,
    ) -> None:
        self.folder = folder
        self.utterances = utterances
        self.views = views
        self.pooled_dim = pooled_dim
        self.storage = storage
        self.bad = dict(bad or {})
        self._open: OrderedDict[int, tuple[FileIO, int]] = OrderedDict()

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> PooledCache:
        """Open a finished cache.

        Raises:
            DataError: it is absent, unfinished or damaged.
        """
        place = Path(folder)
        advice = f"{place} is not a finished cache of pooled statistics; delete the folder to compute it again"
        try:
            values = read_json(place / "cache.json", advice=advice)
            description = record(_Description, values, str(place / "cache.json"), advice=advice, ignore_unknown=True)
            shape = (description.utterances, description.views, description.pooled_dim)
            if min(shape) < 1:
                raise DataError(f"{place / 'cache.json'} describes no statistics; {advice}")
            cache = cls(place, *shape, description.storage)
            cache.bad = {View(*view): reason for path in sorted(place.glob("bad-*.json")) for *view, reason in _read_bad(path)}
        except FileNotFoundError as error:
            raise DataError(f"there is no cache.json; {advice}") from error
        for shard in range(cache.shards):
            _start_of_shard(_shard_path(place, shard), _shard_shape(shard, *shape), cache.storage)
        return cache

    @property
    def shards(self) -> int:
        """Number of files."""
        return -(-self.utterances // _SHARD_UTTERANCES)

    def read(self, views: Sequence[View]) -> npt.NDArray[np.float32]:
        """Return the vectors (len(views), pooled_dim) in the order asked for; those that are missing are NaN.

        Raises:
            DataError: a file has been removed or shortened since the cache was opened.
        """
        stored = np.empty((len(views), self.pooled_dim), dtype=self.storage)
        places = sorted((*self._place(view), row) for row, view in enumerate(views))
        _announce(((self._shard(shard)[0], offset) for shard, offset, _ in places), stored[0].nbytes if len(views) else 0)
        for shard, offset, row in places:
            stream, start = self._shard(shard)
            stream.seek(start + offset)
            if stream.readinto(stored[row].data) != stored[row].nbytes:
                raise DataError(f"{_shard_path(self.folder, shard)} has become shorter; delete it to compute it again")
        return stored.astype(np.float32, copy=False)

    def close(self) -> None:
        """Close all files; they are opened again when needed."""
        while self._open:
            self._open.popitem()[1][0].close()

    def __del__(self) -> None:
        self.close()

    def _place(self, view: View) -> tuple[int, int]:
        """The shard of a vector and its offset in bytes behind the shard's header."""
        if not (0 <= view.utterance < self.utterances and 0 <= view.view < self.views):
            raise IndexError(f"{view} is not in a cache of {self.utterances} utterances with {self.views} views")
        shard, row = divmod(view.utterance, _SHARD_UTTERANCES)
        return shard, (row * self.views + view.view) * self.pooled_dim * np.dtype(self.storage).itemsize

    def _shard(self, shard: int) -> tuple[FileIO, int]:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        path = _shard_path(self.folder, shard)
        start = _start_of_shard(path, _shard_shape(shard, self.utterances, self.views, self.pooled_dim), self.storage)
        stream = path.open("rb", buffering=0)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        self._open[shard] = stream, start
        if len(self._open) > _OPEN_SHARDS:
            self._open.popitem(last=False)[1][0].close()
        return stream, start


def _announce(places: Iterable[tuple[FileIO, int]], size: int) -> None:
    """Tell the system what is about to be read, so that a disk can work on all of it at once."""
    if hasattr(os, "posix_fadvise"):
        for stream, offset in places:
            os.posix_fadvise(stream.fileno(), offset, size, os.POSIX_FADV_WILLNEED)


def cache_key(
    weights_hash: str,
    corpus: Corpus,
    settings: ViewSettings,
    augmentation: Mapping[str, Any],
    *,
    storage: Storage = "float32",
    excluded: Collection[int] = (),
) -> str:
    """Return the name of a cache: 16 hexadecimal digits that change with anything that changes its content.

    Args:
        weights_hash: hash of the backbone's weights.
        corpus: the utterances.
        settings: the views.
        augmentation: settings of the augmentation, as JSON-able values (empty for none).
        storage: data type on disk.
        excluded: positions of utterances whose files may be missing.
    """
    described = {
        "format": _FORMAT,
        "shard_utterances": _SHARD_UTTERANCES,
        "weights": weights_hash,
        "corpus": corpus.fingerprint(excluded),
        # length and seed of the crops, and what is done to them, are nothing to the clean whole utterances
        "views": dataclasses.asdict(settings) if settings.views > 1 else {"views": 1, "max_seconds": settings.max_seconds},
        "augmentation": augmentation if settings.views > 1 else {},
    }
    if storage != "float32":
        described["storage"] = storage
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
    storage: Storage = "float32",
    max_bad_share: float = 0.0,
    excluded: Collection[int] = (),
    what: str = "pooled statistics",
) -> None:
    """Compute the shards that are not there yet; a build that was stopped resumes where it was.

    Each process computes every ``world_size``-th shard; after all are done, :func:`finish_pooled_cache` makes the cache readable.

    Args:
        folder: of this cache; its name should be its :func:`cache_key`.
        pooled_statistics: the frozen backbone, in eval mode.
        pooled_dim: length of its pooled vector.
        batch_seconds: the most audio per forward pass, seconds.
        storage: data type on disk; float16 takes half the space.
        max_bad_share: share of the utterances, 0 to 1, that may be unusable; their vectors are left out and listed.
        excluded: positions of utterances that do not count towards that share.
        what: name of what is computed, for messages.

    Raises:
        DataError: more utterances than that cannot be read or give values that are not finite (the first is named).
        OSError: the disk is full; finished shards stay.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    shape = len(corpus), settings.views, pooled_dim
    todo = [
        shard
        for shard in range(rank, -(-len(corpus) // _SHARD_UTTERANCES), world_size)
        if not _is_finished(place, shard, shape, storage)
    ]
    if not todo:
        return
    _LOG.info("Computing %s: %d utterances x %d views in %s", what, len(corpus), settings.views, place)
    total = sum(_shard_shape(shard, *shape)[0] for shard in todo) * settings.views
    source = ViewSource(corpus, settings, augment)
    # one loader for all shards, whose workers stay; the lengths of recordings are asked for only shortly before they are read
    planned, asked = itertools.tee(
        (shard, views) for shard in todo for views in _batches(corpus, _members(shard, *shape), settings, batch_seconds)
    )
    batches = load_batches(source, (views for _, views in asked), num_workers=num_workers)
    bad_utterances = 0
    with progress_bar(what, total, unit="views", enabled=rank == 0) as advance, contextlib.closing(batches):
        for shard, of_shard in itertools.groupby(zip(planned, batches, strict=True), key=lambda pair: pair[0][0]):
            first = shard * _SHARD_UTTERANCES
            array = np.full(_shard_shape(shard, *shape), np.nan, dtype=storage)
            bad: dict[View, str] = {}
            for (_, views), batch in of_shard:
                for view, vector in _vectors(views, batch, pooled_statistics, bad):
                    with np.errstate(over="ignore"):
                        array[view.utterance - first, view.view] = vector
                    if not np.isfinite(array[view.utterance - first, view.view]).all():
                        array[view.utterance - first, view.view] = np.nan
                        path = corpus.utterances[view.utterance].path
                        bad[view] = f"{what} of {path} (view {view.view}) are not finite; check the recording and the checkpoint"
                advance(len(views))
            bad_utterances += len({view.utterance for view in bad} - set(excluded))
            if bad_utterances > max_bad_share * len(corpus):
                raise DataError(_too_many(bad_utterances, len(corpus), max_bad_share, next(iter(bad.values()))))
            for view, reason in bad.items():
                _LOG.warning("left out of the cache: view %d of utterance %d (%s)", view.view, view.utterance, reason)
            if bad:
                write_json(_bad_path(place, shard), [[view.utterance, view.view, reason] for view, reason in bad.items()])
            with atomic_path(_shard_path(place, shard)) as temporary:
                np.save(temporary, array)


def _vectors(
    views: Sequence[View], batch: Batch, pooled_statistics: PooledFunction, bad: dict[View, str]
) -> Iterator[tuple[View, npt.NDArray[np.float32]]]:
    """Yield the vector of each view that could be read, and note the others."""
    bad.update({views[row]: reason for row, reason in batch.missing})
    missing = {row for row, _ in batch.missing}
    readable = [view for row, view in enumerate(views) if row not in missing]
    if readable:
        yield from zip(readable, pooled_in_batches(pooled_statistics, batch), strict=True)


def _too_many(bad: int, total: int, share: float, first: str) -> str:
    allowed = f"; data.max_bad_share allows {share:.3g}" if share else ""
    return f"{bad} of {total} utterances cannot be used{allowed}: {first}"


def pooled_in_batches(pooled_statistics: PooledFunction, batch: Batch) -> npt.NDArray[np.float32]:
    """Return the pooled statistics of one batch (batch, pooled_dim) as NumPy, without gradients."""
    with torch.inference_mode():
        pooled = pooled_statistics(batch.audio, None if batch.equal_lengths else batch.lengths)
    return np.asarray(pooled.float().cpu().numpy(), dtype=np.float32)


def finish_pooled_cache(
    folder: str | os.PathLike[str],
    corpus: Corpus,
    settings: ViewSettings,
    pooled_dim: int,
    *,
    storage: Storage = "float32",
    max_bad_share: float = 0.0,
    excluded: Collection[int] = (),
) -> PooledCache:
    """Mark the cache as finished and open it; for the arguments see :func:`build_pooled_cache`.

    Raises:
        DataError: a shard is missing or damaged, or more utterances than allowed are unusable.
    """
    place = Path(folder)
    description = {
        "format": _FORMAT,
        "utterances": len(corpus),
        "pooled_dim": pooled_dim,
        **({} if storage == "float32" else {"storage": storage}),
        **dataclasses.asdict(settings),
    }
    write_json(place / "cache.json", description)
    cache = PooledCache.load(place)
    bad = {view.utterance for view in cache.bad} - set(excluded)
    if len(bad) > max_bad_share * len(corpus):
        raise DataError(_too_many(len(bad), len(corpus), max_bad_share, next(iter(cache.bad.values()))))
    return cache


def _batches(corpus: Corpus, members: range, settings: ViewSettings, max_seconds: float) -> list[list[View]]:
    """Whole utterances of similar lengths together (little padding), then the crops, which are all of one length."""
    lengths = [_length_if_readable(corpus.utterances[index], settings.max_seconds) for index in members]
    whole = [[View(members[row], 0) for row in group] for group in group_by_length(lengths, max_seconds)]
    crops = [View(index, view) for index in members for view in range(1, settings.views)]
    size = max(1, int(max_seconds / settings.crop_seconds))
    return whole + [crops[at : at + size] for at in range(0, len(crops), size)]


def _length_if_readable(utterance: Utterance, max_seconds: float) -> float:
    try:
        return seconds_of(utterance, max_seconds)
    except AudioLoadingError:
        return 0.0  # reading it will say why


def _members(shard: int, utterances: int, views: int, pooled_dim: int) -> range:
    first = shard * _SHARD_UTTERANCES
    return range(first, first + _shard_shape(shard, utterances, views, pooled_dim)[0])


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / f"pooled-{shard:05d}.npy"


def _bad_path(folder: Path, shard: int) -> Path:
    return folder / f"bad-{shard:05d}.json"


def _read_bad(path: Path) -> list[tuple[int, int, str]]:
    rows = read_json(path)
    try:
        return [(int(utterance), int(view), str(reason)) for utterance, view, reason in rows]
    except (TypeError, ValueError) as error:
        raise DataError(f"{path} does not list utterances with reasons ({said(error)}); delete it to compute it again") from error


def _shard_shape(shard: int, utterances: int, views: int, pooled_dim: int) -> tuple[int, int, int]:
    return min(_SHARD_UTTERANCES, utterances - shard * _SHARD_UTTERANCES), views, pooled_dim


def _start_of_shard(path: Path, shape: tuple[int, int, int], storage: Storage) -> int:
    """Check a shard and return where its data begin in the file, in bytes."""
    try:
        array = read_npy(path, advice="delete it to compute it again")
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; compute it again") from error
    if array.shape != shape or array.dtype != storage or not isinstance(array, np.memmap):
        raise DataError(f"{path} holds {array.dtype} {array.shape}, expected {storage} {shape}; delete it to compute it again")
    return int(array.offset)


def _is_finished(folder: Path, shard: int, shape: tuple[int, int, int], storage: Storage) -> bool:
    path = _shard_path(folder, shard)
    if not path.exists():
        return False
    _start_of_shard(path, _shard_shape(shard, *shape), storage)
    return True
