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
from mrl.data.crops import seconds_of
from mrl.data.pooled_cache import pooled_in_batches
from mrl.distribution import Processes
from mrl.errors import DataError, InputError
from mrl.lengths import group_by_length
from mrl.matryoshka import ReDimNetMRL, data_free_rotation
from mrl.matryoshka.closed_form import Method
from mrl.progress import progress_bar
from mrl.training.config import TrainConfig
from mrl.training.data import TrainingData
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
    folder = _cache_folder(base, encoder.backbone, data, settings)
    pooled_dim = encoder.backbone.pooled_dim
    build_pooled_cache(
        folder,
        data.corpus,
        settings,
        encoder.pooled_statistics,
        pooled_dim,
        augment=data.augmenter,
        num_workers=config.training.num_workers,
        rank=processes.rank,
        world_size=processes.world_size,
    )
    processes.barrier()
    if processes.is_first:
        finish_pooled_cache(folder, data.corpus, settings, pooled_dim)
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
    groups = group_by_length([seconds_of(corpus.utterances[index], max_seconds) for index in members], _BATCH_SECONDS)
    rows = torch.empty(len(members), encoder.backbone.pooled_dim)
    was_training = encoder.training
    encoder.eval()
    source = WholeUtterances(corpus, max_seconds)
    batches = load_batches(source, [[members[row] for row in group] for group in groups], num_workers=num_workers)
    with progress_bar("pooled statistics", len(members), unit="utterances") as advance:
        for group, batch in zip(groups, batches, strict=True):
            rows[group] = torch.from_numpy(pooled_in_batches(encoder.pooled_statistics, batch))
            advance(len(group))
    encoder.train(was_training)
    return rows


def initialise(
    config: TrainConfig,
    system: TrainingSystem,
    corpus: Corpus,
    cache: PooledCache | None,
    keep_teacher: Callable[[ReDimNetMRL], None],
) -> None:
    """Fit the head in closed form and start the class matrices at the class means, from a pretrained backbone.

    ``keep_teacher`` is given the model while it has the head of the teacher, where that is another one than the start's.
    """
    encoder, advanced = system.encoder, config.advanced
    unlabelled = config.data.train.unlabelled
    members = corpus.subset(_UNLABELLED_UTTERANCES if unlabelled else advanced.init_utterances_per_speaker)
    device = next(system.parameters()).device
    pooled = clean_pooled(
        encoder, corpus, members, cache=cache, max_seconds=advanced.cache_max_seconds, num_workers=config.training.num_workers
    ).to(device)
    labels = torch.tensor([corpus.labels[index] for index in members], dtype=torch.int64, device=device)
    if advanced.teacher_init is not None:
        _fit_head(encoder, advanced.teacher_init, pooled, None if unlabelled else labels, key="teacher_init")
        keep_teacher(encoder)
    _fit_head(encoder, advanced.projection_init, pooled, None if unlabelled else labels, key="projection_init")
    initialise_classes(system, pooled, labels)


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
