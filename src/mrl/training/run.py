"""What all parts of one run share."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from mrl.matryoshka import ReDimNetMRL
from mrl.training.averaging import WeightAverage
from mrl.training.config import TrainConfig
from mrl.training.distribution import Processes
from mrl.training.progress_state import Progress
from mrl.training.run_folder import RunFolder
from mrl.training.run_log import RunLog
from mrl.training.system import TrainingSystem
from mrl.training.training_data import TrainingData
from mrl.training.validation import Validator


@dataclasses.dataclass
class Run:
    """One run.

    Attributes:
        config: all settings.
        device: where the network lies.
        processes: this process among all.
        folder: paths of what the run writes.
        progress: how far it is; changes at every step.
        log: where losses and error rates go.
        data: what is trained on.
        system: encoder and losses.
        average: moving average of the encoder's weights, None for none.
        validator: None without validation.
    """

    config: TrainConfig
    device: torch.device
    processes: Processes
    folder: RunFolder
    progress: Progress
    log: RunLog
    data: TrainingData
    system: TrainingSystem
    average: WeightAverage | None
    validator: Validator | None

    @property
    def encoder(self) -> ReDimNetMRL:
        """The Matryoshka model in training."""
        return self.system.encoder

    def describe_data(self) -> dict[str, Any]:
        """Return what a resumed run must find unchanged."""
        return self.data.corpus.outline()
