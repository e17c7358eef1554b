"""How a batch becomes embeddings: from waveforms through the whole network, or from cached pooled statistics."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mrl.backbone import Backbone, SpecAugment
from mrl.data import Batch, CropDataset, Draw, PooledCache, View
from mrl.data.crops import BatchLoader, Replacements
from mrl.errors import ConfigError, DataError
from mrl.matryoshka import ReDimNetMRL
from mrl.training.config import SpecAugmentConfig

# Gradient checkpointing (arXiv 1604.06174): the backward pass computes each backbone stage again, so that the values within a
# stage are held for one stage at a time instead of for all.


@contextlib.contextmanager
def recomputed_stages(network: Backbone) -> Iterator[None]:
    """Let the stages of the network keep only their inputs while the block runs forward passes with gradient.

    Backward passes may come after the block. Losses and gradients are those of the ordinary pass; random numbers (dropout) are
    drawn again from the same state, and BatchNorm takes a batch into its running statistics once.
    """
    stages = list(network.encoder.stages)
    for stage in stages:
        stage.forward = _recomputed(stage)
    try:
        yield
    finally:
        for stage in stages:
            del stage.forward  # the method of its class is back


def _recomputed(stage: nn.Module) -> Callable[..., Any]:
    forward = stage.forward

    def checkpointed(outputs: Sequence[Tensor], mask: Tensor | None) -> Any:
        inputs = tuple(outputs), mask  # the list grows with every stage; what is computed again must see it as it was
        if torch.compiler.is_compiling():
            # the compiler plans forward and backward together, and writes running statistics in the forward pass only
            return checkpoint(forward, *inputs, use_reentrant=False)
        return checkpoint(
            forward, *inputs, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _without_statistics(stage))
        )

    return checkpointed


@contextlib.contextmanager
def _without_statistics(stage: nn.Module) -> Iterator[None]:
    """Let BatchNorms in training mode normalise by the batch as usual, but keep their running statistics."""
    moving = [module for module in stage.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training]
    kept = [(module.momentum, module.num_batches_tracked) for module in moving]
    for module in moving:
        module.momentum, module.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for module, (momentum, count) in zip(moving, kept, strict=True):
            module.momentum, module.num_batches_tracked = momentum, count


# training.compile: forward and backward passes through torch.compile.


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, compiled again for each shape of its arguments.

    A function is compiled, not a module, so that names in checkpoints stay what they are and validation, with its many lengths,
    stays uncompiled. One program per shape makes results depend on the shape alone, not on the shapes that came before: a
    resumed run meets the same programs.
    """
    result: Callable[..., Any] = torch.compile(function, dynamic=False)
    return result


def check_compiler(device: torch.device) -> None:
    """Compile and run something small, forward and backward.

    Raises:
        ConfigError: there is no compiler that works.
    """

    def small(numbers: torch.Tensor) -> torch.Tensor:
        return (numbers.sin() * 2.0).sum()

    try:
        compiled(small)(torch.ones(8, device=device, requires_grad=True)).backward()
    except Exception as error:  # whatever compiler, driver and linker make of it
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ConfigError(
            f"training.compile does not work here ({lines[0] if lines else type(error).__name__}); install a C++ "
            "compiler such as g++ (CPU) or Triton (GPU), or set training.compile: false"
        ) from error


# SpecAugment: the masks of a crop follow from the seed and its draw alone, so that they are the same for any number of
# processes, any split of the batch, and after a resume.


_MASKS = 6  # keeps the random stream of the masks apart from those of crops and order


def set_spec_augment(config: SpecAugmentConfig, encoder: ReDimNetMRL) -> None:
    """Let the front end mask its features, or no longer; the teacher is another network without."""
    masks = SpecAugment(
        frequency_masks=config.frequency_masks,
        frequency_width=config.frequency_width,
        time_masks=config.time_masks,
        time_width=config.time_width,
    )
    encoder.backbone.front_end.spec_augment = masks if masks.numbers_per_item else None
    encoder.train(encoder.training)  # a new part begins in training mode, even in a frozen backbone


def draw_masks(encoder: ReDimNetMRL, draws: Sequence[Draw], seed: int) -> torch.Tensor | None:
    """Return the random numbers (len(draws), numbers_per_item) of the masks of these crops; None if nothing is masked."""
    masks = encoder.backbone.front_end.spec_augment
    if masks is None:
        return None
    numbers = np.empty((len(draws), masks.numbers_per_item), dtype=np.float32)
    for row, draw in zip(numbers, draws, strict=True):
        np.random.default_rng((seed, draw.epoch, draw.position, _MASKS)).random(out=row, dtype=np.float32)
    return torch.from_numpy(numbers)


def masked_by(encoder: ReDimNetMRL, numbers: torch.Tensor | None) -> contextlib.AbstractContextManager[None]:
    """Return a context in which the front end masks by what :func:`draw_masks` gave, on the encoder's device."""
    masks = encoder.backbone.front_end.spec_augment
    return contextlib.nullcontext() if masks is None or numbers is None else masks.drawn(numbers)


PoolFunction = Callable[[torch.Tensor], torch.Tensor]
"""Waveforms (batch, samples) -> pooled statistics (batch, pooled_dim)."""

TeachFunction = Callable[[Batch], tuple[Batch, torch.Tensor]]
"""A batch of crops -> the batch to learn from, and a teacher's raw embeddings (batch, teacher_dim)."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """One batch as it goes into the network.

    Attributes:
        features: (batch, pooled_dim) pooled statistics, or (batch, samples) waveforms.
        labels: (batch,) int64 class indices.
        masks: random numbers of SpecAugment, where it is on and features are waveforms.
        problems: why draws of the batch were replaced, one line each.
        teacher: (batch, teacher_dim) raw embeddings of a teacher that is another network, where there is one.
    """

    features: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor | None = None
    problems: tuple[str, ...] = ()
    teacher: torch.Tensor | None = None


class Feed(Protocol):
    """Reads batches and turns them into raw embeddings."""

    def read(self, batches: Sequence[Sequence[Draw]]) -> Iterator[Inputs]:
        """Yield the batches in order, on the device of the network."""
        ...

    def embed(self, inputs: Inputs, teacher: ReDimNetMRL | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return raw embeddings (batch, embed_dim), and the teacher's if there is one: of the inputs, or of ``teacher``."""
        ...

    def close(self) -> None:
        """Let go of files and worker processes."""
        ...


class CachedFeed:
    """Pooled statistics from the cache; each draw takes a random view that depends on seed, epoch and position only.

    Args:
        encoder: the Matryoshka model.
        cache: its pooled statistics.
        labels: class index of each utterance.
        seed: of the choice of views.
        replacements: what is drawn instead of utterances that the cache does not have; None: it must have all.
        read_ahead_bytes: how much is read ahead of training, by a thread.
        teacher: gives the embeddings of a teacher that is another network, (len(views), teacher_dim).
    """

    def __init__(
        self,
        encoder: ReDimNetMRL,
        cache: PooledCache,
        labels: Sequence[int],
        *,
        seed: int,
        replacements: Replacements | None = None,
        read_ahead_bytes: int = 64_000_000,
        teacher: Callable[[Sequence[View]], torch.Tensor] | None = None,
    ) -> None:
        self._encoder = encoder
        self._cache = cache
        self._labels = labels
        self._seed = seed
        self._replacements = replacements
        self._read_ahead_bytes = read_ahead_bytes
        self._teacher = teacher
        self._device = next(encoder.parameters()).device

    def read(self, batches: Sequence[Sequence[Draw]]) -> Iterator[Inputs]:
        largest = max((len(batch) for batch in batches), default=1) * self._cache.pooled_dim * 4
        with ThreadPoolExecutor(max_workers=1) as reader:
            waiting: deque[Future[Inputs]] = deque()
            left = iter(batches)
            try:
                while True:
                    for batch in itertools.islice(left, max(1, self._read_ahead_bytes // largest) - len(waiting)):
                        waiting.append(reader.submit(self._read, batch))
                    if not waiting:
                        return
                    inputs = waiting.popleft().result()
                    yield dataclasses.replace(
                        inputs,
                        features=inputs.features.to(self._device),
                        labels=inputs.labels.to(self._device),
                        teacher=None if inputs.teacher is None else inputs.teacher.to(self._device),
                    )
            finally:
                reader.shutdown(wait=True, cancel_futures=True)

    def embed(self, inputs: Inputs, teacher: ReDimNetMRL | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        raw = self._encoder.project(inputs.features)
        if teacher is None:
            return raw, inputs.teacher
        with torch.no_grad():
            return raw, teacher.project(inputs.features)

    def close(self) -> None:
        self._cache.close()

    def _read(self, batch: Sequence[Draw]) -> Inputs:
        problems: list[str] = []
        views = [self._usable(draw, problems) for draw in batch]
        labels = torch.tensor([self._labels[view.utterance] for view in views], dtype=torch.int64)
        targets = None if self._teacher is None else self._teacher(views)
        return Inputs(torch.from_numpy(self._cache.read(views)), labels, problems=tuple(problems), teacher=targets)

    def _usable(self, draw: Draw, problems: list[str]) -> View:
        view = View(draw.utterance, self._view(draw))
        excluded = self._replacements is not None and draw.utterance in self._replacements.excluded
        if view not in self._cache.bad and not excluded:
            return view
        if not excluded:
            problems.append(self._cache.bad[view])
        for other in self._replacements.of(draw) if self._replacements is not None else ():
            instead = View(other.utterance, view.view)
            if instead not in self._cache.bad:
                return instead
        raise DataError(self._cache.bad.get(view, f"utterance {draw.utterance} is excluded and has no replacement"))

    def _view(self, draw: Draw) -> int:
        return int(np.random.default_rng((self._seed, draw.epoch, draw.position)).integers(self._cache.views))


class WaveformFeed:
    """Random crops through the whole network.

    Args:
        encoder: the Matryoshka model.
        crops: gives the waveforms.
        num_workers: processes that read them, and stay as long as the feed.
        teacher: gives, for a batch as ``crops`` makes it, the batch to learn from and a teacher's embeddings of it.
        compile_network: compile the way from waveforms to pooled statistics (the head is one small matrix product).
        recompute: keep only the inputs of the backbone's stages for the backward pass, see :func:`recomputed_stages`.
    """

    def __init__(
        self,
        encoder: ReDimNetMRL,
        crops: CropDataset,
        *,
        num_workers: int = 0,
        teacher: TeachFunction | None = None,
        compile_network: bool = False,
        recompute: bool = False,
    ) -> None:
        self._encoder = encoder
        self._pool: PoolFunction = compiled(encoder.pooled_statistics) if compile_network else encoder.pooled_statistics
        self._recompute = recompute
        self._seed = crops.seed
        self._teacher = teacher
        self._device = next(encoder.parameters()).device
        self._loader = BatchLoader(crops, num_workers=num_workers, pin_memory=self._device.type == "cuda")

    def read(self, batches: Sequence[Sequence[Draw]]) -> Iterator[Inputs]:
        for draws, batch in zip(batches, self._loader.read(batches), strict=True):
            taught, targets = (batch, None) if self._teacher is None else self._teacher(batch)
            masks = draw_masks(self._encoder, draws, self._seed)
            yield to_device(taught, self._device, masks=masks, teacher=targets)

    def embed(self, inputs: Inputs, teacher: ReDimNetMRL | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        with masked_by(self._encoder, inputs.masks):
            raw = embed_waveforms(self._encoder, inputs.features, pool=self._pool, recompute=self._recompute)
        if teacher is None:
            return raw, inputs.teacher
        with torch.no_grad():
            return raw, teacher.project(teacher.pooled_statistics(inputs.features))

    def close(self) -> None:
        self._loader.close()


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


def to_device(
    batch: Batch, device: torch.device, *, masks: torch.Tensor | None = None, teacher: torch.Tensor | None = None
) -> Inputs:
    """Return the crops of a batch, which are all of one length, the numbers of their masks, and the teacher's embeddings."""
    return Inputs(
        batch.audio.to(device, non_blocking=True),
        batch.labels.to(device, non_blocking=True),
        None if masks is None else masks.to(device, non_blocking=True),
        batch.problems,
        None if teacher is None else teacher.to(device, non_blocking=True),
    )
