"""What happens before the first step: the cache of pooled statistics, the closed-form head, and the first class matrices."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch

from mrl.backbone import Backbone
from mrl.backbone.state_hash import state_sha256
from mrl.data import (
    Corpus,
    PooledCache,
    View,
    ViewSettings,
    WholeUtterances,
    build_pooled_cache,
    cache_key,
    finish_pooled_cache,
    load_batches,
)
from mrl.data.crops import AugmentFunction, seconds_of
from mrl.data.pooled_cache import PooledFunction, pooled_in_batches
from mrl.distribution import Processes
from mrl.errors import DataError, InputError
from mrl.lengths import group_by_length
from mrl.matryoshka import ReDimNetMRL, data_free_rotation
from mrl.matryoshka.closed_form import Method
from mrl.progress import progress_bar
from mrl.training.config import TrainConfig
from mrl.training.data import TrainingData
from mrl.training.distillation import regression_head
from mrl.training.system import TrainingSystem

_LOG = logging.getLogger(__name__)
_BATCH_SECONDS = 60.0  # of audio per forward pass
_UNLABELLED_UTTERANCES = 2000  # that the head is fitted to where nobody knows how many speakers there are


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
    base = Path(config.advanced.cache_dir) if config.advanced.cache_dir is not None else run_folder / "cache"
    return fill_cache(
        _cache_folder(base, encoder.backbone, data, settings),
        data.corpus,
        settings,
        encoder.pooled_statistics,
        encoder.backbone.pooled_dim,
        augment=data.augmenter,
        num_workers=config.training.num_workers,
        processes=processes,
    )


def fill_cache(
    folder: Path,
    corpus: Corpus,
    settings: ViewSettings,
    function: PooledFunction,
    dim: int,
    *,
    augment: AugmentFunction | None,
    num_workers: int,
    processes: Processes,
    what: str = "pooled statistics",
) -> PooledCache:
    """Return the cache in ``folder``, computing what is not there yet, all processes together.

    Raises:
        DataError, AudioLoadingError: see :func:`mrl.data.build_pooled_cache`.
    """
    build_pooled_cache(
        folder,
        corpus,
        settings,
        function,
        dim,
        augment=augment,
        num_workers=num_workers,
        rank=processes.rank,
        world_size=processes.world_size,
        what=what,
    )
    processes.barrier()
    if processes.is_first:
        finish_pooled_cache(folder, corpus, settings, dim)
    processes.barrier()
    return PooledCache.load(folder)


def _cache_folder(base: Path, backbone: Backbone, data: TrainingData, settings: ViewSettings) -> Path:
    """Return where the cache for these weights and this data lies, under the name of version 0.1 where that one made it."""
    augmentation = data.augmenter.settings() if data.augmenter else {}
    folder = base / cache_key(state_sha256(backbone), data.corpus, settings, augmentation)
    if folder.exists():
        return folder
    earlier = base / cache_key(state_sha256(backbone, as_cached_by_0_1=True), data.corpus, settings, augmentation)
    return earlier if earlier.exists() else folder


def clean_pooled(
    encoder: ReDimNetMRL,
    corpus: Corpus,
    members: Sequence[int],
    *,
    cache: PooledCache | None,
    max_seconds: float,
    num_workers: int,
) -> torch.Tensor:
    """Return the pooled statistics (len(members), pooled_dim) of clean whole utterances, from the cache or computed."""
    if cache is not None:
        return torch.from_numpy(cache.read([View(index, 0) for index in members]))
    was_training = encoder.training
    encoder.eval()
    rows = of_whole_utterances(
        encoder.pooled_statistics,
        encoder.backbone.pooled_dim,
        corpus,
        members,
        max_seconds=max_seconds,
        num_workers=num_workers,
    )
    encoder.train(was_training)
    return rows


def of_whole_utterances(
    function: PooledFunction,
    dim: int,
    corpus: Corpus,
    members: Sequence[int],
    *,
    max_seconds: float,
    num_workers: int,
    what: str = "pooled statistics",
) -> torch.Tensor:
    """Return what ``function`` gives for clean whole utterances, ``(len(members), dim)``; ``what`` is for the progress bar."""
    groups = group_by_length([seconds_of(corpus.utterances[index], max_seconds) for index in members], _BATCH_SECONDS)
    rows = torch.empty(len(members), dim)
    source = WholeUtterances(corpus, max_seconds)
    batches = load_batches(source, [[members[row] for row in group] for group in groups], num_workers=num_workers)
    with progress_bar(what, len(members), unit="utterances") as advance:
        for group, batch in zip(groups, batches, strict=True):
            rows[group] = torch.from_numpy(pooled_in_batches(function, batch))
            advance(len(group))
    return rows


def initialise(
    config: TrainConfig,
    system: TrainingSystem,
    corpus: Corpus,
    cache: PooledCache | None,
    keep_teacher: Callable[[ReDimNetMRL], None],
    targets: Callable[[Sequence[int]], torch.Tensor] | None = None,
) -> None:
    """Fit the head in closed form and start the class matrices at the class means, from a pretrained backbone.

    ``keep_teacher`` is given the model while it has the head of the teacher, where that is another one than the start's.
    ``targets`` gives the teacher's embeddings of utterances in its space, for ``projection_init: teacher``.
    """
    encoder, advanced = system.encoder, config.advanced
    unlabelled = config.data.train.unlabelled
    members = first_members(config, corpus)
    device = next(system.parameters()).device
    pooled = clean_pooled(
        encoder, corpus, members, cache=cache, max_seconds=advanced.cache_max_seconds, num_workers=config.training.num_workers
    ).to(device)
    labels = torch.tensor([corpus.labels[index] for index in members], dtype=torch.int64, device=device)
    if advanced.teacher_init is not None:
        _fit_head(encoder, advanced.teacher_init, pooled, None if unlabelled else labels, key="teacher_init")
        keep_teacher(encoder)
    if advanced.projection_init == "teacher":
        assert targets is not None  # the configuration has seen to it
        head = regression_head(encoder.backbone.normalise_pooled(pooled), targets(members), encoder.embed_dim)
        encoder.projection.assign(head)
        _LOG.info("Head fitted in closed form to the teacher's embeddings of %d utterances", len(members))
    else:
        _fit_head(encoder, advanced.projection_init, pooled, None if unlabelled else labels, key="projection_init")
    initialise_classes(system, pooled, labels)


def first_members(config: TrainConfig, corpus: Corpus) -> list[int]:
    """Return the utterances that closed forms at the start of a run are fitted to."""
    unlabelled = config.data.train.unlabelled
    return corpus.subset(_UNLABELLED_UTTERANCES if unlabelled else config.advanced.init_utterances_per_speaker)


def _fit_head(
    encoder: ReDimNetMRL, method: Method | Literal["data_free"], pooled: torch.Tensor, labels: torch.Tensor | None, *, key: str
) -> None:
    if method == "data_free":
        encoder.projection.assign(data_free_rotation(encoder.backbone))
        return
    try:
        encoder.fit_projection(pooled, labels, method=method)
    except InputError as error:
        raise DataError(
            f"the head cannot be fitted to the training utterances ({error}); use advanced.{key}: data_free"
        ) from error
    whose = "Head of the teacher" if key == "teacher_init" else "Head"
    _LOG.info("%s fitted in closed form (%s) to %d utterances", whose, method, len(pooled))


def initialise_classes(system: TrainingSystem, pooled: torch.Tensor, labels: torch.Tensor) -> None:
    """Start the class matrices at the mean embedding of each class; pooled (utterances, pooled_dim), labels (utterances,)."""
    encoder = system.encoder
    was_training = encoder.training
    encoder.eval()
    with torch.no_grad():
        raw = torch.cat([encoder.project(part) for part in torch.split(pooled, 4096)])
    encoder.train(was_training)
    system.loss.initialise_from_class_means(raw, labels)
