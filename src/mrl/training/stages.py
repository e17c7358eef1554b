"""The stages of a run: what is trained in which epochs."""

from __future__ import annotations

import dataclasses

from mrl.training.config import TrainConfig


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
