"""Training for those who bring their own loader of ``(audio, labels)`` batches: two functions instead of a configuration.

They use the same losses, updates and checks as a whole run; what they leave out is files: no run folder, validation or resume.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from mrl.errors import DataError, TrainingError
from mrl.matryoshka import MatryoshkaLoss, ReDimNetMRL
from mrl.progress import progress_bar
from mrl.training.feeds import embed_waveforms
from mrl.training.starting import initialise_classes
from mrl.training.system import StepLoss, TrainingSystem, check_optimised
from mrl.training.updates import (
    Precision,
    Updater,
    WeightAverage,
    build_optimizer,
    learning_rate_factor,
    parameter_groups,
    warmup_steps,
)

_LOG = logging.getLogger(__name__)
Loader = Iterable[Any]
"""Yields ``(audio (batch, samples) float, labels (batch,) integers)`` each time it is iterated, such as a torch DataLoader."""


@dataclasses.dataclass(frozen=True)
class History:
    """What happened in each epoch.

    Attributes:
        loss: mean loss of each epoch.
        accuracy: for each epoch the training accuracy per dim.
        chance_level: loss of a model that knows nothing.
        num_classes: number of speakers.
    """

    loss: list[float]
    accuracy: list[dict[int, float]]
    chance_level: float
    num_classes: int


@dataclasses.dataclass(frozen=True)
class _Recipe:
    """How both functions train; the names are explained with their arguments."""

    learning_rate: float
    backbone_ratio: float
    margin: float
    scale: float
    weight_decay: float
    ema_decay: float
    precision: Precision


def train_projection_head(
    model: ReDimNetMRL,
    train_loader: Loader,
    num_epochs: int = 5,
    *,
    learning_rate: float = 1e-3,
    margin: float = 0.2,
    scale: float = 30.0,
    weight_decay: float = 1e-4,
    ema_decay: float = 0.999,
    precision: Precision = "fp32",
) -> History:
    """Stage 1: train the head alone; the backbone stays bit for bit what it is.

    The model is trained in place, on its own device. The loader is read once more before training: to learn how many
    speakers there are, and to start their class vectors at their mean embeddings.

    Args:
        model: the Matryoshka model; its backbone is frozen meanwhile and left as frozen or free as it was.
        train_loader: yields ``(audio (batch, samples) at 16 kHz, labels (batch,) from 0)``.
        num_epochs: passes over the loader.
        learning_rate: its peak; warm-up over half an epoch (at least one step), then cosine.
        margin: angular margin, radians.
        scale: scale of the cosines.
        weight_decay: of weight matrices.
        ema_decay: moving average of the weights, which the model has at the end; 0 for none.
        precision: of forward and backward passes.

    Raises:
        DataError: the loader is empty or yields something else.
        TrainingError: the loss is not finite for too many steps.
    """
    was_frozen = model.backbone_frozen
    statistics = model.batch_norm_statistics
    unmodified = model.backbone_is_unmodified
    trainable = {name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad}
    model.freeze_backbone()
    try:
        recipe = _Recipe(learning_rate, 1.0, margin, scale, weight_decay, ema_decay, precision)
        return _train(model, train_loader, num_epochs, recipe)
    finally:
        if not was_frozen:
            model.unfreeze_backbone(batch_norm_statistics=statistics)
            model.backbone_is_unmodified = unmodified
            for name, parameter in model.backbone.named_parameters():
                parameter.requires_grad_(name in trainable)


def train_full_model(
    model: ReDimNetMRL,
    train_loader: Loader,
    num_epochs: int = 50,
    *,
    learning_rate: float = 2e-4,
    backbone_learning_rate_ratio: float = 0.1,
    margin: float = 0.2,
    scale: float = 30.0,
    weight_decay: float = 1e-4,
    ema_decay: float = 0.999,
    precision: Precision = "fp32",
) -> History:
    """Stage 2: train everything, after ``unfreeze_backbone(model)``.

    Args:
        model: the Matryoshka model, unfrozen.
        train_loader: as for :func:`train_projection_head`.
        num_epochs: passes over the loader.
        learning_rate: peak rate of head and class vectors.
        backbone_learning_rate_ratio: the backbone's rate as a share of it.
        margin, scale, weight_decay, ema_decay, precision: as for :func:`train_projection_head`.

    Raises:
        TrainingError: the backbone is frozen, or the loss is not finite for too many steps.
        DataError: the loader is empty or yields something else.
    """
    if model.backbone_frozen:
        raise TrainingError(
            "the backbone is frozen: call unfreeze_backbone(model) first, or train the head by train_projection_head"
        )
    # a model that was never frozen has its batch statistics and teacher layer set by this
    model.unfreeze_backbone(batch_norm_statistics=model.batch_norm_statistics)
    recipe = _Recipe(learning_rate, backbone_learning_rate_ratio, margin, scale, weight_decay, ema_decay, precision)
    return _train(model, train_loader, num_epochs, recipe)


def _train(model: ReDimNetMRL, loader: Loader, num_epochs: int, recipe: _Recipe) -> History:
    if num_epochs < 1:
        raise TrainingError(f"num_epochs must be 1 or more (found {num_epochs})")
    was_training = model.training
    pooled, labels, batches = _first_pass(model, loader)
    num_classes = max(int(labels.max()) + 1, _declared_classes(loader))
    system = TrainingSystem(model, MatryoshkaLoss(model.mrl_dims, num_classes, margin=recipe.margin, scale=recipe.scale))
    system.to(model.device)
    initialise_classes(system, iter([(pooled, labels)]))
    optimizer = build_optimizer(
        parameter_groups(
            system,
            learning_rate=recipe.learning_rate,
            backbone_ratio=recipe.backbone_ratio,
            weight_decay=recipe.weight_decay,
        ),
        "adamw",
    )
    check_optimised(system, optimizer)
    average = WeightAverage(model, recipe.ema_decay) if recipe.ema_decay else None
    updater = Updater(
        system, optimizer, precision=recipe.precision, clip_norm=5.0, average=average, update_buffers=model.updates_statistics
    )
    history = History([], [], system.loss.chance_level(), num_classes)
    _LOG.info("%d classes; chance-level loss %.3f", num_classes, history.chance_level)
    step = 0
    system.train()
    try:
        for epoch in range(num_epochs):
            sums: dict[str, float] = {}
            crops = 0
            with progress_bar(f"epoch {epoch}", batches, unit="batches") as advance:
                for audio, targets in _batches(loader, model.device):
                    factor = learning_rate_factor(
                        step,
                        total_steps=num_epochs * batches,
                        warmup_steps=warmup_steps(0.5, batches),
                        schedule="cosine",
                        final_ratio=0.01,
                    )
                    losses = _loss(updater, model, system, audio, targets)
                    report = updater.update(losses, total_crops=len(targets), rate_factor=factor)
                    step += 1
                    advance(1)
                    if not report.skipped:
                        crops += len(targets)
                        sums = {name: sums.get(name, 0.0) + value * len(targets) for name, value in report.parts.items()}
            means = {name: value / crops for name, value in sums.items()}
            history.loss.append(means.get("loss", float("nan")))
            history.accuracy.append({dim: means.get(f"accuracy_{dim}", float("nan")) for dim in model.mrl_dims})
            _LOG.info("Epoch %d: loss %.4f (chance level %.3f)", epoch, history.loss[-1], history.chance_level)
    finally:
        model.train(was_training)
    if average is not None:
        average.copy_to(model)
    return history


def _loss(
    updater: Updater, model: ReDimNetMRL, system: TrainingSystem, audio: torch.Tensor, labels: torch.Tensor
) -> Iterator[tuple[StepLoss, int]]:
    with updater.autocast():
        raw = embed_waveforms(model, audio)
    yield system(raw.float(), labels), len(labels)


def _first_pass(model: ReDimNetMRL, loader: Loader) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Pooled statistics and labels of one pass, and how many batches it had."""
    model.eval()
    pooled: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    with torch.no_grad():
        for audio, targets in _batches(loader, model.device):
            pooled.append(model.pooled_statistics(audio).float().cpu())
            labels.append(targets.cpu())
    if not pooled:
        raise DataError(
            "train_loader yields no batches; expected (audio (batch, samples), labels (batch,)) each time it is iterated"
        )
    return torch.cat(pooled), torch.cat(labels), len(pooled)


def _batches(loader: Loader, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for batch in loader:
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise DataError(
                f"train_loader yields a {type(batch).__name__}; expected pairs (audio (batch, samples), labels (batch,))"
            )
        audio, labels = torch.as_tensor(batch[0]), torch.as_tensor(batch[1])
        if labels.ndim != 1 or labels.is_floating_point() or len(labels) != len(audio) or (len(labels) and int(labels.min()) < 0):
            raise DataError(
                f"train_loader yields labels {labels.dtype} {tuple(labels.shape)} for audio {tuple(audio.shape)}; "
                "expected whole numbers from 0, one per waveform"
            )
        yield audio.to(device), labels.to(device, torch.int64)


def _declared_classes(loader: Loader) -> int:
    """A dataset may know of speakers that one pass does not meet."""
    declared = getattr(getattr(loader, "dataset", None), "num_classes", 0)
    return declared if isinstance(declared, int) else 0
