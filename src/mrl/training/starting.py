"""What happens before the first step: the cache of pooled statistics, the closed-form head, and the first class matrices.

The head and the class means are computed from blocks of whole speakers, so that memory does not depend on the size of the corpus:
pooled statistics come from the cache on disk, sums stay.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mrl.backbone import Backbone
from mrl.backbone.state_hash import state_sha256
from mrl.bounded import read_safetensors
from mrl.data import Corpus, PooledCache, View, ViewSettings, build_pooled_cache, cache_key, finish_pooled_cache
from mrl.data.crops import AugmentFunction
from mrl.data.pooled_cache import PooledFunction
from mrl.distribution import Processes
from mrl.errors import DataError, InputError
from mrl.files import write_safetensors
from mrl.matryoshka import AffineMap, ReDimNetMRL, data_free_rotation, pretrained_map
from mrl.matryoshka.closed_form import Method, ProjectionFit
from mrl.progress import progress_bar
from mrl.training.config import TrainConfig
from mrl.training.data import TrainingData
from mrl.training.distillation import RegressionFit
from mrl.training.system import TrainingSystem

_LOG = logging.getLogger(__name__)
_UNLABELLED_UTTERANCES = 2000  # that the head is fitted to where the number of speakers is unknown
_BLOCK_UTTERANCES = 4096  # of whole speakers, which are looked at together
_HEAD_FORMAT = 1  # of closed-form heads in the cache


def open_cache(
    config: TrainConfig, data: TrainingData, encoder: ReDimNetMRL, run_folder: Path, processes: Processes
) -> PooledCache:
    """Return the cache of pooled statistics for this backbone and data, computing what is not there yet.

    Raises:
        DataError, AudioLoadingError: see :func:`mrl.data.build_pooled_cache`.
    """
    settings = ViewSettings(
        views=config.advanced.cache_views,
        max_seconds=config.advanced.cache_max_seconds,
        crop_seconds=config.data.crop_seconds,
        seed=config.training.seed,
    )
    return _open_views(config, data, settings, encoder, run_folder, processes)


def _open_views(
    config: TrainConfig,
    data: TrainingData,
    settings: ViewSettings,
    encoder: ReDimNetMRL,
    run_folder: Path,
    processes: Processes,
) -> PooledCache:
    return fill_cache(
        config,
        _cache_folder(config, cache_base(config, run_folder), encoder.backbone, data, settings),
        data,
        settings,
        encoder.pooled_statistics,
        encoder.backbone.pooled_dim,
        augment=data.augmenter,
        processes=processes,
    )


def fill_cache(
    config: TrainConfig,
    folder: Path,
    data: TrainingData,
    settings: ViewSettings,
    function: PooledFunction,
    dim: int,
    *,
    augment: AugmentFunction | None,
    processes: Processes,
    what: str = "pooled statistics",
) -> PooledCache:
    """Return the cache in ``folder`` of what ``function`` gives, computing what is not there yet, all processes together.

    Raises:
        DataError, AudioLoadingError: see :func:`mrl.data.build_pooled_cache`.
    """
    storage = config.advanced.cache_storage
    build_pooled_cache(
        folder,
        data.corpus,
        settings,
        function,
        dim,
        augment=augment,
        num_workers=config.training.num_workers,
        rank=processes.rank,
        world_size=processes.world_size,
        storage=storage,
        max_bad_share=config.data.max_bad_share,
        excluded=data.excluded,
        what=what,
    )
    processes.barrier()
    if processes.is_first:
        finish_pooled_cache(
            folder,
            data.corpus,
            settings,
            dim,
            storage=storage,
            max_bad_share=config.data.max_bad_share,
            excluded=data.excluded,
        )
    processes.barrier()
    return PooledCache.load(folder)


def _cache_folder(config: TrainConfig, base: Path, backbone: Backbone, data: TrainingData, settings: ViewSettings) -> Path:
    """Return the folder of the cache for these weights and this data, under the name of version 0.1 where that one made it."""
    augmentation = data.augmenter.settings() if data.augmenter else {}
    storage = config.advanced.cache_storage

    def place(weights: str) -> Path:
        return base / cache_key(weights, data.corpus, settings, augmentation, storage=storage, excluded=data.excluded)

    folder = place(state_sha256(backbone))
    if folder.exists():
        return folder
    earlier = place(state_sha256(backbone, as_cached_by_0_1=True))
    return earlier if earlier.exists() else folder


def cache_base(config: TrainConfig, run_folder: Path) -> Path:
    """Return the folder of all caches, each in a folder of its own."""
    return Path(config.advanced.cache_dir) if config.advanced.cache_dir is not None else run_folder / "cache"


@dataclass(frozen=True)
class CleanStatistics:
    """Pooled statistics of clean whole utterances, in blocks of whole speakers.

    Attributes:
        cache: holds them.
        members: their positions in the cache, those of one speaker next to each other.
        utterances: and their positions in the corpus.
        labels: ``(len(members),)`` class indices.
    """

    cache: PooledCache
    members: Sequence[int]
    utterances: Sequence[int]
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.members)

    def blocks(self, what: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield pooled statistics ``(utterances, pooled_dim)`` and labels ``(utterances,)``; ``what`` is for a progress bar."""
        starts = np.flatnonzero(np.diff(self.labels.numpy(), prepend=-1))
        ends = [*starts[1:].tolist(), len(self.members)]
        first = 0
        with progress_bar(what, len(self.members), unit="utterances") as advance:
            for speaker, end in enumerate(ends):
                if end - first >= _BLOCK_UTTERANCES or speaker == len(ends) - 1:
                    rows = self.cache.read([View(index, 0) for index in self.members[first:end]])
                    yield torch.from_numpy(rows), self.labels[first:end]
                    advance(end - first)
                    first = end


def start_members(config: TrainConfig, corpus: Corpus) -> list[int]:
    """Return the utterances that the start of a run is fitted to: at most as many of each speaker as the configuration says."""
    unlabelled = config.data.train.unlabelled
    return corpus.subset(_UNLABELLED_UTTERANCES if unlabelled else config.advanced.init_utterances_per_speaker)


@contextlib.contextmanager
def clean_statistics(
    config: TrainConfig,
    data: TrainingData,
    encoder: ReDimNetMRL,
    run_folder: Path,
    processes: Processes,
    cache: PooledCache | None,
) -> Iterator[CleanStatistics]:
    """Yield the statistics that the start is fitted to: those of the stage's cache, or of a small one that is made for this.

    All processes must call it together. The small cache goes when the block has ended, unless ``advanced.cache_dir`` keeps it.
    """
    members = start_members(config, data.corpus)
    places: Sequence[int] = members
    chosen = data
    base = cache_base(config, run_folder)
    temporary = cache is None and config.advanced.cache_dir is None
    if cache is None:
        chosen = TrainingData(
            data.original,
            Corpus.in_order(data.corpus.utterances[index] for index in members),
            None,
            frozenset(place for place, index in enumerate(members) if index in data.excluded),
        )
        settings = ViewSettings(1, config.advanced.cache_max_seconds, config.data.crop_seconds, config.training.seed)
        cache = _open_views(config, chosen, settings, encoder, run_folder, processes)
        places = range(len(members))
    excluded = chosen.excluded | {view.utterance for view in cache.bad if view.view == 0}
    labels = np.array([data.corpus.labels[index] for index in members], dtype=np.int64)
    usable = [row for row in np.argsort(labels, kind="stable").tolist() if places[row] not in excluded]
    utterances = [members[row] for row in usable]
    yield CleanStatistics(cache, [places[row] for row in usable], utterances, torch.from_numpy(labels[usable]))
    if temporary:
        cache.close()
        processes.barrier()
        if processes.is_first:
            shutil.rmtree(cache.folder)
            with contextlib.suppress(OSError):  # other caches lie there
                base.rmdir()


def initialise(
    config: TrainConfig,
    system: TrainingSystem,
    statistics: CleanStatistics,
    keep_teacher: Callable[[ReDimNetMRL], None],
    targets: Callable[[Sequence[int]], torch.Tensor] | None = None,
) -> None:
    """Fit the head in closed form and start the class matrices at the class means, from a pretrained backbone.

    Only one process needs to do this and give the others the result.

    Args:
        config: all settings.
        system: encoder and losses, which are changed.
        statistics: what to fit to.
        keep_teacher: is given the model while it has the head of the teacher, where that is another one than the start's.
        targets: gives another network's embeddings of utterances, for ``projection_init: teacher``.

    Raises:
        DataError: the head cannot be fitted to these utterances.
    """
    encoder, advanced = system.encoder, config.advanced
    with _all_threads():
        own = None if advanced.projection_init == "teacher" else advanced.projection_init
        wanted = {"projection_init": own, "teacher_init": advanced.teacher_init}
        heads = _fit_heads(config, encoder, statistics, wanted)
        if advanced.teacher_init is not None:
            encoder.projection.assign(heads[advanced.teacher_init])
            keep_teacher(encoder)
        if own is None:
            assert targets is not None  # the configuration has seen to it
            encoder.projection.assign(_regression_head(encoder, statistics, targets))
        else:
            encoder.projection.assign(heads[own])
        initialise_classes(system, statistics.blocks("class means"))


def _fit_heads(
    config: TrainConfig,
    encoder: ReDimNetMRL,
    statistics: CleanStatistics,
    wanted: Mapping[str, Method | Literal["data_free"] | None],
) -> dict[str, AffineMap]:
    """Return a head for each method that is wanted, all fitted in one pass; those already beside the cache are read."""
    heads: dict[str, AffineMap] = {}
    fits: dict[Method, ProjectionFit] = {}
    labelled = not config.data.train.unlabelled
    for method in {method for method in wanted.values() if method is not None}:
        if method == "data_free":
            heads[method] = data_free_rotation(encoder.backbone)
            continue
        kept = _read_head(_head_path(config, encoder, statistics, method))
        if kept is not None:
            _LOG.info("Head fitted in closed form (%s): read from %s", method, statistics.cache.folder)
            heads[method] = kept
        else:
            fits[method] = projection_fit(encoder, method, labelled=labelled)
    try:
        for pooled, labels in statistics.blocks("closed-form head") if fits else ():
            with torch.no_grad():
                features = encoder.backbone.normalise_pooled(pooled.to(encoder.device)).cpu()
            for fit in fits.values():
                fit.add(features, labels if labelled else None)
        for fitted, fit in fits.items():
            heads[fitted] = fit.result()
            _write_head(_head_path(config, encoder, statistics, fitted), heads[fitted])
            _LOG.info("Head fitted in closed form (%s) to %d utterances", fitted, len(statistics))
    except InputError as error:
        keys = " and ".join(f"advanced.{key}: data_free" for key, method in wanted.items() if method in fits)
        raise DataError(f"the head cannot be fitted to the training utterances ({error}); use {keys}") from error
    return heads


def _regression_head(
    encoder: ReDimNetMRL, statistics: CleanStatistics, targets: Callable[[Sequence[int]], torch.Tensor]
) -> AffineMap:
    fit = RegressionFit()
    first = 0
    with torch.no_grad():
        for pooled, _ in statistics.blocks("regression of the teacher"):
            wanted = targets(statistics.utterances[first : first + len(pooled)])
            fit.add(encoder.backbone.normalise_pooled(pooled.to(encoder.device)), wanted)
            first += len(pooled)
    _LOG.info("Head fitted in closed form to the teacher's embeddings of %d utterances", first)
    return fit.result(encoder.embed_dim)


def projection_fit(encoder: ReDimNetMRL, method: Method, *, labelled: bool) -> ProjectionFit:
    """Return an empty fit of the encoder's head."""
    return ProjectionFit(
        encoder.pooled_dim,
        method=method,
        embed_dim=encoder.embed_dim,
        base=pretrained_map(encoder.backbone),
        labelled=labelled,
    )


def _head_path(config: TrainConfig, encoder: ReDimNetMRL, statistics: CleanStatistics, method: Method) -> Path:
    members = hashlib.sha256(np.asarray(statistics.members, dtype=np.int64).tobytes() + statistics.labels.numpy().tobytes())
    described = [_HEAD_FORMAT, method, encoder.embed_dim, config.data.train.unlabelled, members.hexdigest()]
    return statistics.cache.folder / f"head-{hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]}.safetensors"


def _read_head(path: Path) -> AffineMap | None:
    if not path.is_file():
        return None
    advice = "delete it to compute it again"
    tensors = read_safetensors(path, framework="torch", error=DataError, advice=advice).tensors
    try:
        if not all(tensor.is_floating_point() and bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            raise InputError("its tensors are not all of finite floating-point values")
        return AffineMap(tensors["weight"], tensors["bias"])
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise DataError(f"{path} is damaged ({error}); {advice}") from error


def _write_head(path: Path, head: AffineMap) -> None:
    write_safetensors(path, {"weight": head.weight.contiguous(), "bias": head.bias.contiguous()})


@contextlib.contextmanager
def _all_threads() -> Iterator[None]:
    """Compute with all processors of this process: ``torchrun`` leaves it one, but the others only wait."""
    before = torch.get_num_threads()
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(before, available))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def initialise_classes(system: TrainingSystem, blocks: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Start the class matrices at the mean embedding of each class.

    Args:
        system: encoder and losses.
        blocks: pooled statistics (utterances, pooled_dim) and labels (utterances,), each block with whole classes.
    """
    encoder = system.encoder
    was_training = encoder.training
    encoder.eval()
    with torch.no_grad():
        system.loss.initialise_from_blocks((encoder.project(pooled.to(encoder.device)), labels) for pooled, labels in blocks)
    encoder.train(was_training)


def start_figures(config: TrainConfig, corpus: Corpus, system: TrainingSystem) -> tuple[int, float, int]:
    """Return how many utterances the start is fitted to, about how many operations that takes, and the memory for it in bytes."""
    if not config.advanced.use_pretrained:
        return 0, 0.0, 0
    members = start_members(config, corpus)
    encoder = system.encoder
    methods = {config.advanced.projection_init, config.advanced.teacher_init} - {None, "data_free", "teacher"}
    fits = [projection_fit(encoder, method, labelled=not config.data.train.unlabelled) for method in methods]  # type: ignore[arg-type]
    operations = len(members) * (sum(fit.operations_per_utterance for fit in fits) + 2.0 * encoder.pooled_dim * encoder.embed_dim)
    block = min(len(members), _BLOCK_UTTERANCES + config.advanced.init_utterances_per_speaker) * encoder.pooled_dim
    held = sum(fit.bytes_held for fit in fits) + block * (4 + 3 * 8)
    return len(members), operations, held
