"""The stages of a run: what is trained in which epochs, and how a batch becomes embeddings in each."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from mrl.data import Batch, CropDataset, Draw, PooledCache, View, load_batches
from mrl.matryoshka import ReDimNetMRL
from mrl.training.compilation import compiled
from mrl.training.config import TrainConfig
from mrl.training.masking import draw_masks, masked_by
from mrl.training.recomputation import recomputed_stages

PoolFunction = Callable[[torch.Tensor], torch.Tensor]
"""Waveforms (batch, samples) -> pooled statistics (batch, pooled_dim)."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A range of epochs with the same parameters trained.

    Attributes:
        number: 1 head only, 2 everything; a run from scratch has a single stage 2.
        first_epoch, end_epoch: the epochs ``first_epoch <= epoch < end_epoch``, counted from 0.
        trains_backbone: whether the backbone's parameters move.
        learning_rate: peak rate of head and classes.
        backbone_ratio: the backbone's rate as a share of it.
        crop_seconds: length of the crops.
        margin: angular margin of the loss once it is warmed up.
    """

    number: int
    first_epoch: int
    end_epoch: int
    trains_backbone: bool
    learning_rate: float
    backbone_ratio: float
    crop_seconds: float
    margin: float

    @property
    def epochs(self) -> int:
        """How many epochs it lasts."""
        return self.end_epoch - self.first_epoch


def plan_stages(config: TrainConfig) -> list[Stage]:
    """Return the stages that the configuration asks for, without empty ones."""
    data, loss, training, advanced = config.data, config.loss, config.training, config.advanced
    if not advanced.use_pretrained:
        return [Stage(2, 0, training.num_epochs, True, training.learning_rate, 1.0, data.crop_seconds, loss.margin)]
    border = config.stage_1_epochs
    stages = [
        Stage(1, 0, border, False, training.learning_rate, 1.0, data.crop_seconds, loss.margin),
        Stage(
            2,
            border,
            training.num_epochs,
            True,
            training.finetune_learning_rate,
            advanced.backbone_learning_rate_ratio,
            data.finetune_crop_seconds or data.crop_seconds,
            loss.margin if loss.finetune_margin is None else loss.finetune_margin,
        ),
    ]
    return [stage for stage in stages if stage.epochs]


def uses_cache(config: TrainConfig, stage: Stage) -> bool:
    """Return whether the stage reads pooled statistics instead of audio."""
    return not stage.trains_backbone and config.advanced.cache_pooled_statistics


@dataclasses.dataclass(frozen=True)
class Inputs:
    """One batch as it goes into the network.

    Attributes:
        features: (batch, pooled_dim) pooled statistics, or (batch, samples) waveforms.
        labels: (batch,) int64 class indices.
        masks: random numbers of SpecAugment, where it is on and features are waveforms.
    """

    features: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor | None = None


class Feed(Protocol):
    """Reads batches and turns them into raw embeddings."""

    def read(self, batches: Sequence[Sequence[Draw]]) -> Iterator[Inputs]:
        """Yield the batches in order, on the device of the network."""
        ...

    def embed(self, inputs: Inputs, teacher: ReDimNetMRL | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return raw embeddings (batch, embed_dim), and the teacher's if there is one."""
        ...


class CachedFeed:
    """Pooled statistics from the cache; each draw takes a random view that depends on seed, epoch and position only."""

    def __init__(self, encoder: ReDimNetMRL, cache: PooledCache, labels: Sequence[int], *, seed: int) -> None:
        self._encoder = encoder
        self._cache = cache
        self._labels = labels
        self._seed = seed
        self._device = next(encoder.parameters()).device

    def read(self, batches: Sequence[Sequence[Draw]]) -> Iterator[Inputs]:
        for batch in batches:
            views = [View(draw.utterance, self._view(draw)) for draw in batch]
            labels = torch.tensor([self._labels[draw.utterance] for draw in batch], dtype=torch.int64)
            yield Inputs(torch.from_numpy(self._cache.read(views)).to(self._device), labels.to(self._device))

    def embed(self, inputs: Inputs, teacher: ReDimNetMRL | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        raw = self._encoder.project(inputs.features)
        if teacher is None:
            return raw, None
        with torch.no_grad():
            return raw, teacher.project(inputs.features)

    def _view(self, draw: Draw) -> int:
        return int(np.random.default_rng((self._seed, draw.epoch, draw.position)).integers(self._cache.views))


class WaveformFeed:
    """Random crops through the whole network.

    Args:
        encoder: the Matryoshka model.
        crops: gives the waveforms.
        num_workers: processes that read them.
        compile_network: compile the way from waveforms to pooled statistics (the head is one small matrix product).
        recompute: keep only the inputs of the backbone's stages for the backward pass, see :mod:`mrl.training.recomputation`.
    """

    def __init__(
        self,
        encoder: ReDimNetMRL,
        crops: CropDataset,
        *,
        num_workers: int = 0,
        compile_network: bool = False,
        recompute: bool = False,
    ) -> None:
        self._encoder = encoder
        self._pool: PoolFunction = compiled(encoder.pooled_statistics) if compile_network else encoder.pooled_statistics
        self._recompute = recompute
        self._crops = crops
        self._num_workers = num_workers
        self._device = next(encoder.parameters()).device

    def read(self, batches: Sequence[Sequence[Draw]]) -> Iterator[Inputs]:
        pin = self._device.type == "cuda"
        loaded = load_batches(self._crops, batches, num_workers=self._num_workers, pin_memory=pin)
        for draws, batch in zip(batches, loaded, strict=True):
            yield to_device(batch, self._device, masks=draw_masks(self._encoder, draws, self._crops.seed))

    def embed(self, inputs: Inputs, teacher: ReDimNetMRL | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        with masked_by(self._encoder, inputs.masks):
            raw = embed_waveforms(self._encoder, inputs.features, pool=self._pool, recompute=self._recompute)
        if teacher is None:
            return raw, None
        with torch.no_grad():
            return raw, teacher.project(teacher.pooled_statistics(inputs.features))


def embed_waveforms(
    encoder: ReDimNetMRL, audio: torch.Tensor, *, pool: PoolFunction | None = None, recompute: bool = False
) -> torch.Tensor:
    """Return raw embeddings (batch, embed_dim) of waveforms (batch, samples).

    Args:
        encoder: the Matryoshka model.
        audio: the waveforms.
        pool: its way to pooled statistics in another form, such as compiled.
        recompute: see :class:`WaveformFeed`; without effect on a frozen backbone, which keeps nothing.
    """
    keeps = torch.is_grad_enabled() and not encoder.backbone_frozen
    with recomputed_stages(encoder.backbone) if recompute and keeps else contextlib.nullcontext():
        pooled = (pool or encoder.pooled_statistics)(audio)
    return encoder.project(pooled)


def to_device(batch: Batch, device: torch.device, *, masks: torch.Tensor | None = None) -> Inputs:
    """Return the crops of a batch, which are all of one length, and the numbers of their masks on the device."""
    return Inputs(
        batch.audio.to(device, non_blocking=True),
        batch.labels.to(device, non_blocking=True),
        None if masks is None else masks.to(device, non_blocking=True),
    )
